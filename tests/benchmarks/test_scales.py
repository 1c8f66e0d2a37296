"""Other ways to a scale: what they compute, what they learn, and that each of them exports exactly."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto
from scales.averaged import MOMENTUM, AveragedRange
from scales.clipped import best_shares
from scales.learned import LearnedRange, learn_weights
from tiny_quantized import CLASSES, SIDE, calibrated, float_network, noise
from torch import Tensor, fx
from torch.nn import functional as F

from pipeline.artifacts import ActivationRange, Dialect
from pipeline.quantize.fake_quant import Mode, Point, QuantizedConv2d, Quantizer, set_mode
from pipeline.quantize.marked_graph import export_marked
from pipeline.quantize.network import points_of, quantization_of, quantized_layers
from pipeline.quantize.ranges import Histogram
from targets.device.model.onnxruntime_session import OnnxRuntimeSession
from targets.dialects.write import write_dialect

SIGNED = ActivationRange(amax=2.0, signed=True, post_relu=False)
POSITIVE = ActivationRange(amax=2.0, signed=False, post_relu=True)
MODES = {Dialect.ONNXRUNTIME: Mode.ONNXRUNTIME, Dialect.TENSORRT: Mode.TENSORRT}


def values() -> Tensor:
    return torch.randn(4, 500, generator=torch.Generator().manual_seed(0))


def point_with(moving: AveragedRange | LearnedRange, activation: ActivationRange) -> Point:
    made = Point("somewhere", post_relu=activation.post_relu)
    made.range, made.moving, made.mode = activation, moving, Mode.ONNXRUNTIME
    return made.train()


@pytest.mark.parametrize("activation", [SIGNED, POSITIVE], ids=["signed", "positive"])
def test_a_learned_range_rounds_as_every_point_does(activation: ActivationRange) -> None:
    x = values() if activation.signed else values().relu()
    point = point_with(LearnedRange(activation), activation)
    learned = point(x, False)
    assert point.known_range().amax == pytest.approx(2.0, rel=1e-6)
    torch.testing.assert_close(learned, point.eval()(x, False))


@pytest.mark.parametrize("activation", [SIGNED, POSITIVE], ids=["signed", "positive"])
def test_the_gradient_of_a_step_is_that_of_the_paper(activation: ActivationRange) -> None:
    """Equation 3 of Esser et al., element by element, with its weight of 1 / sqrt(N Qp)."""
    x = (values() if activation.signed else values().relu()).requires_grad_()
    moving = LearnedRange(activation)
    upstream = torch.linspace(-1, 1, x.numel()).reshape(x.shape)
    torch.autograd.backward(moving(x), upstream)
    step, low, high = float(moving.scale.detach()), *((-128, 127) if activation.signed else (0, 255))
    v = x.detach() / step
    of_step = torch.where(v <= low, float(low), torch.where(v >= high, float(high), v.round() - v))
    wanted = (upstream * of_step).sum() / (500 * high) ** 0.5
    assert moving.scale.grad is not None
    assert x.grad is not None
    torch.testing.assert_close(moving.scale.grad, wanted, rtol=1e-3, atol=1e-4)
    assert torch.equal(x.grad != 0, (upstream != 0) & (v >= low) & (v <= high))


def test_a_bad_step_is_learned_away() -> None:
    x, point = (
        values().relu(),
        point_with(LearnedRange(ActivationRange(amax=0.3, signed=False, post_relu=True)), POSITIVE),
    )
    optimizer = torch.optim.SGD(point.parameters(), lr=1e-3)
    errors = []
    for _ in range(200):
        loss = (point(x, False) - x).square().mean()
        errors.append(float(loss.detach()))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    assert errors[-1] < 0.05 * errors[0]
    assert 2 < point.known_range().amax < 2 * float(x.max())


def test_learned_weights_start_on_the_grid_that_was_and_have_the_papers_gradient() -> None:
    torch.manual_seed(0)
    layer = QuantizedConv2d(torch.nn.Conv2d(4, 6, 3), Quantizer("conv", point_with(LearnedRange(SIGNED), SIGNED), 8))
    set_mode(layer, Mode.ONNXRUNTIME)
    before, _ = layer.quantizer(layer.weight, layer.bias)
    learn_weights(layer)
    after, _ = layer.quantizer(layer.weight, layer.bias)
    torch.testing.assert_close(after, before)
    scales = layer.get_parameter("weight_scales")
    with torch.no_grad():
        scales.mul_(0.5)  # so that some are clipped
    upstream = torch.linspace(-1, 1, after.numel()).reshape(after.shape)
    torch.autograd.backward(layer.quantizer(layer.weight, layer.bias)[0], upstream)
    v = layer.weight.detach() / scales.detach().reshape(-1, 1, 1, 1)
    of_scale = torch.where(v.abs() >= 127, 127 * v.sign(), v.round() - v)
    assert scales.grad is not None
    torch.testing.assert_close(
        scales.grad, (upstream * of_scale).flatten(1).sum(1) / (36 * 127) ** 0.5, rtol=1e-3, atol=1e-4
    )


def test_an_averaged_range_follows_the_largest_value_of_each_batch_in_training_alone() -> None:
    point = point_with(AveragedRange(POSITIVE), POSITIVE)
    x = torch.full((2, 3), 4.0)
    first = point(x, False)
    amax = 2.0 + MOMENTUM * (4.0 - 2.0)
    assert point.known_range().amax == pytest.approx(amax)
    assert float(first.max()) == pytest.approx(amax, rel=1e-5)
    point.eval()(x, False)
    assert point.known_range().amax == pytest.approx(amax)
    point.train()
    for _ in range(1000):
        point(x, False)
    assert point.known_range().amax == pytest.approx(4.0, rel=1e-3)


def test_weights_are_clipped_where_that_loses_least() -> None:
    weight = torch.randn(5, 300, generator=torch.Generator().manual_seed(0))
    weight[0, 0] = 4 * weight[0].abs().max()
    weight[1] = weight[1].sign()
    weight[4] = 0
    limit = 7  # few steps: there clipping pays

    def errors(shares: Tensor) -> Tensor:
        scales = (weight.abs().amax(1) * shares / limit).clamp(min=1e-9)[:, None]
        return ((weight / scales).round().clamp(-limit, limit) * scales - weight).square().sum(1)

    found = best_shares(weight, limit)
    assert found[0] < 0.8
    assert found[1] == 1
    assert bool((errors(found) <= errors(torch.ones(5)) + 1e-6).all())
    assert all(bool((errors(found) <= errors(torch.full((5,), share)) + 1e-4).all()) for share in (0.4, 0.6, 0.8))


@pytest.mark.parametrize("share", [0.5, 0.99, 0.999, 1.0])
def test_a_percentile_range_holds_its_share(share: float) -> None:
    x = values().flatten()
    histogram = Histogram()
    for batch in torch.split(x, 100):
        histogram.observe(batch)
    found = histogram.percentile_range(share, post_relu=False)
    assert found.amax == pytest.approx(float(x.abs().quantile(share)), abs=2 * histogram.limit / 2048)
    assert found.signed
    assert Histogram().percentile_range(share, post_relu=True).amax == 1.0


def learned(network: fx.GraphModule) -> None:
    for point in points_of(network):
        point.moving = LearnedRange(point.known_range())
    for layer in quantized_layers(network).values():
        learn_weights(layer)


def averaged(network: fx.GraphModule) -> None:
    for point in points_of(network):
        point.moving = AveragedRange(point.known_range())


def clipped(network: fx.GraphModule) -> None:
    for layer in quantized_layers(network).values():
        layer.quantizer.shares = best_shares(layer.weight, layer.quantizer.limit)


def percentile(network: fx.GraphModule) -> None:
    for point in points_of(network):
        point.range = point.histogram.percentile_range(0.999, post_relu=point.post_relu)


@pytest.fixture(scope="module")
def model() -> ModelProto:
    """One export serves all: ways to a scale change parameters, not the graph."""
    return export_marked(calibrated(float_network("option A")), (3, SIDE, SIDE))


@pytest.mark.parametrize("way", [learned, averaged, clipped, percentile])
def test_every_way_exports_exactly_to_both_dialects(
    way: Callable[[fx.GraphModule], None], model: ModelProto, tmp_path: Path
) -> None:
    network = calibrated(float_network("option A"))
    plain = quantization_of(network, weight_bits=8, float_layers=())
    way(network)
    _train_scales(network)
    quantization = quantization_of(network, weight_bits=8, float_layers=())
    assert quantization != plain
    x = noise(16)
    for dialect, mode in MODES.items():
        onnx.save(write_dialect(model, quantization, dialect), tmp_path / "model.onnx")
        set_mode(network, mode)
        with (
            torch.no_grad(),
            OnnxRuntimeSession(tmp_path / "model.onnx", {"graph_optimization_level": "disable"}) as it,
        ):
            wanted, found = network(x).numpy(), it.infer(x.numpy())
        assert float(np.abs(found - wanted).mean()) < 2e-3 * np.ptp(wanted)


def _train_scales(network: fx.GraphModule) -> None:
    """A few steps of what moves besides weights and biases, which the exported graph holds."""
    own = [value for name, value in network.named_parameters() if "scale" in name]
    for _ in range(3):
        network.train()
        loss = F.cross_entropy(network(noise(16)), torch.arange(16) % len(CLASSES))
        if own:
            for parameter, gradient in zip(own, torch.autograd.grad(loss, own), strict=True):
                with torch.no_grad():
                    parameter.sub_(0.01 * gradient.clamp(-1e-3, 1e-3))
    network.eval()
