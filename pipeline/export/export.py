"""Export: one ONNX file per dialect, each compared with the PyTorch model on real images."""

from collections.abc import Container
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto
from torch import fx

from pipeline.artifacts import Checkpoint, Dialect, OnnxModel, Parity, Precision, Quantization
from pipeline.data.readers import Dataset
from pipeline.data.sampling import pixels_of, spread
from pipeline.errors import ExportError
from pipeline.export.parity import check_parity, parity_images
from pipeline.export.result import write_export
from pipeline.models.checkpoint import build_network
from pipeline.models.folding import trace_folded
from pipeline.progress import Progress
from pipeline.quantize.marked_graph import export_marked
from pipeline.quantize.network import build_quantized
from targets.device.model.preprocess import Preprocessing, normalize
from targets.dialects.tensorrt_rules import check_rules
from targets.dialects.write import layer_names, write_dialect


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

    Input `images` float32 [batch, 3, H, W], output `logits` float32 [batch, classes]. Raises `ExportError` if a
    file is not valid ONNX, breaks TensorRT's rules or does not compute what PyTorch computes.
    """
    network, quantization = _network_of(checkpoint)
    models = []
    with progress.task("export", 1 + len(dialects)) as advance:
        progress.detail(f"exporting {checkpoint.architecture.name} to ONNX")
        marked = export_marked(network, checkpoint.architecture.input_shape)
        images = _parity_images(dataset, preprocessing)
        advance()
        for dialect in dialects:
            written = write_dialect(marked, quantization, dialect)
            path = folder / f"{dialect}.onnx"
            if dialect is Dialect.TENSORRT and quantization is not None:
                check_rules(written, path.name, planned=quantization.weights)
            _save_checked(written, path)
            progress.detail(f"comparing {path.name} with PyTorch on {len(images)} images")
            parity = check_parity(network, path, dialect, images)
            models.append(_describe(path, dialect, parity, layer_names(written), quantization))
            advance()
    write_export(models, folder)


def _network_of(checkpoint: Checkpoint) -> tuple[fx.GraphModule, Quantization | None]:
    if checkpoint.is_quantized:
        return build_quantized(checkpoint), checkpoint.quantization
    return trace_folded(build_network(checkpoint)), None


def _parity_images(dataset: Dataset, preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Return real images float32 [N, 3, H, W] of the selection split; the gate's are reserved for the gate."""
    first = pixels_of(dataset.selection, [0], preprocessing)
    indices = spread(len(dataset.selection), parity_images(first.shape[1:3]))
    return normalize(pixels_of(dataset.selection, indices, preprocessing), preprocessing)


def _save_checked(model: ModelProto, path: Path) -> None:
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            f"{path.name} is not valid ONNX: {error}. This is a bug in Edge Deploy; please report it."
        ) from None
    onnx.save(model, path)


def _describe(
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
