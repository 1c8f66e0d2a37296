"""How much each layer suffers from int8, measured on images: it alone is quantized, all else computes in float.

The measure is the Kullback-Leibler divergence of the answers, as in ZeroQ (Cai et al. 2020,
https://arxiv.org/abs/2001.00281, equation 6), one layer at a time, as Wu et al. (2020,
https://arxiv.org/abs/2004.09602, section 5.1) order layers for partial quantization. The reverse, one layer in float
and all else in int8, would not do: a tensor with a bad range is quantized as long as the layer that writes it or the
one that reads it runs in int8, so neither of the two alone would seem to matter.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import fx, nn

from pipeline.data.batches import Batches
from pipeline.models.resnet import is_constant_shortcut
from pipeline.progress import Progress
from pipeline.quantize.fake_quant import Mode, set_mode
from pipeline.quantize.network import points_of, quantized_layers
from pipeline.training.divergence import divergence
from pipeline.training.evaluation import logits_of


def fragilities(quantized: fx.GraphModule, images: Batches, *, progress: Progress) -> dict[str, float]:
    """Divergence in nats by layer; the network is left in float mode.

    A layer is quantized with its input, weights, bias and output. The constant selection of an option-A shortcut
    hands values on and is left out.
    """
    set_mode(quantized, Mode.FLOAT)
    wanted = logits_of(quantized, images)
    found, points = {}, {point.name: point for point in points_of(quantized)}
    layers = {name: layer for name, layer in quantized_layers(quantized).items() if not is_constant_shortcut(layer)}
    with progress.task("int8 layer by layer", len(layers)) as advance:
        for name, layer in layers.items():
            # What a layer writes is called after it; the logits have no point.
            own = [layer, layer.quantizer.source, *([points[name]] if name in points else [])]
            with _alone(own):
                found[name] = divergence(logits_of(quantized, images), wanted)
            advance(note=name)
    return found


@contextmanager
def _alone(parts: Sequence[nn.Module]) -> Iterator[None]:
    for part in parts:
        set_mode(part, Mode.ONNXRUNTIME)
    yield
    for part in parts:
        set_mode(part, Mode.FLOAT)
