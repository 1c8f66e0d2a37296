"""Whether an ONNX file computes what PyTorch computes, layer by layer.

The float file is held against PyTorch in float64, and may be as far from it as float32 arithmetic is.

In an integer file a value that lies between two steps falls either way by the order of sums alone, and moves what
follows by a step. Through fifty layers that reaches a third of all values: no bound on logits tells it from a fault.
Therefore each layer is compared by itself. The file's integers at every quantization point are read; PyTorch computes
each layer from the file's own integers before it; and every integer behind it must be what PyTorch's number rounds to:

    file      q0 ── layer ── q1 ── layer ── q2          PyTorch     q0 ── layer ── v1    |v1 - q1| <= 1/2 step
                                                                    q1 ── layer ── v2    |v2 - q2| <= 1/2 step

So nothing accumulates, and the bound holds whatever the depth, the widths and the scale of the logits.
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

MOST_IMAGES = 64
TOLERANCE = 0.01
"""Steps beyond the half that rounding takes: what float32 sums of PyTorch and the file may differ by. A hundred times
what was measured on a half-width ResNet-50, and little enough to see a scale of one channel that is off by 1 %."""
FLOAT_ERRORS = 30
"""A float file may be so many times as far from float64 as PyTorch's float32 is."""
LEAST_FLOAT_ERROR = 1e-7
"""Of float32, in shares of the largest logit: where PyTorch happens to be exact the file need not be."""
LOGITS = 1e-4
"""Largest difference of an integer file's logits, fed with its own integers, in shares of the largest logit."""
MOST_SHOWN = 4

LEVELS = {Dialect.FLOAT: ("all",), Dialect.ONNXRUNTIME: ("disable", "all"), Dialect.TENSORRT: ("disable",)}
"""Of ONNX Runtime's optimization. Unoptimized the file runs node by node, as ONNX defines it, and is the reference of
TensorRT's arithmetic, which is not asked here. ONNX Runtime's own file is compared as it is fused, too: fusions read
some attributes not at all, such as the axis of a weight's scales."""
MODES = {Dialect.FLOAT: Mode.FLOAT, Dialect.ONNXRUNTIME: Mode.ONNXRUNTIME, Dialect.TENSORRT: Mode.TENSORRT}


def parity_images(image_size: tuple[int, int]) -> int:
    """How many images of this height and width are compared: what one pass holds, 64 at most."""
    return min(MOST_IMAGES, micro_batch_size(image_size))


def check_parity(network: fx.GraphModule, path: Path, dialect: Dialect, images: NDArray[np.float32]) -> Parity:
    """Compare the file at `path` with `network` on `images` [N, 3, H, W].

    Raises `ExportError` with the names of the layers where the two differ by more than rounding.
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
    own = max(float(np.abs(single - exact).mean()), LEAST_FLOAT_ERROR * float(np.abs(exact).max()))
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
    # Written so that a difference that is no number fails, too.
    if ratio <= FLOAT_ERRORS:
        return parity
    raise ExportError(
        f"{path.name} does not compute what PyTorch computes: on {len(images)} images its logits differ from float64 "
        f"by {parity.max_abs_difference:.3g} at most, {ratio:.3g} times as far on average as PyTorch's float32 does; "
        f"up to {FLOAT_ERRORS} times is rounding. This is a bug of ours or of the exporter; please report it."
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
        faults.append(f"{layers}: the logits differ by {difference:.3g}, at most {limit:.3g} is rounding")
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
    shown = "".join(f"\n  {fault}" for fault in faults[:MOST_SHOWN])
    more = f"\n  and {len(faults) - MOST_SHOWN} more places" if len(faults) > MOST_SHOWN else ""
    raise ExportError(
        f"{path.name}, {fused}, does not compute what PyTorch computes on {len(images)} images, each layer fed with "
        f"the file's own integers:{shown}{more}\nIf this CPU has no VNNI, 8-bit weights may saturate in its int8 "
        "kernels: set weight_bits = 7 in [quantize]. Otherwise please report this."
    )


def _check_shape(found: NDArray[Any], wanted: NDArray[Any], path: Path) -> None:
    if found.shape != wanted.shape:
        raise ExportError(f"{path.name} answers {list(found.shape)}, PyTorch {list(wanted.shape)}.")


@dataclass(frozen=True, kw_only=True)
class _Place:
    """One quantization point, and how the file's integers there compare with PyTorch's numbers."""

    label: str
    layers: tuple[str, ...]
    """Conv2d and Linear that compute it, from the points before it on."""
    distance: float
    """The largest one between an integer and PyTorch's number, in steps."""
    beyond: float
    """Share of the values that are farther away than rounding explains."""

    @property
    def is_right(self) -> bool:
        return self.distance <= 0.5 + TOLERANCE

    def __str__(self) -> str:
        by = f" (by {', '.join(self.layers)})" if self.layers and self.layers != (self.label,) else ""
        return f"{self.label}{by}: {self.beyond:.2%} of the values are off, by {self.distance:.3g} steps at most"


class _Replay(fx.Interpreter):
    """Runs the network with the file's integers in the place of its own at every quantization point."""

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
        # The same grid is applied again where pooling or reshaping hands values on; the files number these.
        again = self._calls[point.name]
        self._calls[point.name] += 1
        return self._replace_values(point, point.name if again == 0 else f"{point.name}.{again}", values, n)

    @property
    def last_layers(self) -> tuple[str, ...]:
        """Those that compute the logits from the last points."""
        return self._layers_behind(next(node for node in self._network.graph.nodes if node.op == "output"))

    def faults(self) -> list[str]:
        """What is wrong, in words, in the order of the graph."""
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
        """Names of the layers between a point and those before it."""
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
