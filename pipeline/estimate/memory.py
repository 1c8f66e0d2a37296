"""Peak memory of each stage.

Tensors are counted on the network itself, with the number of images in one pass
(`estimate.footprint`). The rest is added: weights in several copies, cached images, the programs.
Images count as far as `Batches` caches them.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pipeline.artifacts import ActivationRange, Checkpoint
from pipeline.data.batches import CACHE_BYTES, Batches
from pipeline.data.images import ImageSet
from pipeline.data.readers import Dataset
from pipeline.data.sampling import BATCH as RUNTIME_BATCH
from pipeline.estimate.footprint import peak_bytes, weight_bytes
from pipeline.export.parity import parity_images
from pipeline.latency.profile import CHECKED, CHUNK_BYTES, FITTED
from pipeline.models.checkpoint import build_network
from pipeline.models.surgery import channel_groups
from pipeline.progress import Silent
from pipeline.prune import recovery
from pipeline.prune.candidates import BLOCK_FACTORS
from pipeline.prune.importance import channel_importance
from pipeline.prune.prune import IMPORTANCE_IMAGES
from pipeline.quantize import quantize
from pipeline.quantize.fake_quant import Mode, set_mode
from pipeline.quantize.network import points_of, prepare
from pipeline.recipe import Recipe
from pipeline.training.loop import Training
from pipeline.training.loss import ATTENTION, Distillation
from pipeline.training.microbatches import micro_batch_size
from pipeline.training.mixed_precision import has_bfloat16
from pipeline.workplace import Workplace
from targets.device.model.preprocess import Preprocessing

MIB = 2**20
PROCESS = 350 * MIB
"""Python with PyTorch, ONNX and ONNX Runtime."""
EXPORTER = 100 * MIB
"""Additional libraries that PyTorch's exporter loads."""
FRAGMENTATION = 1.45
"""Of the allocator: resident bytes per byte of tensors. 1.3 to 1.8 for a half-width ResNet-50 at 224 x 224."""
FLOAT_BYTES = 4
MANY_OUTPUTS, MANY_WEIGHTS = 3, 16
"""Upper bounds for any stage: tensors in outputs of all layers, and sets of weights."""
LOOKED_AT = 128
"""Images of a batch in inference."""


@dataclass(frozen=True)
class Needs:
    """Bytes needed by one network with these images."""

    checkpoint: Checkpoint
    dataset: Dataset
    recipe: Recipe

    def of(self, stage: str) -> int:
        """Return the peak of a stage, in all its processes together."""
        needs = {
            "load": self._load,
            "prune": self._prune,
            "quantize": self._quantize,
            "export": self._export,
            "compile": self._compile,
            "validate": self._validate,
        }
        return needs[stage]() if stage in needs else PROCESS

    @property
    def at_most(self) -> int:
        """Return an upper bound for all stages from one image's forward pass: a quick check."""
        sizes: list[int] = []

        def noted(module: nn.Module, inputs: object, made: object) -> None:
            del module, inputs
            sizes.extend(leaf.numel() * FLOAT_BYTES for leaf in tree_leaves(made) if isinstance(leaf, Tensor))

        handles = [
            module.register_forward_hook(noted) for module in self._network.modules() if not list(module.children())
        ]
        try:
            with torch.inference_mode():
                self._network(torch.zeros(1, *self._shape))
        finally:
            for handle in handles:
                handle.remove()
        tensors = MANY_OUTPUTS * sum(sizes) * self._shown(LOOKED_AT) + MANY_WEIGHTS * self._weights
        splits = (self.dataset.training, self.dataset.selection, self.dataset.selection, self.dataset.gate)
        images = sum(self._image_bytes(len(split)) for split in splits)
        images += IMPORTANCE_IMAGES * FLOAT_BYTES * math.prod(self._shape) + self._image_bytes(
            recovery.STATISTICS_IMAGES
        )
        return EXPORTER + self.recipe.nproc * (PROCESS + _resident(tensors) + images)

    def _load(self) -> int:
        return self._looked_at(self.dataset.selection)

    def _looked_at(self, images: ImageSet) -> int:
        """Return the bytes of one network in inference on `images`, with the weights it was built from."""
        tensors = self._looking(self._shown(min(LOOKED_AT, len(images)))) + 2 * self._weights
        return PROCESS + _resident(tensors) + self._image_bytes(len(images))

    def _prune(self) -> int:
        budget, training, selection = self.recipe.prune, len(self.dataset.training), len(self.dataset.selection)
        if not budget.prunes:
            return PROCESS
        sample = min(IMPORTANCE_IMAGES, training)
        beside = self._weights if not budget.by_clock else (2 + len(BLOCK_FACTORS)) * self._weights
        # With a time budget the same images are used several times, and cached after preprocessing.
        seen = sample * FLOAT_BYTES * math.prod(self._shape) if budget.by_clock else 0
        counted = _resident(self._importance + beside) + seen + self._image_bytes(sample)
        statistics = self._image_bytes(min(recovery.STATISTICS_IMAGES, training))
        alone = PROCESS + max(counted, seen + statistics + _resident(3 * self._weights))
        if budget.by_clock and budget.table is None:
            alone = max(alone, self.profile)
        if budget.epochs == 0:
            return alone
        images = self._image_bytes(training) + 2 * self._image_bytes(selection)
        return max(alone, self._training_bytes(self._recovery, beside, images + seen, self._image_bytes(training)))

    @property
    def profile(self) -> int:
        """Return the bytes of measuring a latency table, before pruning: many cut networks are open at a time."""
        whole = (FITTED + CHECKED) * 2 * self._weights
        layers = 2 * (CHUNK_BYTES + self._weights)
        return PROCESS + EXPORTER + max(whole, layers) + _resident(4 * self._weights)

    def _quantize(self) -> int:
        selection = 2 * self._image_bytes(len(self.dataset.selection))
        if self.recipe.quantize.qat_epochs == 0:
            tensors = self._looking(self._shown(RUNTIME_BATCH), is_quantized=True) + 3 * self._weights
            return PROCESS + _resident(tensors) + selection + self._image_bytes(quantize.CALIBRATION_IMAGES)
        training = self._image_bytes(len(self.dataset.training))
        # The network before folding, and the weights of calibration, which may be better than the trained ones.
        return self._training_bytes(self._quantization, 2 * self._weights, training + selection, training)

    def _export(self) -> int:
        """Return the bytes of the exporter, and of comparing its output with PyTorch in float64."""
        images = min(parity_images(self._shape[1:]), len(self.dataset.selection))
        exact = 2 * self._looking(images) + 8 * self._weights
        return PROCESS + EXPORTER + _resident(exact)

    def _compile(self) -> int:
        """Return the bytes of ONNX Runtime sessions: the float baseline, and candidates that need no more in total."""
        return PROCESS + 2 * self._session(self.dataset.selection)

    def _validate(self) -> int:
        """Return the bytes of the float network's answers, then the artifact's."""
        return max(self._looked_at(self.dataset.gate), PROCESS + self._session(self.dataset.gate))

    def _training_bytes(self, tensors: int, beside: int, images: int, images_of_others: int) -> int:
        """Return the bytes of a training: gradients and momenta take twice the weights."""
        others = self.recipe.nproc - 1
        shared = self._weights if others else 0
        own = _resident(tensors + 2 * self._weights + shared)
        return PROCESS + own + _resident(beside) + images + others * (PROCESS + own + images_of_others)

    def _image_bytes(self, images: int) -> int:
        """Return the bytes of decoded images, which are cached if all of them fit."""
        size = images * math.prod(self._shape)
        return size if size <= CACHE_BYTES else 0

    def _shown(self, batch: int) -> int:
        """Return the images in one forward pass, of a batch that is split into equal parts."""
        parts = max(1, math.ceil(batch / micro_batch_size(self._shape[1:])))
        return math.ceil(batch / parts)

    def _learned_from(self, batch: int) -> int:
        return self._shown(math.ceil(batch / self.recipe.nproc))

    @property
    def _shape(self) -> tuple[int, int, int]:
        return self.checkpoint.architecture.input_shape

    @cached_property
    def _network(self) -> nn.Module:
        return build_network(self.checkpoint)

    @cached_property
    def _weights(self) -> int:
        return weight_bytes(self._network)

    def _session(self, images: ImageSet) -> int:
        """Return the bytes of an ONNX Runtime session: weights, their copy in its kernels' layout, a run's tensors."""
        return self._looking(min(RUNTIME_BATCH, len(images))) + self._weights

    def _looking(self, images: int, *, is_quantized: bool = False) -> int:
        """Return the bytes of one forward pass, weights included."""

        def look(network: nn.Module) -> None:
            with torch.inference_mode():
                network(self._inputs(images))

        return peak_bytes(look, self._on_grid() if is_quantized else self._network)

    @cached_property
    def _importance(self) -> int:
        """Return the bytes of measuring importance, with its copy of the network."""
        groups = channel_groups(self._network, self._shape)
        images = self._shown(recovery.BATCH_SIZE)

        def search(network: nn.Module) -> None:
            channel_importance(network, groups, [self._inputs(images)], seed=0)

        return peak_bytes(search, self._network)

    @cached_property
    def _recovery(self) -> int:
        """Return the bytes of one recovery step, with both networks and the gradients."""

        def step(student: nn.Module, teacher: nn.Module) -> None:
            loss = Distillation(teacher, attention=ATTENTION)
            self._step(student, loss, recovery.BATCH_SIZE, is_quantized=False)

        return peak_bytes(step, self._network, self._network)

    @cached_property
    def _quantization(self) -> int:
        def step(student: nn.Module, teacher: nn.Module) -> None:
            self._step(student, Distillation(teacher), quantize.BATCH_SIZE, is_quantized=True)

        return peak_bytes(step, self._on_grid(), self._network)

    def _step(self, student: nn.Module, loss: Distillation, batch: int, *, is_quantized: bool) -> None:
        height, width = self._shape[1:]
        preprocessing = Preprocessing(resize=None, crop=(height, width), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        training = Training(
            network=student,
            batches=Batches(_blank(self._learned_from(batch), (width, height)), preprocessing),
            epochs=1,
            learning_rate=1.0,
            loss=loss,
            frozen_statistics=is_quantized,
            mixed_precision=not is_quantized and has_bfloat16(),
            name="memory",
        )
        training.fit(Workplace(folder=Path(), progress=Silent()), selection=None)

    def _on_grid(self) -> nn.Module:
        quantized = prepare(self._network, weight_bits=8, keep_float=self.recipe.quantize.keep_float)
        for point in points_of(quantized):
            point.range = ActivationRange(amax=1.0, signed=not point.post_relu, post_relu=point.post_relu)
        set_mode(quantized, Mode.ONNXRUNTIME)
        return quantized

    def _inputs(self, images: int) -> Tensor:
        return torch.empty(images, *self._shape)


def _resident(tensors: int) -> int:
    return int(FRAGMENTATION * tensors)


def _blank(count: int, size: tuple[int, int]) -> ImageSet:
    names = [str(index) for index in range(count)]
    return ImageSet(
        read=lambda _index: b"",
        draw=lambda _index: Image.new("RGB", size),
        digests=names,
        names=names,
        labels=np.zeros(count, dtype=np.int64),
    )
