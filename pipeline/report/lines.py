"""One line per stage: its result, in figures."""

from collections.abc import Sequence

from pipeline.artifacts import AccuracyReport, Artifact, Checkpoint, Cost, Fallback, Image, Place, TimeBudgetResult
from pipeline.devices.delivered import Delivered
from pipeline.export.result import parity_text, read_export
from pipeline.latency.budget_check import timeliness_text
from pipeline.load.baseline import read_baseline
from pipeline.quantize.result import FloatLayer, Rescue
from pipeline.results import Compiled, Exported, Loaded, Packaged, Validated
from pipeline.validate.packaging_rule import verdict_text

STAGE_WIDTH = 10


def stage_line(stage: str, facts: str, *, seconds: float, was_cached: bool) -> str:
    """Return `quantize    7-bit weights, 2 epochs   12.1 s`, or `done before` instead of the time."""
    took = "done before" if was_cached else f"{seconds:.1f} s"
    return f"{stage:<{STAGE_WIDTH}}{facts}   {took}"


def second_line(facts: str) -> str:
    """Return an additional line for the same stage."""
    return f"{'':<{STAGE_WIDTH}}{facts}"


def cost_text(cost: Cost) -> str:
    return f"{cost.parameters:,} parameters, {cost.macs / 1e6:,.1f} M MACs"


def load_text(loaded: Loaded, *, expected: float | None) -> str:
    checkpoint, baseline = loaded.checkpoint, read_baseline(loaded.folder.path).text(expected)
    return f"{checkpoint.architecture.name}, {cost_text(checkpoint.cost)}, {baseline}"


def prune_text(before: Cost, after: Cost) -> str:
    if before == after:
        return "nothing to prune"
    return (
        f"MACs {before.macs / 1e6:,.1f} M -> {after.macs / 1e6:,.1f} M ({after.macs / before.macs:.0%}), "
        f"parameters {before.parameters:,} -> {after.parameters:,} ({after.parameters / before.parameters:.0%})"
    )


def quantize_text(checkpoint: Checkpoint) -> str:
    quantization = checkpoint.quantization
    kept = f", {len(quantization.float_layers)} layers kept in float" if quantization.float_layers else ""
    return f"{len(quantization.weights)} layers, {quantization.weight_bits}-bit weights, 8-bit activations{kept}"


def rescue_texts(found: Rescue | None) -> list[str]:
    """Return why layers are in float, and the gain and cost of each."""
    if found is None:
        return []
    lost = (
        f"int8 in every layer loses {found.int8_drop_points:.2f} points on the {found.images} images of the selection "
        f"split, {found.max_drop:g} allowed"
    )
    if not found.layers:
        return [f"{lost}; even half of the layers in float would not suffice, so none is"]
    number = f"{len(found.layers)} layer{'s' if len(found.layers) > 1 else ''}"
    took = ""
    if found.int8_ms is not None and found.mixed_ms is not None:
        took = f", {found.int8_ms:.3g} -> {found.mixed_ms:.3g} ms CPU time"
    return [
        f"{lost}; with {number} in float {found.drop_points:.2f}{took}:",
        *(f"  {float_layer_text(layer)}" for layer in found.layers),
    ]


def float_layer_text(layer: FloatLayer) -> str:
    cost = "time not measured" if layer.cost_ms is None else f"costs {layer.cost_ms:+.3f} ms"
    return f"{layer.name} in float: saves {layer.gain_points:.2f} points, {cost}"


def export_texts(exported: Exported) -> list[str]:
    """Return one text for each file that the target reads."""
    found = [read_export(folder.path)[dialect] for dialect, folder in exported.models.items()]
    return [f"{model.dialect} dialect and PyTorch: {parity_text(model.parity)}" for model in found]


def compile_texts(compiled: Compiled, timeliness: TimeBudgetResult | None, *, fallback: Fallback) -> list[str]:
    """Return texts about the artifact, its alternatives, and the requested time."""
    texts = [compile_text(each) for each in compiled.artifacts]
    if fallback == "fastest" and len(texts) == 1:
        precision = compiled.artifact.precision
        texts.append(f"no precision besides {precision} is within the budget: nothing is timed against it")
    return texts if timeliness is None else [*texts, timeliness_text(timeliness)]


def compile_text(artifact: Artifact) -> str:
    audit = artifact.candidate.audit
    if audit is None:
        return f"{artifact.reason}; its engine reports on the device which layers run in int8"
    return f"{artifact.reason}; {audit.int8_nodes} Conv and Gemm in int8, {audit.float_nodes} in float"


def verdict_texts(validated: Validated) -> list[str]:
    """Return the verdicts on the artifact and its alternatives."""
    others = [f"{each.name}: {verdict_text(each.report)}" for each in validated.alternatives]
    return [verdict_text(validated.main.report), *others]


def package_texts(packaged: Packaged, validated: Validated, *, fallback: Fallback) -> list[str]:
    """Return texts about the image, or its build context."""
    if packaged.context is not None:
        return [_pending_text(packaged, validated, fallback), packaged.words]
    assert packaged.image is not None
    main = packaged.models[0]
    others = [f"{each.name}: in the image, gives the same answers" for each in packaged.models[1:]]
    return [_image_text(packaged.image, main.report, is_same=main.artifact.place is Place.HOST), *others]


def _pending_text(packaged: Packaged, validated: Validated, fallback: Fallback) -> str:
    """Return a text about an image without an engine yet, and its origin."""
    image = packaged.image
    made = f"build context {packaged.context}" if image is None else f"{image.tag}, {image.bytes / 1e6:,.0f} MB"
    if fallback == "fastest" and validated.alternatives:
        every = ", ".join(each.artifact.precision for each in validated.models)
        return f"pending: {made}, whose engines ({every}) are built, proven and timed at its first start"
    return f"pending: {made}, whose engine is built and proven at its first start"


def _image_text(image: Image, report: AccuracyReport, *, is_same: bool) -> str:
    """Return the proof by the host's answers or, on a host of another platform, by its own gate."""
    size = f"{image.tag}, {image.bytes / 1e6:,.0f} MB"
    if is_same:
        return f"{size}, gives the artifact's answers"
    return f"{size}, {report.place} on {report.instruction_set}: {verdict_text(report)}"


def delivered_text(devices: Sequence[Delivered]) -> str:
    """Return how many devices have their proven image, and which do not."""
    failed = [each.device.name for each in devices if each.error is not None]
    proven = f"{len(devices) - len(failed)} of {len(devices)} devices have their proven image"
    return f"package   {proven}" + (f"; without: {', '.join(failed)}" if failed else "")
