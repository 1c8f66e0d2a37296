"""Quantize: calibrate ranges on training images, then train on the target's grid.

Ranges are measured once (`Histogram`) and fixed; weights and biases adapt to them by distillation from the
float model. Training uses ONNX Runtime's grid. TensorRT's differs by one bit for tensors without negative
values and by one rounding per residual block; no difference in accuracy between the two was measured.

Training must improve the network: if afterwards it is farther from the float model on the selection split than after
calibration alone, or has fewer correct answers, the calibrated weights are kept.
"""

import json
from dataclasses import asdict, replace

import numpy as np
from numpy.typing import NDArray
from torch import fx, nn

from pipeline.artifacts import Checkpoint
from pipeline.data.batches import Batches
from pipeline.data.sampling import count_right, spread
from pipeline.errors import CompressionError
from pipeline.models.checkpoint import build_network, save_network
from pipeline.models.folding import unfold
from pipeline.progress import Progress
from pipeline.quantize.fake_quant import Mode, set_mode
from pipeline.quantize.network import points_of, prepare, quantization_of
from pipeline.quantize.result import FACTS
from pipeline.quantize.settings import QuantizeSettings
from pipeline.training.evaluation import divergence, logits_of
from pipeline.training.loop import Training, seed_everything
from pipeline.training.loss import Distillation
from pipeline.workplace import Data, Workplace
from pipeline.workspace.hashing import Json

CALIBRATION_IMAGES = 512
"""Spread over the training images; ranges of ResNets are stable with fewer."""
LEARNING_RATE = 1e-3
"""A tenth of a usual fine-tuning rate, because batch normalization is folded."""
BATCH_SIZE = 64


def quantize(
    checkpoint: Checkpoint,
    original: Checkpoint,
    data: Data,
    settings: QuantizeSettings,
    at: Workplace,
) -> None:
    """Write the network of `checkpoint` with new weights, `quantization.json` and `quantize.json`.

    `original`, the unchanged float network, is the teacher. Raises `RecipeError` for a name in `keep_float` that is
    not a layer, `CompressionError` if the network cannot be traced or the loss diverges.
    """
    weight_bits, keep_float = settings.weight_bits, settings.keep_float
    seed_everything(settings.seed)
    network = build_network(checkpoint)
    teacher = build_network(original)
    quantized = prepare(network, weight_bits=weight_bits, keep_float=keep_float)
    calibrate(quantized, data, progress=at.progress)
    facts = train(quantized, teacher, data, epochs=settings.qat_epochs, seed=settings.seed, at=at)
    quantization = quantization_of(quantized, weight_bits=weight_bits, float_layers=keep_float)
    unfold(network, quantized)
    save_network(network, checkpoint.architecture, at.folder)
    (at.folder / "quantization.json").write_text(quantization.to_json())
    (at.folder / FACTS).write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")


def calibrate(quantized: fx.GraphModule, data: Data, *, progress: Progress) -> None:
    """Measure the range of every point on training images, in float."""
    training = data.dataset.training
    images = training.subset(spread(len(training), CALIBRATION_IMAGES))
    set_mode(quantized, Mode.CALIBRATE)
    progress.detail(f"calibrating {len(points_of(quantized))} tensors on {len(images)} training images")
    logits_of(quantized, Batches(images, data.preprocessing), progress=progress, name="calibration")
    for point in points_of(quantized):
        if not point.histogram.is_finite:
            raise CompressionError(
                f"the activations at {point.name} are not finite, so they have no range. "
                "Check that weights and preprocessing belong together."
            )
        point.range = point.histogram.best_range(post_relu=point.post_relu)


def train(
    quantized: fx.GraphModule,
    teacher: nn.Module,
    data: Data,
    *,
    epochs: int,
    seed: int,
    at: Workplace,
) -> dict[str, object]:
    """Train in place; return results of calibration and training on the selection split.

    `divergence` is the mean Kullback-Leibler divergence of the answers from the teacher's, `right` the correct
    answers; `float` is the network before its weights were quantized or trained.
    """
    selection, progress = Batches(data.dataset.selection, data.preprocessing), at.progress
    wanted = logits_of(teacher, selection, progress=progress, name="float answers")
    set_mode(quantized, Mode.FLOAT)
    before = logits_of(quantized, selection, progress=progress, name="answers before")
    set_mode(quantized, Mode.ONNXRUNTIME)
    calibrated = logits_of(quantized, selection, progress=progress, name="answers in int8")
    by_calibration = _facts(calibrated, wanted, selection)
    facts: dict[str, object] = {
        "images": len(selection.images),
        "float": _facts(before, wanted, selection),
        "calibrated": by_calibration,
        "trained": None,
        "kept": "calibrated",
    }
    if epochs == 0:
        return facts
    if at.continuation is not None:
        # Ranges are calibrated again and not saved: weights trained with other ranges must not be resumed.
        ranges: Json = {point.name: asdict(point.known_range()) for point in points_of(quantized)}
        at = replace(at, continuation=at.continuation.bound_to(ranges))
    weights = {name: value.detach().clone() for name, value in quantized.state_dict().items()}
    fit_on_grid(quantized, teacher, data, epochs=epochs, seed=seed, at=at)
    trained = logits_of(quantized, selection, progress=progress, name="answers in int8")
    by_training = _facts(trained, wanted, selection)
    facts["trained"] = by_training
    harm = _what_got_worse(by_calibration, by_training)
    if harm is None:
        facts["kept"] = "trained"
    else:
        quantized.load_state_dict(weights)
        progress.line(f"quantization-aware training is not used, calibration alone is better: {harm}")
    return facts


def _what_got_worse(calibrated: dict[str, float], trained: dict[str, float]) -> str | None:
    """Return what training made worse on the selection split; None if neither divergence nor accuracy got worse."""
    worse = []
    if trained["divergence"] > calibrated["divergence"]:
        worse.append(f"divergence from the float model {calibrated['divergence']:.3g} -> {trained['divergence']:.3g}")
    if trained["right"] < calibrated["right"]:
        worse.append(f"correct answers {calibrated['right']:.0f} -> {trained['right']:.0f}")
    return "; ".join(worse) or None


def fit_on_grid(
    quantized: fx.GraphModule,
    teacher: nn.Module,
    data: Data,
    *,
    epochs: int,
    seed: int,
    at: Workplace,
) -> None:
    """Train the calibrated network in place on ONNX Runtime's grid to answer as `teacher` does."""
    set_mode(quantized, Mode.ONNXRUNTIME)
    images, preprocessing = data.dataset, data.preprocessing
    training = Training(
        network=quantized,
        batches=Batches(images.training, preprocessing, batch_size=BATCH_SIZE, seed=seed, shuffle=True, augment=True),
        epochs=epochs,
        learning_rate=LEARNING_RATE,
        loss=Distillation(teacher),
        frozen_statistics=True,
        mixed_precision=False,
        name="quantization-aware training",
    )
    training.fit(at, selection=Batches(images.selection, preprocessing))


def _facts(logits: NDArray[np.float32], wanted: NDArray[np.float32], selection: Batches) -> dict[str, float]:
    right = count_right(logits, selection.images.labels)
    return {"divergence": divergence(logits, wanted), "right": right, "top1": right / len(logits)}
