"""Stage `export` in the workspace."""

from pipeline.artifacts import Checkpoint, Dialect
from pipeline.results import Exported, Loaded, Pruned, Quantized
from pipeline.run import Run
from pipeline.workplace import Workplace
from pipeline.workspace.hashing import Json
from pipeline.workspace.store import Folder


def export(run: Run, loaded: Loaded, pruned: Pruned, quantized: Quantized) -> Exported:
    """Return ONNX files in the target's dialects, and one of the unchanged float network.

    The int8 file is of the quantized network, the float file of the network before it: weights trained for int8 do not
    belong in a float network.
    """
    unquantized = pruned.folder if run.recipe.prune.prunes else loaded.folder
    baseline = export_one(run, loaded, loaded.folder, Dialect.FLOAT)
    models = {
        dialect: export_one(run, loaded, unquantized if dialect is Dialect.FLOAT else quantized.folder, dialect)
        for dialect in run.dialects
    }
    return Exported(baseline=baseline, models=models)


def export_one(run: Run, loaded: Loaded, network: Folder, dialect: Dialect, *, stage: str = "export") -> Folder:
    """Export one network in one dialect; also used for networks derived in stage `compile`."""

    def work(at: Workplace) -> None:
        from pipeline.export.export import export as export_network

        export_network(
            Checkpoint(folder=network.path),
            run.dataset,
            loaded.preprocessing,
            dialects=(dialect,),
            progress=at.progress,
            folder=at.folder,
        )

    inputs = run.with_data(loaded=loaded.folder, network=network)
    settings: dict[str, Json] = {"dialects": [dialect.value]}
    return run.obtain(stage, code="pipeline.export.export", inputs=inputs, settings=settings, work=work)
