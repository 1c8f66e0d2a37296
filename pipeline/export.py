"""Export: one ONNX file per dialect, each compared with the PyTorch model on real images before it goes on."""

from collections.abc import Container
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto
from torch import fx

from pipeline.artifacts import Checkpoint, Dialect, OnnxModel, Parity, Precision, Quantization
from pipeline.checkpoint import build_network
from pipeline.data.dataset import Dataset
from pipeline.errors import ExportError
from pipeline.exported import write_export
from pipeline.fakequant import Mode, set_mode
from pipeline.folding import trace_folded
from pipeline.marked import export_marked
from pipeline.narration import parity_text
from pipeline.progress import Progress
from pipeline.quantized import build_quantized
from pipeline.selection import pixels_of, spread
from targets.device.errors import SessionError
from targets.device.ort_session import OnnxRuntimeSession
from targets.device.preprocess import Preprocessing, normalize
from targets.dialects import layer_names, write_dialect
from targets.runtimes.trt_rules import check_rules

PARITY_IMAGES = 256
BATCH = 32
MODES = {
    Dialect.FLOAT: Mode.FLOAT,
    Dialect.ONNXRUNTIME: Mode.ONNXRUNTIME,
    Dialect.TENSORRT: Mode.TENSORRT,
}
# Largest mean difference of a logit, in shares of the logits' range. Float graphs differ by the order of sums alone.
# Integers: a value on the edge between two steps falls either way and moves what follows by a step; measured on
# ResNet-20 to ResNet-50 that is at most 0.0005.
FLOAT_MEAN, INTEGER_MEAN = 1e-5, 2e-3
# An image whose best class leads by this share of the range is not decided by rounding; of those, so many agree.
CLEAR_LEAD = 0.05
LEAST_AGREEMENT = 0.995


def export(
    checkpoint: Checkpoint,
    dataset: Dataset,
    preprocessing: Preprocessing,
    *,
    dialects: tuple[Dialect, ...],
    progress: Progress,
    folder: Path,
) -> None:
    """Write `<dialect>.onnx` for each dialect and `export.json` into `folder`.

    Input `images` float32 [batch, 3, H, W], output `logits` float32 [batch, classes]. Raises `ExportError` where a
    file is not valid ONNX, breaks TensorRT's rules or does not compute what PyTorch computes.
    """
    network, quantization = _network_of(checkpoint)
    progress.detail(f"exporting {checkpoint.architecture.name} to ONNX")
    marked = export_marked(network, checkpoint.architecture.input_shape)
    images = _parity_images(dataset, preprocessing)
    models = []
    with progress.task("export", len(dialects)) as advance:
        for dialect in dialects:
            written = write_dialect(marked, quantization, dialect)
            path = folder / f"{dialect}.onnx"
            if dialect is Dialect.TENSORRT and quantization is not None:
                check_rules(written, path.name, planned=quantization.weights)
            _save_checked(written, path)
            parity = measure_parity(network, path, dialect, images)
            check_parity(parity, path, dialect)
            models.append(_described(path, dialect, parity, layer_names(written), quantization))
            advance()
    write_export(models, folder)


def measure_parity(network: fx.GraphModule, path: Path, dialect: Dialect, images: NDArray[np.float32]) -> Parity:
    """Run both on `images` [N, 3, H, W]: PyTorch on the dialect's grid, the file in ONNX Runtime.

    A TensorRT file runs unoptimized, as the reference of its arithmetic; TensorRT itself is not asked here.
    """
    options = {"graph_optimization_level": "disable" if dialect is Dialect.TENSORRT else "all"}
    try:
        with OnnxRuntimeSession(path, options) as session:
            found = session.infer(images)
    except SessionError as error:
        raise ExportError(str(error)) from None
    set_mode(network, MODES[dialect])
    batches = [torch.from_numpy(images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
    with torch.inference_mode():
        wanted = np.concatenate([network(batch).numpy() for batch in batches])
    return compare(wanted, found)


def compare(wanted: NDArray[np.float32], found: NDArray[np.float32]) -> Parity:
    """Two models' logits [N, C] of the same images; `wanted` is PyTorch's."""
    if found.shape != wanted.shape:
        raise ExportError(f"the ONNX file answers {list(found.shape)}, PyTorch {list(wanted.shape)}.")
    difference = np.abs(found.astype(np.float64) - wanted)
    span = float(np.ptp(wanted))
    ordered = np.sort(wanted, axis=1)
    lead = ordered[:, -1] - ordered[:, -2] if wanted.shape[1] > 1 else np.full(len(wanted), np.inf)
    agree = found.argmax(axis=1) == wanted.argmax(axis=1)
    clear = lead >= CLEAR_LEAD * span
    return Parity(
        images=len(wanted),
        max_abs_difference=float(difference.max()),
        mean_abs_difference=float(difference.mean()),
        logit_range=span,
        argmax_agreement=float(agree.mean()),
        clear_agreement=float(agree[clear].mean()) if clear.any() else 1.0,
    )


def check_parity(parity: Parity, path: Path, dialect: Dialect) -> None:
    """Raise `ExportError` where the difference is more than rounding explains."""
    limit = (FLOAT_MEAN if dialect is Dialect.FLOAT else INTEGER_MEAN) * parity.logit_range
    # Written so that a difference that is no number fails, too.
    if parity.mean_abs_difference <= limit and parity.clear_agreement >= LEAST_AGREEMENT:
        return
    raise ExportError(
        f"{path.name} does not compute what PyTorch computes: {parity_text(parity)}; mean difference "
        f"{parity.mean_abs_difference:.3g}, at most {limit:.3g} is rounding. If this CPU has no VNNI, 8-bit weights "
        "may saturate in its int8 kernels: set weight_bits = 7 in [quantize]. Otherwise please report this."
    )


def _network_of(checkpoint: Checkpoint) -> tuple[fx.GraphModule, Quantization | None]:
    if checkpoint.is_quantized:
        return build_quantized(checkpoint), checkpoint.quantization
    return trace_folded(build_network(checkpoint)), None


def _parity_images(dataset: Dataset, preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Real images float32 [N, 3, H, W]; of the selection split, since the gate's serve nothing else."""
    indices = spread(len(dataset.selection), PARITY_IMAGES)
    return normalize(pixels_of(dataset.selection, indices, preprocessing), preprocessing)


def _save_checked(model: ModelProto, path: Path) -> None:
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            f"{path.name} is not valid ONNX: {error}. This is a bug of ours; please report it."
        ) from None
    onnx.save(model, path)


def _described(
    path: Path, dialect: Dialect, parity: Parity, layers: tuple[str, ...], quantization: Quantization | None
) -> OnnxModel:
    in_int8: Container[str] = () if quantization is None or dialect is Dialect.FLOAT else quantization.weights
    return OnnxModel(
        path=path,
        dialect=dialect,
        precision=Precision.FP32 if dialect is Dialect.FLOAT else Precision.INT8,
        parity=parity,
        quantized_layers=tuple(name for name in layers if name in in_int8),
        float_layers=tuple(name for name in layers if name not in in_int8),
    )
