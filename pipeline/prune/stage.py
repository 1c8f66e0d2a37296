"""Stage `prune` in the workspace."""

from pipeline.latency.stage import pace, stopwatch
from pipeline.results import Loaded, Pruned
from pipeline.run import Run
from pipeline.workplace import Workplace
from pipeline.workspace.hashing import Json


def prune(run: Run, loaded: Loaded) -> Pruned:
    """The network within the recipe's budget, recovered by distillation."""
    budget = run.recipe.prune
    settings: dict[str, Json] = {"seed": run.recipe.seed}
    inputs, asked = run.with_data(loaded=loaded.folder), None
    if budget.prunes:
        # A table counts by what is in it, not by where it lies.
        settings |= budget.model_dump(mode="json", exclude={"table"})
        settings["channel_multiple"] = run.target.channel_multiple
    if budget.by_clock:
        asked, inputs["table"] = pace(run, loaded)
        # Where the table's times can be confirmed, they are, and decide.
        settings |= {"precision": asked.precision, "is_timed": asked.elsewhere is None}

    def work(at: Workplace) -> None:
        from pipeline.prune.prune import prune as prune_network

        watch = None if asked is None else stopwatch(run, loaded, asked)
        prune_network(
            loaded.checkpoint,
            run.dataset,
            loaded.preprocessing,
            recipe=budget,
            channel_multiple=run.target.channel_multiple,
            seed=run.recipe.seed,
            progress=at.progress,
            folder=at.folder,
            continuation=at.continuation,
            processes=at.processes,
            pace=asked,
            time=None if watch is None else watch.time,
        )

    found = run.obtain("prune", code="pipeline.prune.prune", inputs=inputs, settings=settings, work=work)
    return Pruned(folder=found)
