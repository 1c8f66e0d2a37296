"""Content of an export folder: one ONNX file per dialect, and the facts about each."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.artifacts import Dialect, OnnxModel, Parity, Precision
from pipeline.errors import WorkspaceError

EXPORTED = "export.json"
SCHEMA = 2


def parity_text(parity: Parity) -> str:
    logits = f"logits differ by up to {parity.max_abs_difference:.2g}, range {parity.logit_range:.3g}"
    if parity.tensors == 0:
        return f"{logits}, on {parity.images} images, {parity.float_error:.2g} times the error of PyTorch's float32"
    disturbed = "" if parity.is_undisturbed else "; ONNX Runtime fuses other nodes while its integers are read"
    return (
        f"equal up to rounding at {parity.tensors} tensors on {parity.images} images (at most "
        f"{parity.largest_distance:.4f} steps; layer by layer, on the file's own integers), {logits}{disturbed}"
    )


def write_export(models: Iterable[OnnxModel], folder: Path) -> None:
    """Write the facts of `models`, whose files are in `folder`."""
    listed = [{**asdict(model), "path": model.path.name} for model in models]
    text = json.dumps({"schema": SCHEMA, "models": listed}, indent=1, sort_keys=True)
    (folder / EXPORTED).write_text(text + "\n")


def read_export(folder: Path) -> dict[Dialect, OnnxModel]:
    """Return the models of an export folder; raise `WorkspaceError` if it is damaged."""
    try:
        models = [_model(folder, raw) for raw in json.loads((folder / EXPORTED).read_text())["models"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WorkspaceError(f"{folder} is damaged ({error!r}). Remove it and run again.") from None
    return {model.dialect: model for model in models}


def _model(folder: Path, facts: dict[str, Any]) -> OnnxModel:
    return OnnxModel(
        path=folder / facts["path"],
        dialect=Dialect(facts["dialect"]),
        precision=Precision(facts["precision"]),
        parity=Parity(**facts["parity"]),
        quantized_layers=tuple(facts["quantized_layers"]),
        float_layers=tuple(facts["float_layers"]),
    )
