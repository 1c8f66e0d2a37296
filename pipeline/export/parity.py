"""Check that an ONNX file computes the same as PyTorch, layer by layer.

The float file is compared with PyTorch in float64, and may differ from it as much as float32 arithmetic does.

In an integer file a value between two steps can round either way just by the order of sums, and shifts what follows by
a step. After fifty layers this affects a third of all values: no bound on the logits separates it from a fault.
Therefore each layer is compared by itself. The file's integers at every quantization point are read; PyTorch computes
each layer from the file's own integers before it; and every integer after it must be PyTorch's number, rounded:

    file      q0 ── layer ── q1 ── layer ── q2          PyTorch     q0 ── layer ── v1    |v1 - q1| <= 1/2 step
                                                                    q1 ── layer ── v2    |v2 - q2| <= 1/2 step

So errors do not accumulate, and the bound holds for any depth, widths and scale of the logits.
"""

import copy
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from pipeline.artifacts import Dialect, Parity
from pipeline.errors import ExportError
from pipeline.models.folding import is_layer, module_of
from pipeline.quantize.fake_quant import Mode, Point, set_mode
from pipeline.training.evaluation import to_device_of
from pipeline.training.microbatches import micro_batch_size
from targets.device.errors import SessionError
from targets.dialects.grids import activation_grid
from targets.runtimes.onnxruntime.intermediate_values import Exposed, Integers, run_exposed

MAX_IMAGES = 64
TOLERANCE = 0.01
"""Steps beyond the half step of rounding, for differences of float32 sums between PyTorch and the file. A hundred
times the value measured on a half-width ResNet-50, and small enough to detect one channel's scale off by 1 %."""
FLOAT_ERRORS = 30
"""Allowed error of a float file against float64, as a multiple of PyTorch float32's error."""
MIN_FLOAT_ERROR = 1e-7
"""Floor of the float32 error, relative to the largest logit: PyTorch may happen to be exact."""
LOGITS = 1e-4
"""Largest difference of an integer file's logits, computed from its own integers, relative to the largest logit."""
MAX_SHOWN = 4

LEVELS = {Dialect.FLOAT: ("all",), Dialect.ONNXRUNTIME: ("disable", "all"), Dialect.TENSORRT: ("disable",)}
"""ONNX Runtime's optimization levels. Unoptimized, the file runs node by node as ONNX defines it; that is the
reference for TensorRT, which is not run here. ONNX Runtime's own file is compared with fusions too: some fusions
ignore attributes, such as the axis of a weight's scales."""
MODES = {Dialect.FLOAT: Mode.FLOAT, Dialect.ONNXRUNTIME: Mode.ONNXRUNTIME, Dialect.TENSORRT: Mode.TENSORRT}


def parity_images(image_size: tuple[int, int]) -> int:
    """Return the number of images of this height and width to compare: one forward pass, 64 at most."""
    return min(MAX_IMAGES, micro_batch_size(image_size))


def check_parity(network: fx.GraphModule, path: Path, dialect: Dialect, images: NDArray[np.float32]) -> Parity:
    """Compare the file at `path` with `network` on `images` [N, 3, H, W].

    Raises `ExportError` with the names of the layers that differ by more than rounding.
    """
    if dialect is Dialect.FLOAT:
        return _check_float(network, path, images)
    found = [_check_integers(network, path, dialect, images, level) for level in LEVELS[dialect]]
    return max(found, key=lambda parity: parity.largest_distance)


def _run(path: Path, images: NDArray[np.float32], level: str) -> Exposed:
    try:
        return run_exposed(path, images, {"graph_optimization_level": level})
    except SessionError as error:
        raise ExportError(str(error)) from None


def _check_float(network: fx.GraphModule, path: Path, images: NDArray[np.float32]) -> Parity:
    found = _run(path, images, *LEVELS[Dialect.FLOAT]).logits
    set_mode(network, MODES[Dialect.FLOAT])
    batch = torch.from_numpy(images)
    with torch.inference_mode():
        single = network(to_device_of(batch, network)).numpy()
        exact = copy.deepcopy(network).double()(batch.double()).numpy()
    _check_shape(found, exact, path)
    own = max(float(np.abs(single - exact).mean()), MIN_FLOAT_ERROR * float(np.abs(exact).max()))
    ratio = float(np.abs(found - exact).mean()) / own if own > 0 else 0.0
    parity = Parity(
        images=len(images),
        tensors=0,
        largest_distance=0.0,
        float_error=ratio,
        max_abs_difference=float(np.abs(found - exact).max()),
        logit_range=float(np.ptp(exact)),
        is_undisturbed=True,
    )
    # Written so that NaN fails too.
    if ratio <= FLOAT_ERRORS:
        return parity
    raise ExportError(
        f"{path.name} does not compute the same as PyTorch: on {len(images)} images its logits differ from float64 "
        f"by up to {parity.max_abs_difference:.3g}, on average {ratio:.3g} times the error of PyTorch's float32; "
        f"up to {FLOAT_ERRORS} times is rounding. This is a bug in Edge Deploy or the exporter; please report it."
    )


def _check_integers(
    network: fx.GraphModule, path: Path, dialect: Dialect, images: NDArray[np.float32], level: str
) -> Parity:
    exposed = _run(path, images, level)
    set_mode(network, MODES[dialect])
    replay = _Replay(network, dialect, exposed.integers)
    with torch.inference_mode():
        wanted = replay.run(to_device_of(torch.from_numpy(images), network)).numpy()
    _check_shape(exposed.logits, wanted, path)
    faults = replay.faults()
    difference = float(np.abs(exposed.logits - wanted).max())
    if not difference <= LOGITS * float(np.abs(wanted).max()):
        limit = LOGITS * float(np.abs(wanted).max())
        layers = ", ".join(replay.last_layers)
        faults.append(f"{layers}: the logits differ by {difference:.3g}; rounding explains {limit:.3g} at most")
    if not faults:
        return Parity(
            images=len(images),
            tensors=len(replay.compared),
            largest_distance=max(place.distance for place in replay.compared),
            float_error=0.0,
            max_abs_difference=difference,
            logit_range=float(np.ptp(wanted)),
            is_undisturbed=exposed.is_undisturbed,
        )
    fused = "as ONNX Runtime fuses it" if level == "all" else "run node by node"
    shown = "".join(f"\n  {fault}" for fault in faults[:MAX_SHOWN])
    more = f"\n  and {len(faults) - MAX_SHOWN} more places" if len(faults) > MAX_SHOWN else ""
    raise ExportError(
        f"{path.name}, {fused}, does not compute the same as PyTorch on {len(images)} images, each layer fed with "
        f"the file's own integers:{shown}{more}\nIf this CPU has no VNNI, 8-bit weights may saturate in its int8 "
        "kernels: set weight_bits = 7 in [quantize]. Otherwise please report this."
    )


def _check_shape(found: NDArray[Any], wanted: NDArray[Any], path: Path) -> None:
    if found.shape != wanted.shape:
        raise ExportError(f"{path.name} returns logits of shape {list(found.shape)}, PyTorch {list(wanted.shape)}.")


@dataclass(frozen=True, kw_only=True)
class _Place:
    """One quantization point, and the difference between the file's integers and PyTorch's numbers there."""

    label: str
    layers: tuple[str, ...]
    """Conv2d and Linear modules between this point and the points before it."""
    distance: float
    """Largest difference between an integer and PyTorch's number, in steps."""
    beyond: float
    """Share of values that differ by more than rounding explains."""

    @property
    def is_right(self) -> bool:
        return self.distance <= 0.5 + TOLERANCE

    def __str__(self) -> str:
        by = f" (by {', '.join(self.layers)})" if self.layers and self.layers != (self.label,) else ""
        return f"{self.label}{by}: {self.beyond:.2%} of the values differ, by up to {self.distance:.3g} steps"


class _Replay(fx.Interpreter):
    """Interpreter that replaces the network's values with the file's integers at every quantization point."""

    def __init__(self, network: fx.GraphModule, dialect: Dialect, integers: Mapping[str, Integers]) -> None:
        super().__init__(network)
        self._network, self._dialect, self._integers = network, dialect, integers
        self._calls: Counter[str] = Counter()
        self._known: set[str] = set()
        self.compared: list[_Place] = []
        self._missing: list[str] = []

    def run_node(self, n: fx.Node) -> Any:
        point = module_of(n, self._network)
        if not isinstance(point, Point):
            return super().run_node(n)
        values, tensorrt = self.fetch_args_kwargs_from_env(n)[0]
        if self._dialect is Dialect.TENSORRT and not tensorrt:
            return values
        # Pooling and reshaping apply the same grid again; the files number these points.
        again = self._calls[point.name]
        self._calls[point.name] += 1
        return self._replace_values(point, point.name if again == 0 else f"{point.name}.{again}", values, n)

    @property
    def last_layers(self) -> tuple[str, ...]:
        """Layers that compute the logits from the last points."""
        return self._layers_behind(next(node for node in self._network.graph.nodes if node.op == "output"))

    def faults(self) -> list[str]:
        """Return the faults as text, in the order of the graph."""
        unknown = [label for label in self._integers if label not in self._known]
        return [
            *(f"{label}: the file does not quantize it" for label in self._missing),
            *(str(place) for place in self.compared if not place.is_right),
            *(f"{label}: the file quantizes it, PyTorch does not" for label in unknown),
        ]

    def _replace_values(self, point: Point, label: str, values: Tensor, node: fx.Node) -> Tensor:
        self._known.add(label)
        grid = activation_grid(point.known_range(), self._dialect)
        steps = (values / grid.scale + grid.zero_point).clamp(grid.low, grid.high)
        if label not in self._integers or self._integers[label].shape != values.shape:
            self._missing.append(label)
            return (steps.round() - grid.zero_point) * grid.scale
        found = torch.from_numpy(self._integers[label]).to(values.dtype)
        distances = (steps - found).abs()
        largest = float(distances.max())
        self.compared.append(
            _Place(
                label=label,
                layers=self._layers_behind(node),
                distance=largest if math.isfinite(largest) else math.inf,
                beyond=float((~(distances <= 0.5 + TOLERANCE)).float().mean()),
            )
        )
        return (found - grid.zero_point) * grid.scale

    def _layers_behind(self, point: fx.Node) -> tuple[str, ...]:
        """Return the names of the layers between a point and those before it."""
        found: list[str] = []
        waiting = list(point.all_input_nodes)
        while waiting:
            node = waiting.pop()
            module = module_of(node, self._network)
            if isinstance(module, Point) and (self._dialect is not Dialect.TENSORRT or node.args[1]):
                continue
            if is_layer(module):
                found.append(str(node.target))
            waiting += node.all_input_nodes
        return tuple(dict.fromkeys(reversed(found)))
