"""Stage `prune` in the workspace."""

from dataclasses import replace

from pipeline.latency.stage import pace, stopwatch
from pipeline.prune.settings import PruneSettings
from pipeline.results import Loaded, Pruned
from pipeline.run import Run
from pipeline.workplace import Workplace


def prune(run: Run, loaded: Loaded) -> Pruned:
    """Return the network within the recipe's budget, recovered by distillation."""
    budget = run.recipe.prune
    inputs, asked = run.with_data(loaded=loaded.folder), None
    settings = PruneSettings(seed=run.recipe.seed)
    if budget.prunes:
        # A table is identified by its content, not by its path.
        settings = PruneSettings(
            **budget.model_dump(exclude={"table"}),
            seed=run.recipe.seed,
            channel_multiple=run.target.channel_multiple,
        )
    if budget.by_clock:
        asked, inputs["table"] = pace(run, loaded)
        settings = replace(settings, precision=asked.precision, is_timed=asked.elsewhere is None)

    def work(at: Workplace) -> None:
        from pipeline.prune.prune import prune as prune_network

        watch = None if asked is None else stopwatch(run, loaded, asked)
        prune_network(
            loaded.checkpoint,
            run.data(loaded),
            settings,
            at,
            pace=asked,
            time=None if watch is None else watch.time,
        )

    found = run.obtain("prune", code="pipeline.prune.prune", inputs=inputs, settings=settings, work=work)
    return Pruned(folder=found)
