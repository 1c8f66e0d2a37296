"""Losses: distillation by hand, and the attention of stages whatever was cut from them."""

import math
import pickle

import pytest
import torch
from tiny_networks import OPTION_A, SHAPE, network_of, own
from torch import Tensor, nn

from pipeline.artifacts import Architecture
from pipeline.models.surgery import remove_blocks
from pipeline.models.zoo import residual
from pipeline.training.loss import Distillation, attention_map, cross_entropy, shared_stages

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.5, 1.5, 1.0]])
TEACHER = torch.tensor([[1.0, 1.0, -2.0], [0.0, 3.0, 0.0]])
LABELS = torch.tensor([0, 1])
IMAGES = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(0))


class Constant(nn.Module):
    """Answers with the same logits whatever it is asked, and remembers how."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, images: Tensor) -> Tensor:
        del images
        return self.logits


@pytest.mark.parametrize(("temperature", "soft_share"), [(1.0, 1.0), (4.0, 1.0), (4.0, 0.0), (2.0, 0.7)])
def test_distillation_by_hand(temperature: float, soft_share: float) -> None:
    def softmax(row: list[float]) -> list[float]:
        powers = [math.exp(value) for value in row]
        return [power / sum(powers) for power in powers]

    soft = hard = 0.0
    for given, wanted, label in zip(LOGITS.tolist(), TEACHER.tolist(), LABELS.tolist(), strict=True):
        student = softmax([value / temperature for value in given])
        teacher = softmax([value / temperature for value in wanted])
        soft += sum(t * math.log(t / s) for t, s in zip(teacher, student, strict=True)) / 2
        hard -= math.log(softmax(given)[label]) / 2
    expected = soft_share * temperature**2 * soft + (1 - soft_share) * hard
    teacher_network = Constant(TEACHER.clone()).train()
    loss = Distillation(teacher_network, temperature=temperature, soft_share=soft_share)
    logits = LOGITS.clone().requires_grad_()
    value = loss(logits, torch.zeros(2, 3, 4, 4), LABELS)
    assert value.item() == pytest.approx(expected, rel=1e-5)
    torch.autograd.backward(value)
    assert logits.grad is not None
    assert teacher_network.logits.grad is None
    assert not teacher_network.training


def test_a_student_that_answers_like_its_teacher_has_nothing_to_learn() -> None:
    loss = Distillation(Constant(TEACHER.clone()), soft_share=1.0)
    logits = TEACHER.clone().requires_grad_()
    value = loss(logits, torch.zeros(2, 3, 4, 4), LABELS)
    torch.autograd.backward(value)
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert logits.grad is not None
    assert float(logits.grad.abs().max()) < 1e-6


def test_cross_entropy_by_hand() -> None:
    expected = sum(
        math.log(sum(math.exp(value) for value in row)) - row[label]
        for row, label in zip(LOGITS.tolist(), LABELS.tolist(), strict=True)
    )
    assert float(cross_entropy(LOGITS, torch.zeros(2, 3, 4, 4), LABELS)) == pytest.approx(expected / 2)


def narrow() -> nn.Module:
    return network_of(
        residual(depths=(1, 1, 1), stage_widths=(4, 6, 8), classes=OPTION_A.classes, input_size=(16, 16))
    )


def value_of(loss: Distillation, student: nn.Module) -> float:
    return float(loss(student(IMAGES), IMAGES, LABELS).detach())


def test_an_attention_map_by_hand() -> None:
    features = torch.tensor([[[[1.0, 2.0], [0.0, 0.0]], [[3.0, 0.0], [0.0, 2.0]]]])
    squares = torch.tensor([5.0, 2.0, 0.0, 2.0])
    assert torch.allclose(attention_map(features), (squares / squares.norm())[None])
    assert torch.allclose(attention_map(7 * features), attention_map(features))


def test_attention_adds_the_mean_squared_difference_of_every_stages_map() -> None:
    teacher, student = network_of(OPTION_A), narrow()
    stages = ("layer1", "layer2", "layer3")
    assert shared_stages(student, teacher) == stages
    expected = value_of(Distillation(teacher), student)
    given, wanted = student, teacher
    features = []
    for network in (given, wanted):
        out = network.get_submodule("relu")(network.get_submodule("bn1")(network.get_submodule("conv1")(IMAGES)))
        features.append([out := network.get_submodule(name)(out) for name in stages])
    for one, other in zip(*features, strict=True):
        difference = attention_map(one) - attention_map(other)
        expected += 50 * float(difference.detach().square().sum()) / difference.numel()
    loss = Distillation(teacher, attention=50)
    with loss.watching(student):
        value = loss(student(IMAGES), IMAGES, LABELS)
        torch.autograd.backward(value)
    # The teacher answers in bfloat16 where the CPU has it.
    assert float(value.detach()) == pytest.approx(expected, rel=0.02)
    assert all(p.grad is None for p in teacher.parameters())
    assert any(p.grad is not None for p in student.get_submodule("layer1").parameters())


def test_attention_needs_no_block_of_its_own_and_vanishes_for_the_teacher_itself() -> None:
    teacher = network_of(OPTION_A)
    network = own(lambda: shorter(teacher, OPTION_A))
    loss = Distillation(teacher, attention=1e3)
    with loss.watching(network):
        plain = float(value_of(Distillation(teacher), network))
        assert value_of(loss, network) > plain
    with loss.watching(teacher):
        assert float(value_of(loss, teacher)) == pytest.approx(
            float(value_of(Distillation(teacher), teacher)), abs=0.01
        )


def shorter(network: nn.Module, architecture: Architecture) -> nn.Module:
    return remove_blocks(network, architecture, ["layer2.1"])[0]


def test_a_network_that_is_no_resnet_learns_from_answers_alone() -> None:
    student = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    teacher = network_of(OPTION_A)
    loss = Distillation(teacher, attention=1e3)
    with loss.watching(student):
        assert shared_stages(student, teacher) == ()
        assert value_of(loss, student) == value_of(Distillation(teacher), student)


def test_hooks_are_gone_afterwards_and_the_loss_crosses_to_another_process() -> None:
    teacher, student = network_of(OPTION_A), narrow()
    loss = Distillation(teacher, attention=1e3)
    with loss.watching(student):
        inside = value_of(loss, student)
    assert not any(module._forward_hooks for net in (teacher, student) for module in net.modules())
    copy = pickle.loads(pickle.dumps(loss))
    with copy.watching(student):
        assert value_of(copy, student) == inside
