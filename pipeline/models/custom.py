"""The user's own networks: made by their factory, resized to the widths of their weights."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.artifacts import Architecture
from pipeline.errors import CheckpointError
from pipeline.models.recognition import LEFTOVER, State, check_names, check_shapes, checked_values, name_classes
from pipeline.models.user_code import import_module

# Errors that the user's code may raise when imported or called.
USER_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def adopt(
    factory: str, state: Mapping[str, Tensor], *, classes: tuple[str, ...], input_size: tuple[int, int] | None
) -> tuple[nn.Module, Architecture]:
    """Return the user's network with `state`, strictly checked and run once; raise `CheckpointError`."""
    if input_size is None:
        raise CheckpointError(
            f"the input size of {factory} is unknown: give the crop in [preprocessing], such as crop = 224."
        )
    network = call_factory(factory)
    own = {name: value for name, value in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    named = _without_prefix(state, own)
    cure = f"The factory {factory} must make the network that was trained."
    check_names(frozenset(own), named, cure)
    check_shapes({name: value.shape for name, value in own.items()}, named, cure)
    checked = checked_values({name: named[name] for name, value in own.items() if value.is_floating_point()})
    network.load_state_dict(named | checked, strict=False)  # only counters may be missing
    network.eval()
    return network, Architecture(
        family="custom",
        name=factory,
        block="custom",
        depths=(),
        stem="custom",
        shortcut="custom",
        input_shape=(3, *input_size),
        classes=name_classes(classes, _outputs(network, factory, input_size)),
        factory=factory,
    )


def call_factory(factory: str) -> nn.Module:
    """Import and call `package.module:function`; the working directory is importable."""
    module_name, _, function = factory.partition(":")
    try:
        network: object = getattr(import_module(module_name), function)()
    except USER_ERRORS as error:
        raise CheckpointError(
            f"the factory {factory} failed: {type(error).__name__}: {error}. It is imported with {Path.cwd()} "
            "on the path and called without arguments."
        ) from error
    if not isinstance(network, nn.Module):
        raise CheckpointError(f"the factory {factory} returned a {type(network).__name__}, not a torch.nn.Module.")
    return network


def build_custom(factory: str, state: Mapping[str, Tensor]) -> nn.Module:
    """Return the factory's network with its layers resized to the shapes in `state`, and `state` loaded."""
    network = call_factory(factory)
    own = network.state_dict()
    for name, module in network.named_modules():
        prefix = f"{name}." if name else ""
        held = {key: prefix + key for key in module.state_dict() if "." not in key}
        if any(name in state and own[name].shape != state[name].shape for name in held.values()):
            resize(module, {key: state[name].shape for key, name in held.items()})
    try:
        network.load_state_dict(dict(state))
    except RuntimeError as error:
        raise CheckpointError(f"the factory {factory} no longer makes the network that was loaded: {error}") from None
    return network


def resize(module: nn.Module, shapes: Mapping[str, torch.Size]) -> None:
    """Give a convolution, linear layer or batch normalization new tensors of `shapes`."""
    if isinstance(module, nn.Conv2d):
        out_channels, in_per_group = shapes["weight"][:2]
        if module.groups == module.in_channels:  # depthwise: groups go with the channels
            module.groups = out_channels // (module.out_channels // module.groups)
        module.out_channels, module.in_channels = out_channels, in_per_group * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = shapes["weight"]
    elif isinstance(module, NORMS):
        module.num_features = shapes["running_mean"][0]
    else:
        raise CheckpointError(f"a {type(module).__name__} cannot be rebuilt with another width.")
    for name, shape in shapes.items():
        old = getattr(module, name)
        fresh = torch.empty(shape, dtype=old.dtype)
        setattr(module, name, nn.Parameter(fresh, old.requires_grad) if isinstance(old, nn.Parameter) else fresh)


def _without_prefix(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> State:
    """Remove the prefix under which most of the network's tensors are found."""
    first = next(iter(own), "")
    prefixes = {name.removesuffix(first) for name in state if name.endswith(first)} | {""}
    prefix = max(sorted(prefixes, key=len), key=lambda prefix: sum(prefix + name in state for name in own))
    inside = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    outside = {name: value for name, value in state.items() if not name.startswith(prefix)}
    return inside | {name: value for name, value in outside.items() if not LEFTOVER.match(name)}


def _outputs(network: nn.Module, factory: str, input_size: tuple[int, int]) -> int:
    shape = (1, 3, *input_size)
    try:
        with torch.no_grad():
            logits: object = network(torch.zeros(shape))
    except USER_ERRORS as error:
        raise CheckpointError(
            f"the network of {factory} does not accept an image {shape}: {type(error).__name__}: {error}."
        ) from error
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        what = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise CheckpointError(f"the network of {factory} returns {what}; it must return one row of logits per image.")
    return logits.shape[1]
