"""Training losses: cross-entropy with the labels, or distillation from a teacher's logits and attention maps.

A loss is pickled for the other processes of a training, so it is a module-level function or a plain object.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models.resnet import ResNet
from pipeline.training.mixed_precision import autocast, has_bfloat16

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(logits [B, C], images [B, 3, H, W], labels [B]) -> scalar, a mean over the images."""

TEMPERATURE = 4.0
SOFT_SHARE = 0.9
ATTENTION = 1e3
"""Weight of the mean squared difference between normalized maps: the paper's, beside distilled logits."""


def cross_entropy(logits: Tensor, images: Tensor, labels: Tensor) -> Tensor:
    """Return the loss of training without a teacher."""
    del images
    return F.cross_entropy(logits, labels)


class Distillation:
    """Learn the teacher's softened logits for the same augmented images, and with the remaining weight the labels.

    Hinton, Vinyals & Dean (2015), "Distilling the knowledge in a neural network": the soft term is multiplied by
    T^2, so that its gradients keep their size at any temperature.

    With a weight for `attention` the student also learns the teacher's attention maps: Zagoruyko &
    Komodakis 2017 (https://arxiv.org/abs/1612.03928). The map of a stage's output is the mean of its squared channels,
    so widths may differ and no projection has to be learned; pruning removes channels and blocks from a stage,
    but keeps the stage.
    """

    def __init__(
        self,
        teacher: nn.Module,
        *,
        temperature: float = TEMPERATURE,
        soft_share: float = SOFT_SHARE,
        attention: float = 0.0,
    ) -> None:
        self.teacher = teacher.eval()
        self.temperature = temperature
        self.soft_share = soft_share
        self.attention = attention
        self._given: dict[str, Tensor] = {}
        self._wanted: dict[str, Tensor] = {}

    def __call__(self, logits: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            with autocast(enabled=has_bfloat16()):
                answers = self.teacher(images)
            wanted = F.log_softmax(answers.float() / self.temperature, dim=1)
        given = F.log_softmax(logits / self.temperature, dim=1)
        soft = F.kl_div(given, wanted, reduction="batchmean", log_target=True) * self.temperature**2
        value = self.soft_share * soft + (1 - self.soft_share) * F.cross_entropy(logits, labels)
        # Release at once: otherwise features of one micro-batch would stay in memory during the next.
        for name in list(self._given):
            difference = attention_map(self._given.pop(name)) - attention_map(self._wanted.pop(name))
            value = value + self.attention * difference.square().mean()
        return value

    @contextmanager
    def watching(self, student: nn.Module) -> Iterator[None]:
        """Record the stage outputs of both networks for the loss."""
        self.teacher.to(next(student.parameters()).device)
        stages = shared_stages(student, self.teacher) if self.attention > 0 else ()
        handles = [
            network.get_submodule(name).register_forward_hook(_keep(place, name))
            for network, place in ((self.teacher, self._wanted), (student, self._given))
            for name in stages
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._given.clear()
            self._wanted.clear()


def shared_stages(student: nn.Module, teacher: nn.Module) -> tuple[str, ...]:
    """Return the names of the stages that both have; none if either is not a `ResNet`."""
    if not isinstance(student, ResNet) or not isinstance(teacher, ResNet):
        return ()
    return tuple(name for name in student.stages if name in teacher.stages)


def attention_map(features: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, H * W]: the mean of the squared channels, normalized."""
    return F.normalize(features.float().square().mean(dim=1).flatten(1), dim=1)


def _keep(place: dict[str, Tensor], name: str) -> Callable[[nn.Module, object, Tensor], None]:
    def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
        del module, inputs
        place[name] = output

    return hook
