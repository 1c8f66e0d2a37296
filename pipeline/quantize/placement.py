"""Choose the tensors of a traced network to quantize, the places, and the dialects.

A residual block. o: points of ONNX Runtime; *: points of ONNX Runtime and TensorRT:

    x ─ * ─┬─ conv1 ─ relu ─ * ─ conv2 ─ o ─┐
           │                                add ─ relu ─ * ─
           └─ downsample ─ * ───────────────┘

One point per tensor: the network's input; the output of a convolution, linear layer, addition or average pooling,
after its ReLU if only that reads it. Max-pooling, reshaping and option A's selection of channels keep
values unchanged, so the same point is applied again after them. TensorRT fuses a convolution with the addition
that follows, so no point may be between those two: only the shortcut is quantized there. The logits stay float.
"""

import operator
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto

import torch
from torch import fx, nn
from torch.nn import functional as F

from pipeline.models.folding import is_layer, module_of
from pipeline.models.resnet import is_constant_shortcut


class Kind(Enum):
    INPUT = auto()
    LAYER = auto()
    ADD = auto()
    POOL = auto()
    """Average pooling: int8 in and out, but not the same values."""
    RELU = auto()
    PASS = auto()
    """Keeps values: the grid stays, Q and DQ are repeated after it."""
    SELECT = auto()
    """The constant convolution of an option-A shortcut: a layer that keeps values."""
    NOTHING = auto()
    """Leaves no operation in the exported graph."""
    OUTPUT = auto()
    OTHER = auto()
    """Unknown operations stay float."""


@dataclass(frozen=True)
class Site:
    """A place in the graph, directly after `node`, where the point `name` is applied."""

    node: fx.Node
    name: str
    tensorrt: bool
    post_relu: bool


@dataclass(frozen=True)
class Plan:
    sites: tuple[Site, ...]
    sources: dict[str, str]
    """Quantized layer → the point of its input."""


MODULES: tuple[tuple[tuple[type[nn.Module], ...], Kind], ...] = (
    ((nn.ReLU, nn.ReLU6), Kind.RELU),
    ((nn.AvgPool2d, nn.AdaptiveAvgPool2d), Kind.POOL),
    ((nn.MaxPool2d, nn.Flatten, nn.ZeroPad2d), Kind.PASS),
    ((nn.Identity, nn.Dropout, nn.Dropout2d), Kind.NOTHING),
)
FUNCTIONS: dict[object, Kind] = {
    F.relu: Kind.RELU,
    F.relu6: Kind.RELU,
    torch.relu: Kind.RELU,
    F.avg_pool2d: Kind.POOL,
    F.adaptive_avg_pool2d: Kind.POOL,
    torch.mean: Kind.POOL,
    F.max_pool2d: Kind.PASS,
    torch.max_pool2d: Kind.PASS,
    torch.flatten: Kind.PASS,
    torch.reshape: Kind.PASS,
    F.dropout: Kind.NOTHING,
}
METHODS = {
    "relu": Kind.RELU,
    "relu_": Kind.RELU,
    "mean": Kind.POOL,
    "flatten": Kind.PASS,
    "reshape": Kind.PASS,
    "view": Kind.PASS,
    "contiguous": Kind.NOTHING,
}
ADDITIONS: tuple[object, ...] = (operator.add, operator.iadd, torch.add, "add", "add_")


def plan_points(graph_module: fx.GraphModule, float_layers: Iterable[str]) -> Plan:
    """Return where to quantize so that every Conv2d and Linear not in `float_layers` runs in int8."""
    return _Planner(graph_module, frozenset(float_layers)).plan()


class _Planner:
    def __init__(self, graph_module: fx.GraphModule, float_layers: frozenset[str]) -> None:
        self._graph_module = graph_module
        self._nodes = list(graph_module.graph.nodes)
        self._float_layers = float_layers
        self._kinds = {node: _kind(node, graph_module) for node in self._nodes}
        self._integer: dict[fx.Node, bool] = {}
        self._depth: dict[fx.Node, int] = {}
        self._numbers = _numbers(self._nodes)
        for node in self._nodes:
            self._integer[node] = self._computes_integers(node)
            self._depth[node] = self._layers_before(node)
        self._points: dict[fx.Node, Site] = {}
        """Tensor → the site that defines its grid."""
        self._sites: list[Site] = []
        self._names = _names(self._nodes)

    def plan(self) -> Plan:
        for node in self._nodes:
            self._visit(node)
        sources = {
            str(node.target): self._points[_input(node)].name
            for node in self._nodes
            if self._is_layer(node) and self._integer[node]
        }
        return Plan(tuple(self._sites), sources)

    def _visit(self, node: fx.Node) -> None:
        kind = self._kinds[node]
        if self._hands_on(node) and _input(node) in self._points:
            before = self._points[_input(node)]
            if kind is Kind.NOTHING:
                self._points[node] = before
            else:
                self._place(node, before.name, before)
        elif kind is Kind.RELU and self._relu_of(_input(node)) is node:
            if self._wants_point(_input(node), node):
                self._place(node, self._names[_input(node)], None)
        elif kind is not Kind.OUTPUT and self._relu_of(node) is None and self._wants_point(node, node):
            self._place(node, self._names[node], None)

    def _hands_on(self, node: fx.Node) -> bool:
        kind = self._kinds[node]
        return kind in (Kind.PASS, Kind.NOTHING) or (kind is Kind.SELECT and self._integer[node])

    def _place(self, node: fx.Node, name: str, before: Site | None) -> None:
        """Add a site after `node`; `before` is the site of the same values before it."""
        repeats = before is not None and before.tensorrt and self._kinds[node] is Kind.PASS
        post_relu = before.post_relu if before is not None else self._kinds[node] is Kind.RELU
        site = Site(node, name, not repeats and self._is_for_tensorrt(node), post_relu)
        self._points[node] = site
        self._sites.append(site)

    def _wants_point(self, producer: fx.Node, tensor: fx.Node) -> bool:
        """Whether to quantize `tensor`, the producer's output, after its ReLU if it has one."""
        if tensor in self._numbers:
            return False
        if self._integer[producer] and self._is_convolution(producer):
            return True
        return (self._integer[producer] and not self._only_output(tensor)) or self._feeds_integers(tensor)

    def _feeds_integers(self, tensor: fx.Node) -> bool:
        for user in tensor.users:
            if self._kinds[user] in (Kind.LAYER, Kind.SELECT, Kind.ADD, Kind.POOL) and self._integer[user]:
                return True
            if self._kinds[user] in (Kind.PASS, Kind.NOTHING) and self._feeds_integers(user):
                return True
        return False

    def _only_output(self, tensor: fx.Node) -> bool:
        """Whether only the network's output reads the tensor: rounding there would only cost accuracy."""
        passing = (Kind.PASS, Kind.NOTHING)
        return all(
            self._kinds[user] is Kind.OUTPUT or (self._kinds[user] in passing and self._only_output(user))
            for user in tensor.users
        )

    def _computes_integers(self, node: fx.Node) -> bool:
        """Whether the node runs in int8: layers not kept in float, and operations on their integers."""
        kind = self._kinds[node]
        if self._is_layer(node):
            return str(node.target) not in self._float_layers
        if kind in (Kind.ADD, Kind.POOL, Kind.RELU, Kind.PASS, Kind.NOTHING):
            return any(self._integer[operand] for operand in node.all_input_nodes)
        return False

    def _layers_before(self, node: fx.Node) -> int:
        before = max((self._depth[operand] for operand in node.all_input_nodes), default=0)
        return before + int(self._is_layer(node))

    def _is_for_tensorrt(self, node: fx.Node) -> bool:
        return self._kinds[node] is Kind.POOL or any(self._is_read_in_int8(node, user) for user in node.users)

    def _is_read_in_int8(self, node: fx.Node, user: fx.Node) -> bool:
        if self._kinds[user] is Kind.NOTHING:
            return any(self._is_read_in_int8(user, further) for further in user.users)
        if self._kinds[user] is Kind.ADD:
            return self._integer[user] and node is self._shortcut(user)
        return self._kinds[user] in (Kind.LAYER, Kind.SELECT, Kind.POOL) and self._integer[user]

    def _shortcut(self, addition: fx.Node) -> fx.Node:
        """Return the operand with fewer layers before it."""
        first, second = (operand for operand in addition.args[:2] if isinstance(operand, fx.Node))
        return first if self._depth[first] < self._depth[second] else second

    def _relu_of(self, node: fx.Node) -> fx.Node | None:
        """Return the ReLU that is the only reader of `node`."""
        if self._kinds[node] not in (Kind.LAYER, Kind.ADD, Kind.OTHER) or len(node.users) != 1:
            return None
        user = next(iter(node.users))
        return user if self._kinds[user] is Kind.RELU else None

    def _is_layer(self, node: fx.Node) -> bool:
        return self._kinds[node] in (Kind.LAYER, Kind.SELECT)

    def _is_convolution(self, node: fx.Node) -> bool:
        return self._is_layer(node) and isinstance(module_of(node, self._graph_module), nn.Conv2d)


def _numbers(nodes: Iterable[fx.Node]) -> frozenset[fx.Node]:
    """Return nodes that are not tensors: sizes that a network reads (`x.size(0)`, `x.shape`), and results of them."""
    found: set[fx.Node] = set()
    for node in nodes:
        asks = node.op == "call_method" and node.target in ("size", "dim", "numel", "ndimension")
        asks = asks or (node.target is getattr and node.args[1:2] in (("shape",), ("ndim",)))
        operands = node.all_input_nodes
        if asks or (node.op == "call_function" and operands and all(operand in found for operand in operands)):
            found.add(node)
    return frozenset(found)


def _names(nodes: Iterable[fx.Node]) -> dict[fx.Node, str]:
    """Return module names, or the operation's name within its module; numbered if taken.

    Every node has one, quantized or not, so that a point's name does not depend on the layers kept in float.
    """
    taken: set[str] = set()
    names = {}
    for node in nodes:
        name = _own_name(node)
        unique, number = name, 1
        while unique in taken:
            unique, number = f"{name}_{number}", number + 1
        taken.add(unique)
        names[node] = unique
    return names


def _own_name(node: fx.Node) -> str:
    if node.op == "placeholder":
        return "images"
    if node.op == "call_module":
        return str(node.target)
    modules = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
    operation = node.name.rstrip("0123456789").rstrip("_")
    return f"{modules[-1]}.{operation}" if modules else operation


def _kind(node: fx.Node, graph_module: fx.GraphModule) -> Kind:
    match node.op:
        case "placeholder":
            return Kind.INPUT
        case "output":
            return Kind.OUTPUT
        case "call_module":
            return _kind_of_module(module_of(node, graph_module))
        case "call_method":
            return Kind.ADD if _is_addition(node) else METHODS.get(str(node.target), Kind.OTHER)
        case "call_function":
            return Kind.ADD if _is_addition(node) else FUNCTIONS.get(node.target, Kind.OTHER)
        case _:
            return Kind.OTHER


def _is_addition(node: fx.Node) -> bool:
    """Whether it adds two tensors: a number added to a tensor is not a residual connection."""
    return node.target in ADDITIONS and len(node.all_input_nodes) == 2 and len(node.args) == 2


def _kind_of_module(module: nn.Module | None) -> Kind:
    if module is not None and is_constant_shortcut(module):
        return Kind.SELECT
    if is_layer(module):
        return Kind.LAYER
    return next((kind for types, kind in MODULES if isinstance(module, types)), Kind.OTHER)


def _input(node: fx.Node) -> fx.Node:
    source = node.args[0] if node.args else node.all_input_nodes[0]
    assert isinstance(source, fx.Node)
    return source
