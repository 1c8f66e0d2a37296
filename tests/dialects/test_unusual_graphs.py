"""Networks of the user's own, whose layers do not end up as a residual network's do."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from tiny_quantized import calibrated, marked, noise
from torch import Tensor, nn

from pipeline.artifacts import Dialect
from pipeline.errors import ExportError
from pipeline.export.parity import MODES, check_parity
from pipeline.quantize.fake_quant import set_mode
from targets.device.model.cpu import saturates_8bit
from targets.device.model.onnxruntime_session import OnnxRuntimeSession
from targets.dialects.write import layer_names, write_dialect

SIDE = 8
INTEGER = (Dialect.ONNXRUNTIME, Dialect.TENSORRT)


class ConvolutionalHead(nn.Module):
    """Its logits are a reshaped convolution, so that a point is the last thing in the marked graph."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 6)

    def forward(self, images: Tensor) -> Tensor:
        return torch.flatten(self.head(torch.relu(self.conv(images))), 1)


class Tokens(nn.Module):
    """A Linear on [B, positions, channels] is exported as MatMul."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.mix = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.mix(self.conv(images).flatten(2).transpose(1, 2)).mean(1)
        return result


class Reflecting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect")
        self.fc = nn.Linear(8, 4, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.fc(torch.relu(self.conv(images)).mean((2, 3)))
        return result


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.twice = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        out = torch.relu(self.twice(torch.relu(self.twice(torch.relu(self.stem(images))))))
        result: Tensor = self.fc(out.mean((2, 3)))
        return result


def seeded(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind().eval()


def check_against_torch(network: nn.Module, folder: Path, keep_float: tuple[str, ...] = ()) -> dict[Dialect, set[str]]:
    """Write every dialect, compare each with PyTorch on its grid; returns the names of the layers."""
    model, quantization = marked(network, keep_float=keep_float, side=SIDE)
    reference = calibrated(network, keep_float=keep_float, side=SIDE)
    names = {}
    for dialect in Dialect:
        written = write_dialect(model, quantization, dialect)
        onnx.checker.check_model(written, full_check=True)
        onnx.save(written, folder / f"{dialect}.onnx")
        set_mode(reference, MODES[dialect])
        # Unoptimized, ONNX Runtime computes what the file says, whatever its int8 kernels do.
        session = OnnxRuntimeSession(folder / f"{dialect}.onnx", {"graph_optimization_level": "disable"})
        wanted = reference(noise(5, SIDE)).detach().numpy()
        np.testing.assert_allclose(session.infer(noise(5, SIDE).numpy()), wanted, atol=0.02 * np.ptp(wanted))
        if dialect is not Dialect.ONNXRUNTIME or not saturates_8bit():
            check_parity(reference, folder / f"{dialect}.onnx", dialect, noise(5, SIDE).numpy())
        names[dialect] = set(layer_names(written))
    return names


@pytest.mark.slow
def test_a_point_at_the_very_end_keeps_the_outputs_name(tmp_path: Path) -> None:
    names = check_against_torch(seeded(ConvolutionalHead), tmp_path)
    assert names[Dialect.ONNXRUNTIME] == {"conv", "head"}
    assert [value.name for value in onnx.load(tmp_path / "onnxruntime.onnx").graph.output] == ["logits"]


@pytest.mark.slow
def test_a_float_layer_that_is_called_twice_has_two_names(tmp_path: Path) -> None:
    names = check_against_torch(seeded(Shared), tmp_path, keep_float=("twice",))
    assert {"stem", "twice", "fc"} < names[Dialect.ONNXRUNTIME]
    assert len(names[Dialect.ONNXRUNTIME]) == 4


def test_a_layer_without_bias_needs_no_grid_for_it(tmp_path: Path) -> None:
    names = check_against_torch(seeded(Reflecting), tmp_path, keep_float=("conv",))
    assert names[Dialect.TENSORRT] == {"conv", "fc"}


@pytest.mark.slow
def test_padding_between_points_and_layer_is_an_error_that_names_the_cure() -> None:
    model, quantization = marked(seeded(Reflecting), side=SIDE)
    with pytest.raises(ExportError, match=r"conv cannot run in int8: .*padding.*keep_float") as caught:
        write_dialect(model, quantization, Dialect.ONNXRUNTIME)
    assert caught.value.exit_code == 8


@pytest.mark.slow
@pytest.mark.parametrize("dialect", INTEGER)
def test_a_planned_layer_that_is_no_conv_or_gemm_is_not_passed_over(dialect: Dialect) -> None:
    model, quantization = marked(seeded(Tokens), side=SIDE)
    with pytest.raises(ExportError, match="mix: quantized, but not a Conv or Gemm in the exported graph"):
        write_dialect(model, quantization, dialect)


@pytest.mark.slow
def test_it_can_be_kept_in_float(tmp_path: Path) -> None:
    names = check_against_torch(seeded(Tokens), tmp_path, keep_float=("mix",))
    assert names[Dialect.ONNXRUNTIME] == {"conv"}
