"""What stages pass to each other: frozen values and paths, never live tensors or sessions."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal, Self

from targets.device.gate.judgement import Judgement

Fallback = Literal["none", "fp16", "fastest"]
"""Which engines a device may build besides the main model's: none; fp16 if the main int8 engine does not
pass; every precision, of which the fastest is served."""


class Precision(StrEnum):
    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


class Dialect(StrEnum):
    """How a Q/DQ graph is written; one file cannot serve both runtimes."""

    FLOAT = "float"
    ONNXRUNTIME = "onnxruntime"
    TENSORRT = "tensorrt"


class Place(StrEnum):
    """Where an artifact's accuracy was measured."""

    HOST = "host"
    IMAGE = "image"
    EMULATED = "emulated"
    SIMULATED = "simulated"
    DEVICE = "device"


class Verdict(StrEnum):
    PASS = "pass"
    FAIL = "fail"
    UNDECIDED = "undecided"


class Role(StrEnum):
    """What a model is for in its image; alternatives are built and judged like the main model."""

    MAIN = "model"
    SATURATION_SAFE = "saturation-safe variant"
    """7-bit weights, served where the CPU's int8 sums would saturate."""
    FALLBACK = "fallback"
    """Built on the device if the main model's engine does not pass."""
    RIVAL = "rival"
    """Timed against the main model on the device, which serves the fastest."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Everything needed to rebuild the network from plain weights, pruned or not."""

    family: Literal["torchvision", "cifar", "custom"]
    name: str
    """As published, such as `resnet20` or `resnet50`; the factory's name for the user's own model."""
    block: Literal["basic", "bottleneck", "custom"]
    depths: tuple[int, ...]
    """Residual blocks per stage."""
    stem: Literal["imagenet", "cifar", "custom"]
    """`imagenet`: 7x7 stride 2 and max-pooling; `cifar`: 3x3 stride 1."""
    shortcut: Literal["A", "B", "custom"]
    """Option A (subsample, pad channels with zeros; He et al. 2015, section 4.2) or B (1x1 convolution)."""
    groups: int = 1
    input_shape: tuple[int, int, int]
    """Channels, height, width of one preprocessed image."""
    classes: tuple[str, ...]
    """Class names in the order of the network's outputs."""
    widths: dict[str, int] = field(default_factory=dict)
    """Output channels of every convolution by module name; only pruning changes them."""
    factory: str | None = None
    """`package.module:function` of the user's own network."""

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        raw = json.loads(text)
        for name in ("depths", "input_shape", "classes"):
            raw[name] = tuple(raw[name])
        return cls(**raw)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A folder with `weights.safetensors`, `architecture.json` and, once quantized, `quantization.json`."""

    folder: Path

    @property
    def weights(self) -> Path:
        return self.folder / "weights.safetensors"

    @property
    def architecture(self) -> Architecture:
        return Architecture.from_json((self.folder / "architecture.json").read_text())

    @property
    def is_quantized(self) -> bool:
        return (self.folder / "quantization.json").exists()

    @property
    def quantization(self) -> "Quantization":
        return Quantization.from_json((self.folder / "quantization.json").read_text())

    @property
    def cost(self) -> "Cost":
        return Cost(**json.loads((self.folder / "cost.json").read_text()))


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Cost of a network for one image: trained parameters, multiply-accumulates, bytes of fp32 weights.

    The constant 1x1 convolution that implements an option-A shortcut has no trained parameters and is not counted
    in `parameters`; its multiply-accumulates are not counted either, as the original network has none there.
    """

    parameters: int
    macs: int
    weight_bytes: int


@dataclass(frozen=True, kw_only=True)
class ActivationRange:
    """One tensor's symmetric clipping range; the dialect that is written chooses the integer grid."""

    amax: float
    signed: bool  # False if the tensor has no negative value.
    post_relu: bool


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """Quantization parameters as data, independent of any file format.

    Keys of `activations` are quantization points (see `quantize.quantize`), keys of `weights` are module names
    of Conv2d and Linear; a weight has one scale per output channel. Biases stay float: their int32 scale follows
    from the input's scale when a dialect is written.
    """

    weight_bits: Literal[7, 8]
    """8: weights in -127..127. 7: weights in -63..63: no saturation of 16-bit sums on CPUs without VNNI."""
    activations: dict[str, ActivationRange]
    weights: dict[str, tuple[float, ...]]
    float_layers: tuple[str, ...] = ()  # Conv2d and Linear modules the recipe keeps in float.

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        raw = json.loads(text)
        return cls(
            weight_bits=raw["weight_bits"],
            activations={name: ActivationRange(**value) for name, value in raw["activations"].items()},
            weights={name: tuple(scales) for name, scales in raw["weights"].items()},
            float_layers=tuple(raw["float_layers"]),
        )


@dataclass(frozen=True, kw_only=True)
class Parity:
    """Comparison of an ONNX file with the PyTorch model it was written from, on the same real images."""

    images: int
    tensors: int
    """Tensors compared on their integer grids, each computed from the file's own integers before it; 0 for float."""
    largest_distance: float
    """In quantization steps, between an integer of the file and PyTorch's value; rounding alone gives up to 0.5."""
    float_error: float
    """Mean error of a float file's logits against float64, relative to PyTorch float32's; 0 for integer files."""
    max_abs_difference: float
    """Of the logits; for an integer file they are computed from its own integers before the last layer."""
    logit_range: float
    """Largest minus smallest logit of the PyTorch model: the scale for the difference."""
    is_undisturbed: bool
    """Whether the file gave bit-identical logits while its integers were read."""


@dataclass(frozen=True, kw_only=True)
class OnnxModel:
    """One ONNX file, written in one dialect and checked against PyTorch."""

    path: Path
    dialect: Dialect
    precision: Precision
    parity: Parity
    quantized_layers: tuple[str, ...]
    """Names of the Conv and Gemm nodes that run in int8 by the plan."""
    float_layers: tuple[str, ...]
    """Names of the Conv and Gemm nodes that stay in float by the plan."""


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Milliseconds of one inference, batch 1; ratios use CPU time (other programs disturb wall time)."""

    cpu_ms: float
    wall_ms: float
    wall_p90_ms: float
    threads: int
    runs: int


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Conv and Gemm nodes of the runtime's own optimized graph, by the precision they actually run in."""

    int8_nodes: int
    float_nodes: int
    kept_float: tuple[str, ...] = ()  # By the plan.
    operators: dict[str, int] = field(default_factory=dict)
    """Operator types of the optimized graph and their counts."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One precision of the compressed network, compiled and measured on the selection split."""

    precision: Precision
    folder: Path
    """A complete artifact folder: the model file, `manifest.json`, `golden.npz`."""
    latency: Latency | None
    audit: Audit | None  # Both None for TensorRT: only its device times it and reports what is in int8.
    selection_top1: float
    selection_drop_points: float
    """Top-1 of the float baseline minus this candidate's, in points, on the selection split."""


@dataclass(frozen=True, kw_only=True)
class Compilation:
    """All candidates of one target, and the unpruned fp32 model timed in the same run."""

    candidates: tuple[Candidate, ...]
    float_latency: Latency | None
    selection_images: int
    place: Place
    """Relation of the measuring machine to the target: only `HOST` timed the target's own platform."""
    measured_by: str
    """That machine's platform, or the ONNX Runtime that computed instead of TensorRT."""


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """The chosen candidate that would ship, and the reason for the choice."""

    folder: Path
    target: str
    precision: Precision
    reason: str
    candidate: Candidate
    float_latency: Latency | None
    place: Place
    """As in `Compilation`, like the next field."""
    measured_by: str
    role: Role = Role.MAIN

    @property
    def name(self) -> str:
        """In messages: `model`, `saturation-safe variant`, `fp16 fallback`."""
        is_of_a_gpu = self.role in (Role.FALLBACK, Role.RIVAL)
        return f"{self.precision} {self.role}" if is_of_a_gpu else self.role.value

    @property
    def manifest(self) -> Path:
        return self.folder / "manifest.json"


@dataclass(frozen=True, kw_only=True)
class TimeBudgetResult:
    """Result for the requested time: a latency or a speedup; the fields of the other are None."""

    asked_ms: float | None
    asked_speedup: float | None
    predicted_ms: float
    predicted_speedup: float
    planned_ms: float | None
    """Of the pruned network before its recovery; None if it was not timed here."""
    planned_speedup: float | None
    artifact_ms: float | None
    artifact_speedup: float | None
    verdict: Literal["held", "missed", "unmeasured"]
    reason: str
    """Why it is unmeasured; empty otherwise."""


@dataclass(frozen=True, kw_only=True)
class GroupAccuracy:
    """Both models on one group of the gate's images, such as the faces of one size, where this is the recall."""

    name: str
    images: int
    float_share: float
    """Share of the images classified correctly."""
    float_interval: tuple[float, float]
    """Two-sided 95 % interval of that share (Wilson)."""
    artifact_share: float
    artifact_interval: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class AccuracyReport(Judgement):
    """A judgement with the artifact and the images it is about, and the place (see `pipeline.validate.judge`)."""

    verdict: Verdict
    target: str
    place: Place
    gate_looks: int
    """Number of this model's artifacts judged on the gate's images so far, including this one."""
    shard_sha256: str
    artifact_sha256: str
    instruction_set: str
    runtime: str
    groups: tuple[GroupAccuracy, ...] = ()  # If the dataset defines groups.
    expected_accuracy: float | None = None
    """Share that the float network reached where it was trained, as given by the user; compared with `float_top1`."""


@dataclass(frozen=True, kw_only=True)
class Image:
    """A container image that gave the same answers as its artifact, or passed its own gate where it runs."""

    tag: str
    id: str
    bytes: int
    platform: str
    place: Place = Place.IMAGE
    """Where its answers came from: `emulated` if the engine's own platform is a different one."""


Judge = Callable[[Path, Place], AccuracyReport]
"""Takes the file of a container's answers and their place, returns the gate's report; raises if it does not pass."""
