"""Stage `compile` in the workspace: candidates of every precision, and alternatives to the chosen one."""

from collections.abc import Mapping
from dataclasses import replace

from pipeline.artifacts import Artifact, Checkpoint, Dialect, Precision
from pipeline.compile.alternatives import others_of, variant_of, why_needless
from pipeline.compile.result import choose, read_compilation
from pipeline.compile.settings import CompileSettings
from pipeline.export.result import read_export
from pipeline.export.stage import export_one
from pipeline.results import Compiled, Exported, Loaded, Quantized
from pipeline.run import Run
from pipeline.workplace import Workplace
from pipeline.workspace.store import Folder
from targets.base_images import tensorrt_for


def compile_models(run: Run, loaded: Loaded, quantized: Quantized, exported: Exported) -> Compiled:
    """Return the candidates, the artifact chosen among them, and its alternatives."""
    compiled = compile_candidates(run, loaded, exported.baseline, exported.models)
    compilation, max_drop = read_compilation(compiled.path), run.recipe.validate_.max_drop
    artifact = choose(compilation, target=run.target, max_drop=max_drop)
    others, made = _saturation_safe(run, loaded, quantized, exported, artifact)
    if run.target.gpu is not None:
        others = others_of(artifact, compilation, fallback=run.fallback, max_drop=max_drop)
    return Compiled(folders=(compiled, *made), compilation=compilation, artifacts=(artifact, *others))


def compile_candidates(
    run: Run,
    loaded: Loaded,
    baseline: Folder,
    models: Mapping[Dialect, Folder],
    *,
    precisions: tuple[Precision, ...] | None = None,
    weight_bits: int | None = None,
) -> Folder:
    """Return candidates of every precision of the target, timed beside the unpruned float baseline."""
    recipe, precisions = run.recipe, precisions or run.precisions
    settings = CompileSettings(
        # Its description has no effect on results.
        target=replace(run.target, description=""),
        name=recipe.name,
        version=recipe.version,
        weight_bits=weight_bits or run.weight_bits,
        threads=recipe.threads,
        tensorrt=tensorrt_for(run.target, recipe.package.base_image),
        dla=recipe.package.dla,
    )

    def work(at: Workplace) -> None:
        from pipeline.compile.compile import compile_candidates as compile_all

        written = {dialect: read_export(folder.path)[dialect] for dialect, folder in models.items()}
        of_precision = dict.fromkeys(Precision, Dialect.FLOAT) | {Precision.INT8: run.target.dialect}
        compile_all(
            {precision: written[of_precision[precision]] for precision in precisions},
            read_export(baseline.path)[Dialect.FLOAT],
            run.data(loaded),
            settings,
            at,
        )

    of_models = {dialect.value: folder for dialect, folder in models.items()}
    inputs = run.with_data(loaded=loaded.folder, baseline=baseline, **of_models)
    return run.obtain("compile", code="pipeline.compile.compile", inputs=inputs, settings=settings, work=work)


def _saturation_safe(
    run: Run, loaded: Loaded, quantized: Quantized, exported: Exported, artifact: Artifact
) -> tuple[tuple[Artifact, ...], tuple[Folder, ...]]:
    """Return the variant, if requested and useful, and the folders it was made in."""
    if not run.recipe.quantize.saturation_safe:
        return (), ()
    needless = why_needless(artifact, run.target, weight_bits=run.weight_bits)
    if needless is not None:
        run.progress.line(f"note: {needless}")
        return (), ()
    folders = compile_saturation_safe(run, loaded, quantized.folder, exported.baseline)
    return (variant_of(artifact, read_compilation(folders[-1].path)),), folders


def compile_saturation_safe(
    run: Run, loaded: Loaded, network: Folder, baseline: Folder
) -> tuple[Folder, Folder, Folder]:
    """Return the folders of the network with 7-bit weights, its ONNX file and its artifact; all in stage `compile`."""

    def work(at: Workplace) -> None:
        from pipeline.quantize.network import derive

        derive(Checkpoint(folder=network.path), at.folder)

    inputs: dict[str, str] = {"network": network.digest}
    narrow = run.obtain("compile", code="pipeline.quantize.network", inputs=inputs, settings={}, work=work)
    dialect = run.target.dialect
    model = export_one(run, loaded, narrow, dialect, stage="compile")
    made = compile_candidates(run, loaded, baseline, {dialect: model}, precisions=(Precision.INT8,), weight_bits=7)
    return narrow, model, made
