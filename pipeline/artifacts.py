"""What stages hand to each other: frozen facts and paths, never live tensors or sessions."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal, Self

Fallback = Literal["none", "fp16", "fastest"]
"""What a device may build besides the main model's engine: nothing; fp16 where the main one, in int8, does
not pass; every precision, of which the fastest is served."""


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
    """What a model is for in its image; alternatives are built and judged like the main one."""

    MAIN = "model"
    SATURATION_SAFE = "saturation-safe variant"
    """7-bit weights, served where the CPU's int8 sums would saturate."""
    FALLBACK = "fallback"
    """Built by the device where the main model's engine does not pass."""
    RIVAL = "rival"
    """Timed against the main model by the device, which serves the fastest."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Everything needed to rebuild the network from plain weights, pruned or not."""

    family: Literal["torchvision", "cifar", "custom"]
    name: str
    """As published, e.g. `resnet20` or `resnet50`; for a model of the user's own, its factory."""
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
    """Output channels of every convolution by module name; pruning changes them, nothing else does."""
    factory: str | None = None
    """`package.module:function` where the network is the user's own."""

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
    """What a network costs for one image: trained parameters, multiply-accumulates, bytes of fp32 weights.

    The constant 1x1 convolution that stands for an option-A shortcut holds no trained parameters and is not
    counted in `parameters`; its multiply-accumulates are not counted either, as the network has none there.
    """

    parameters: int
    macs: int
    weight_bytes: int


@dataclass(frozen=True, kw_only=True)
class ActivationRange:
    """One tensor's symmetric clipping range; the integer grid is chosen by the dialect that is written."""

    amax: float
    signed: bool  # False where the tensor holds no negative value.
    post_relu: bool


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """Quantization parameters as data, independent of any file format.

    Keys of `activations` are quantization points (see `quantize.quantize`), keys of `weights` are module names
    of Conv2d and Linear; a weight has one scale per output channel. Biases stay float: their int32 grid follows
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
    """An ONNX file against the PyTorch model it was written from, on the same real images."""

    images: int
    tensors: int
    """Compared on their integer grids, each computed from the file's own integers before it; 0 of a float file."""
    largest_distance: float
    """In steps, between one of the file's integers and PyTorch's number there; 0.5 is what rounding takes."""
    float_error: float
    """Mean difference of a float file's logits from float64, in those of PyTorch's float32; 0 of an integer file."""
    max_abs_difference: float
    """Of the logits; those of an integer file are computed from its own integers before the last layer."""
    logit_range: float
    """Largest minus smallest logit of the PyTorch model: the scale to read the difference on."""
    is_undisturbed: bool
    """Whether the file gave the same logits to the bit while its integers were looked at."""


@dataclass(frozen=True, kw_only=True)
class OnnxModel:
    """One ONNX file, written in one dialect and checked against PyTorch."""

    path: Path
    dialect: Dialect
    precision: Precision
    parity: Parity
    quantized_layers: tuple[str, ...]
    """Conv and Gemm nodes that the plan has in int8, by node name."""
    float_layers: tuple[str, ...]
    """Conv and Gemm nodes that the plan keeps in float, by node name."""


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Milliseconds of one inference, batch 1; ratios are taken on CPU time (wall time suffers from neighbours)."""

    cpu_ms: float
    wall_ms: float
    wall_p90_ms: float
    threads: int
    runs: int


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Conv and Gemm nodes of the runtime's own optimized graph, by what they really run in."""

    int8_nodes: int
    float_nodes: int
    kept_float: tuple[str, ...] = ()  # Because the plan says so.
    operators: dict[str, int] = field(default_factory=dict)
    """Operator types of the optimized graph and how often each occurs."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One precision of the compressed network, compiled and measured on the selection split."""

    precision: Precision
    folder: Path
    """A complete artifact folder: the model file, `manifest.json`, `golden.npz`."""
    latency: Latency | None
    audit: Audit | None  # Both None of TensorRT: its device alone times it and says what is in int8.
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
    """What the machine that measured is to the target: `HOST` alone timed the target's own platform."""
    measured_by: str
    """That machine's platform, or the ONNX Runtime that computed in TensorRT's place."""


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """What would ship: the chosen candidate, and why it was chosen."""

    folder: Path
    target: str
    precision: Precision
    reason: str
    candidate: Candidate
    float_latency: Latency | None
    place: Place
    """As in `Compilation`, like the next."""
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
class Timeliness:
    """What became of the time that was asked for: a latency or a speedup; the other is None, throughout."""

    asked_ms: float | None
    asked_speedup: float | None
    predicted_ms: float
    predicted_speedup: float
    planned_ms: float | None
    """Of the pruned network before its recovery; None where it was not timed here."""
    planned_speedup: float | None
    artifact_ms: float | None
    artifact_speedup: float | None
    verdict: Literal["held", "missed", "unmeasured"]
    reason: str
    """Why it is unmeasured; empty otherwise."""


@dataclass(frozen=True, kw_only=True)
class GroupAccuracy:
    """Both models on one group of the gate's images, such as the faces of one size: there, the recall."""

    name: str
    images: int
    float_share: float
    """Right answers among the images."""
    float_interval: tuple[float, float]
    """Two-sided 95 % interval of that share (Wilson)."""
    artifact_share: float
    artifact_interval: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class AccuracyReport:
    """The artifact against the float baseline on the same images (see `pipeline.validate.judge`)."""

    target: str
    place: Place
    verdict: Verdict
    images: int
    float_top1: float
    artifact_top1: float
    float_top5: float | None
    artifact_top5: float | None
    lost: int
    """Images the float model has right and the artifact wrong."""
    won: int
    """Images the artifact has right and the float model wrong."""
    drop_points: float
    """Loss of top-1 in points; a loss is positive."""
    drop_interval_points: tuple[float, float]
    """Two-sided 95 % interval of the drop."""
    drop_bounds_points: tuple[float, float]
    """One-sided bounds of `confidence`; the verdict compares them with the margin."""
    max_drop_points: float
    flip_rate: float
    """Share of images whose predicted class changed."""
    worst_class: str
    worst_class_drop_points: float
    gate_looks: int
    """How many artifacts of this model the gate's images had judged when they judged this one, itself included."""
    advice: str
    """For `undecided`: how many images would decide, or that more cannot be expected to."""
    shard_sha256: str
    artifact_sha256: str
    instruction_set: str
    runtime: str
    groups: tuple[GroupAccuracy, ...] = ()  # Where the data set names some.
    confidence: float = 0.95
    """Of the bounds; more than 0.95 where it is corrected for the looks at the gate."""
    expected_accuracy: float | None = None
    """Share that the float network was said to have where it was trained; what `float_top1` was held against."""


@dataclass(frozen=True, kw_only=True)
class Image:
    """A container image that answered like the artifact it holds, or passed a gate of its own where it runs."""

    tag: str
    id: str
    bytes: int
    platform: str
    place: Place = Place.IMAGE
    """Where its answers came from: `emulated` where the engine's own platform is another."""


Judge = Callable[[Path, Place], AccuracyReport]
"""From the file of a container's answers and their place to the gate's report; raises where it says no."""
