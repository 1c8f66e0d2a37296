"""Stage `quantize` in the workspace."""

from pipeline.artifacts import Precision
from pipeline.quantize.result import quantization_drop
from pipeline.quantize.settings import QuantizeSettings
from pipeline.results import Loaded, Pruned, Quantized
from pipeline.run import Run
from pipeline.workplace import Workplace
from pipeline.workspace.hashing import Json
from pipeline.workspace.store import Folder


def quantize(run: Run, loaded: Loaded, pruned: Pruned) -> Quantized:
    """Return the quantized network, with layers in float if int8 in all of them would miss the budget."""
    all_int8 = quantize_all(run, loaded, pruned)
    rescued = rescue(run, loaded, pruned, all_int8)
    return Quantized(folder=rescued or all_int8, all_int8=all_int8)


def quantize_all(run: Run, loaded: Loaded, pruned: Pruned) -> Folder:
    """Quantize with only the recipe's layers in float."""
    settings = QuantizeSettings(
        qat_epochs=run.recipe.quantize.qat_epochs,
        weight_bits=7 if run.weight_bits == 7 else 8,
        keep_float=run.recipe.quantize.keep_float,
        seed=run.recipe.seed,
    )

    def work(at: Workplace) -> None:
        from pipeline.quantize.quantize import quantize as quantize_network

        quantize_network(pruned.checkpoint, loaded.checkpoint, run.data(loaded), settings, at)

    inputs = run.with_data(loaded=loaded.folder, pruned=pruned.folder)
    return run.obtain("quantize", code="pipeline.quantize.quantize", inputs=inputs, settings=settings, work=work)


def rescue(run: Run, loaded: Loaded, pruned: Pruned, all_int8: Folder) -> Folder | None:
    """Return the quantized network with the fewest layers in float that meet the budget; None if none are needed."""
    recipe, max_drop = run.recipe, run.recipe.validate_.max_drop
    if recipe.quantize.fallback == "none" or Precision.INT8 not in run.precisions:
        return None
    if quantization_drop(all_int8.path) <= max_drop:
        return None
    timed: Json = {"target": run.target_facts, "threads": recipe.threads} if run.is_timed_here else None

    def work(at: Workplace) -> None:
        from pipeline.artifacts import Checkpoint
        from pipeline.quantize.mixed_precision import Toll
        from pipeline.quantize.mixed_precision import rescue as rescue_network

        network = Checkpoint(folder=all_int8.path)
        toll = Toll(checkpoint=network, target=run.target, threads=recipe.threads, progress=at.progress)
        rescue_network(
            network,
            pruned.checkpoint,
            run.dataset,
            loaded.preprocessing,
            max_drop=max_drop,
            toll=toll if run.is_timed_here else None,
            progress=at.progress,
            folder=at.folder,
        )

    return run.obtain(
        "quantize",
        code="pipeline.quantize.mixed_precision",
        inputs=run.with_data(loaded=loaded.folder, pruned=pruned.folder, quantized=all_int8),
        settings={"max_drop": max_drop, "timed": timed},
        work=work,
    )
