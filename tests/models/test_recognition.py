from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from random_statistics import with_random_statistics
from torch import Tensor

from pipeline.artifacts import Architecture
from pipeline.errors import CheckpointError
from pipeline.models.recognition import recognize, some
from pipeline.models.resnet import build_resnet
from pipeline.models.zoo import Bottleneck, residual

State = dict[str, Tensor]
TEN = tuple("abcdefghij")
STAGES = (4, 8, 16, 32)
NETWORKS = {
    "resnet18": residual(depths=(2, 2, 2, 2), stage_widths=STAGES, classes=TEN, stem="imagenet", shortcut="B"),
    "resnet34": residual(depths=(3, 4, 6, 3), stage_widths=STAGES, classes=TEN, stem="imagenet", shortcut="B"),
    "resnet18 with a CIFAR stem": residual(depths=(2, 2, 2, 2), stage_widths=STAGES, classes=TEN, shortcut="B"),
    **{
        f"resnet{number}": residual(
            depths=depths, stage_widths=STAGES, classes=TEN, stem="imagenet", shortcut="B", bottleneck=Bottleneck()
        )
        for number, depths in ((50, (3, 4, 6, 3)), (101, (3, 4, 23, 3)), (152, (3, 8, 36, 3)))
    },
    "wide_resnet50_2": residual(
        depths=(3, 4, 6, 3),
        stage_widths=STAGES,
        classes=TEN,
        stem="imagenet",
        shortcut="B",
        bottleneck=Bottleneck(inner=8),
    ),
    "resnext50_4x2d": residual(
        depths=(3, 4, 6, 3),
        stage_widths=STAGES,
        classes=TEN,
        stem="imagenet",
        shortcut="B",
        bottleneck=Bottleneck(groups=4, inner=8),
    ),
    **{
        f"resnet{6 * n + 2}, option {option}": residual(
            depths=(n, n, n), stage_widths=(4, 8, 16), classes=TEN, shortcut="A" if option == "A" else "B"
        )
        for n in (3, 9, 18)
        for option in "AB"
    },
}


def saved(architecture: Architecture) -> State:
    """The state dict as training code of others has it: option-A shortcuts hold no tensor."""
    state = with_random_statistics(build_resnet(architecture), seed=3).state_dict()
    leave_out = "downsample" if architecture.shortcut == "A" else "never"
    return {name: value for name, value in state.items() if leave_out not in name}


@pytest.fixture
def small() -> State:
    return saved(NETWORKS["resnet18 with a CIFAR stem"])


@pytest.mark.parametrize("name", NETWORKS)
def test_architecture_is_read_off_the_weights(name: str) -> None:
    architecture, state = recognize(saved(NETWORKS[name]), classes=TEN, input_size=None)
    assert architecture == NETWORKS[name]
    assert architecture.name == name.split(",")[0].split(" ")[0]
    network = build_resnet(architecture)
    missing, surplus = network.load_state_dict(state, strict=False)
    assert not surplus
    assert all(name.endswith("num_batches_tracked") for name in missing)


def prefixed(prefix: str) -> Callable[[State], State]:
    return lambda state: {prefix + name: value for name, value in state.items()}


def renamed(old: str, new: str) -> Callable[[State], State]:
    return lambda state: {name.replace(old, new): value for name, value in state.items()}


def detached_head(state: State) -> State:
    return {name if name.startswith("fc.") else f"backbone.{name}": value for name, value in state.items()}


def transformers(state: State) -> State:
    """As Hugging Face's ResNetForImageClassification names them."""
    names = {}
    for name, value in state.items():
        parts = name.split(".")
        if parts[0] == "fc":
            new = f"classifier.1.{parts[-1]}"
        elif len(parts) == 2:
            new = f"resnet.embedder.embedder.{'convolution' if 'conv' in name else 'normalization'}.{parts[-1]}"
        else:
            layer = "shortcut" if parts[2] == "downsample" else f"layer.{int(parts[2][-1]) - 1}"
            kind = "convolution" if "conv" in name or "downsample.0" in name else "normalization"
            new = f"resnet.encoder.stages.{int(parts[0][5:]) - 1}.layers.{parts[1]}.{layer}.{kind}.{parts[-1]}"
        names[new] = value
    return names


@pytest.mark.parametrize(
    "written",
    [
        prefixed("module."),
        prefixed("model."),
        prefixed("net."),
        prefixed("model.backbone."),
        prefixed("_orig_mod.module."),
        renamed("downsample", "shortcut"),
        renamed("fc.", "linear."),
        renamed("fc.", "fc.1."),
        renamed("fc.", "head.fc."),
        detached_head,
        transformers,
        lambda state: {name: value for name, value in state.items() if "num_batches" not in name},
        lambda state: {**prefixed("model.")(state), "criterion.weight": torch.ones(9), "train_acc.sum": torch.ones(1)},
    ],
)  # fmt: skip
def test_names_of_others(small: State, written: Callable[[State], State]) -> None:
    architecture, state = recognize(written(small), classes=TEN, input_size=None)
    assert architecture == NETWORKS["resnet18 with a CIFAR stem"]
    assert set(state) == {name for name in small if "num_batches" not in name}
    assert all(torch.equal(small[name], value) for name, value in state.items())


def test_our_own_option_a_file_is_an_ordinary_checkpoint() -> None:
    whole = with_random_statistics(build_resnet(NETWORKS["resnet20, option A"]), seed=3).state_dict()
    architecture, state = recognize(whole, classes=TEN, input_size=None)
    assert architecture == NETWORKS["resnet20, option A"]
    assert all(torch.equal(whole[name], value) for name, value in state.items())


def test_half_precision_is_widened(small: State) -> None:
    _, state = recognize({name: value.half() for name, value in small.items()}, classes=(), input_size=None)
    assert {value.dtype for value in state.values()} == {torch.float32}
    assert torch.equal(state["conv1.weight"], small["conv1.weight"].half().float())


def test_classes_and_size_follow_from_the_network_where_not_given(small: State) -> None:
    architecture, _ = recognize(small, classes=(), input_size=None)
    assert architecture.classes == tuple("0123456789")
    assert architecture.input_shape == (3, 32, 32)
    assert recognize(small, classes=(), input_size=(48, 64))[0].input_shape == (3, 48, 64)


def without(*names: str) -> Callable[[State], State]:
    return lambda state: {name: value for name, value in state.items() if not name.startswith(names)}


def changed(name: str, value: Tensor) -> Callable[[State], State]:
    return lambda state: {**state, name: value}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without("layer2.1.conv1.weight"), r"1 tensor is missing \(layer2\.1\.conv1\.weight\)"),
        (without("layer2.0.downsample.0"), r"1 tensor is missing \(layer2\.0\.downsample\.0\.weight\)"),
        (without("layer2.0.downsample"), r"5 tensors are missing \(layer2\.0\.downsample\.0\.weight, .* and 1 more\)"),
        (without("layer2"), r"stages layer1, layer2, … are needed, found: layer1, layer3, layer4"),
        (without("fc"), "no classifier in this file"),
        (without("fc.bias"), r"missing \(fc\.bias\)"),
        (without("conv1", "bn1"), "no ResNet in this file"),
        (without("layer"), "found: none"),
        (changed("layer1.0.se.weight", torch.ones(4)), r"1 tensor does not belong to it \(layer1\.0\.se\.weight\)"),
        (changed("normalize.mean", torch.ones(3)), r"1 tensor does not belong to it \(normalize\.mean\)"),
        (changed("aux.weight", torch.ones(3, 3)), r"2 linear layers in this file \(fc, aux\)"),
        (changed("ema.conv1.weight", torch.ones(4, 3, 3, 3)), r"2 networks in this file, under '', 'ema\.'"),
        (changed("layer1.0.bn1.bias", torch.ones(5)), r"layer1\.0\.bn1\.bias is 5 instead of 4"),
        (changed("layer1.0.conv1.weight", torch.ones(4)), r"layer1\.0\.conv1\.weight is 4, not the weight"),
        (changed("layer1.0.conv2.weight", torch.ones(5, 4, 3, 3)), r"layer1\.0 adds 5 channels .* shortcut of 4"),
        (changed("conv1.weight", torch.ones(4, 1, 3, 3)), "images with 1 channels; only RGB"),
        (changed("conv1.weight", torch.ones(4, 3, 5, 5)), r"the stem conv1\.weight is 4x3x5x5"),
        (changed("conv1.weight", torch.ones(4)), r"the stem conv1\.weight is 4;"),
        (changed("bn1.bias", torch.full((4,), float("nan"))), r"1 tensor has values .* not finite \(bn1\.bias\)"),
        (changed("fc.bias", torch.full((10,), float("inf"))), r"not finite \(fc\.bias\)"),
        (changed("bn1.running_var", torch.tensor([1.0, -1, 1, 1])), r"negative variances in bn1\.running_var"),
        (changed("bn1.bias", torch.ones(4, dtype=torch.int8)), "bn1.bias has int8 values"),
    ],
)  # fmt: skip
def test_each_fault_has_its_own_message(small: State, damage: Callable[[State], State], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        recognize(damage(small), classes=TEN, input_size=None)


def test_wrong_class_count(small: State) -> None:
    with pytest.raises(CheckpointError, match=r"has 10 output classes, the dataset has 3 \(cat, dog, frog\)"):
        recognize(small, classes=("cat", "dog", "frog"), input_size=None)


def test_long_lists_are_cut() -> None:
    assert some(["a", "b"]) == "a, b"
    assert some("abcdef") == "a, b, c, d and 2 more"


def test_pruned_widths_are_recognized_too() -> None:
    plain = NETWORKS["resnet20, option A"]
    widths = {name: width // 2 if name.endswith(".conv1") else width for name, width in plain.widths.items()}
    pruned = replace(plain, widths=widths)
    assert recognize(build_resnet(pruned).state_dict(), classes=TEN, input_size=None)[0].widths == widths
