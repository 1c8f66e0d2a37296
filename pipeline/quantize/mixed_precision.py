"""Rescue: return the fewest layers to float if int8 in all layers would lose more than is allowed.

    1  Measure each layer's fragility: the change of the answers when only it is quantized.
        2  Return the most fragile layers to float, until the int8 layers lose no more than allowed.
        3  Return layers to int8 one by one, the most expensive first, as long as the loss is allowed.

All of it uses the selection split and ONNX Runtime's grid in PyTorch, which the exported file reproduces. The loss
is measured against the network before it was quantized: no layer in float restores what pruning lost.
Weights and ranges do not change.

Fragility is measured on images: one layer is quantized, all others compute in float.

It is the Kullback-Leibler divergence of the answers, as in ZeroQ (Cai et al. 2020,
https://arxiv.org/abs/2001.00281, equation 6), one layer at a time, as Wu et al. (2020,
https://arxiv.org/abs/2004.09602, section 5.1) order layers for partial quantization. The reverse, one layer in float
and all others in int8, would not work: a tensor with a bad range is quantized if either the layer that writes it or
the one that reads it runs in int8, so neither of the two alone would seem to matter.

Also the CPU time of a quantized network with some layers in float, in the target's runtime on this host.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import onnx
from torch import fx, nn

from pipeline.artifacts import Checkpoint
from pipeline.data.batches import Batches
from pipeline.data.readers import Dataset
from pipeline.data.sampling import at_most, count_right
from pipeline.models.checkpoint import build_network, save_network
from pipeline.models.resnet import is_constant_shortcut
from pipeline.progress import Progress, Silent, portion, reporting
from pipeline.quantize.fake_quant import Mode, set_mode
from pipeline.quantize.marked_graph import export_marked
from pipeline.quantize.network import build_quantized, points_of, quantized_layers, with_float
from pipeline.quantize.result import FloatLayer, Rescue, write_rescue
from pipeline.training.evaluation import divergence, logits_of
from targets.device.model.preprocess import Preprocessing
from targets.dialects.write import write_dialect
from targets.runtimes.registry import RUNTIMES
from targets.target import Target


def fragilities(quantized: fx.GraphModule, images: Batches, *, progress: Progress) -> dict[str, float]:
    """Return the divergence in nats by layer; the network is left in float mode.

    A layer is quantized with its input, weights, bias and output. The constant selection of an option-A shortcut
    does not change values and is left out.
    """
    set_mode(quantized, Mode.FLOAT)
    wanted = logits_of(quantized, images)
    found, points = {}, {point.name: point for point in points_of(quantized)}
    layers = {name: layer for name, layer in quantized_layers(quantized).items() if not is_constant_shortcut(layer)}
    with progress.task("int8 layer by layer", len(layers)) as advance:
        for name, layer in layers.items():
            # A layer's output point has the layer's name; the logits have no point.
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


EXPORTED = 0.8
"""Share of the reported progress for the export, which takes longer than the timing."""


@dataclass(frozen=True, kw_only=True)
class Toll:
    checkpoint: Checkpoint
    target: Target
    threads: int
    progress: Progress = field(default_factory=Silent)

    def times_ms(self, sets: Sequence[frozenset[str]]) -> list[float]:
        """Return milliseconds at batch 1 for each set of layers in float, all timed in turn in one run."""
        runtime = RUNTIMES[self.target.runtime]
        options = runtime.session_options(self.target, threads=self.threads)
        with (
            reporting(self.progress, "time layers in float", len(sets)) as report,
            tempfile.TemporaryDirectory(prefix="edge-deploy-") as folder,
        ):
            files = []
            for index, layers in enumerate(sets):
                with portion(report, EXPORTED / len(sets)):
                    files.append(self._write(layers, Path(folder) / f"{index}.onnx"))
            with portion(report, 1 - EXPORTED) as part:
                return [latency.cpu_ms for latency in runtime.time(files, options=options, report=part)]

    def _write(self, layers: frozenset[str], path: Path) -> Path:
        network, quantization = with_float(self.checkpoint, layers)
        marked = export_marked(network, self.checkpoint.architecture.input_shape)
        onnx.save(write_dialect(marked, quantization, self.target.dialect), path)
        return path


IMAGES = 512
"""For the order of layers: a mean divergence needs fewer images than an accuracy."""
MAX_SHARE = 0.5
"""Of the layers: with more of them in float there is little gain over fp32, which is a candidate anyway."""
MAX_TIMED = 8
"""Layers timed one by one; each needs an export."""
NOTHING: frozenset[str] = frozenset()

Drop = Callable[[frozenset[str]], float]
"""Layers in float → points of top-1 lost."""


def rescue(
    quantized: Checkpoint,
    before: Checkpoint,
    dataset: Dataset,
    preprocessing: Preprocessing,
    *,
    max_drop: float,
    toll: Toll | None,
    progress: Progress,
    folder: Path,
) -> None:
    """Write the network of `quantized` with more layers in float, and `rescue.json`, into `folder`.

    `before` is the network before quantization. `toll`: None if the target cannot be timed here. If even half of the
    layers in float would not suffice, none is returned to float, and the file says so.
    """
    selection = dataset.selection
    drop = _drop_of(quantized, before, Batches(selection, preprocessing), progress)
    progress.detail(f"measuring the effect of int8 layer by layer on {min(IMAGES, len(selection))} images")
    few = Batches(at_most(selection, IMAGES), preprocessing)
    fragile = fragilities(build_quantized(quantized), few, progress=progress)
    ranking = sorted(fragile, key=lambda name: -fragile[name])
    first = shortest(ranking[: int(len(ranking) * MAX_SHARE)], drop, max_drop)
    times = _times(first, toll)
    costs = {name: times[frozenset({name})] - times[NOTHING] for name in first if frozenset({name}) in times}
    chosen = fewest(first, drop, max_drop, costs)
    if toll is not None and frozenset(chosen) not in times:
        times = dict(zip((NOTHING, frozenset(chosen)), toll.times_ms([NOTHING, frozenset(chosen)]), strict=True))
    layers = tuple(
        FloatLayer(
            name=name,
            divergence=fragile[name],
            gain_points=drop(frozenset(chosen) - {name}) - drop(frozenset(chosen)),
            cost_ms=costs.get(name),
        )
        for name in chosen
    )
    _write_checkpoint(quantized, chosen, folder)
    found = Rescue(
        images=len(selection),
        max_drop=max_drop,
        int8_drop_points=drop(NOTHING),
        drop_points=drop(frozenset(chosen)),
        layers=layers,
        divergences=fragile,
        int8_ms=times.get(NOTHING),
        mixed_ms=times.get(frozenset(chosen)),
    )
    write_rescue(found, folder)


def shortest(ranking: Sequence[str], drop: Drop, max_drop: float) -> tuple[str, ...]:
    """Return the shortest prefix of `ranking` that suffices, by doubling and bisection; () if none does."""
    low, high = 0, 1
    while high <= len(ranking) and drop(frozenset(ranking[:high])) > max_drop:
        low, high = high, max(high + 1, min(2 * high, len(ranking)))
    if high > len(ranking):
        return ()
    while high - low > 1:
        middle = (low + high) // 2
        if drop(frozenset(ranking[:middle])) > max_drop:
            low = middle
        else:
            high = middle
    return tuple(ranking[:high])


def fewest(layers: Sequence[str], drop: Drop, max_drop: float, costs: Mapping[str, float]) -> tuple[str, ...]:
    """Return those of `layers`, the most fragile first, that cannot return to int8; the most expensive, then the
    least fragile, are tried first."""
    kept = list(layers)
    for name in sorted(reversed(layers), key=lambda name: -costs.get(name, 0.0)):
        without = [each for each in kept if each != name]
        if without and drop(frozenset(without)) <= max_drop:
            kept = without
    return tuple(kept)


def _drop_of(quantized: Checkpoint, before: Checkpoint, selection: Batches, progress: Progress) -> Drop:
    labels = selection.images.labels
    float_answers = logits_of(build_network(before), selection, progress=progress, name="float answers")
    float_right = count_right(float_answers, labels)
    known: dict[frozenset[str], float] = {}

    def drop(float_layers: frozenset[str]) -> float:
        if float_layers not in known:
            network, name = build_quantized(quantized, also_float=float_layers), f"{len(float_layers)} layers in float"
            answers = logits_of(network, selection, progress=progress, name=name)
            known[float_layers] = 100 * (float_right - count_right(answers, labels)) / len(labels)
        return known[float_layers]

    return drop


def _times(layers: Sequence[str], toll: Toll | None) -> dict[frozenset[str], float]:
    """Return milliseconds with none, all, and each one of `layers` in float, in one run; empty if not timed.

    If there are many layers, only none and all.
    """
    if toll is None:
        return {}
    alone = [frozenset({name}) for name in layers] if len(layers) <= MAX_TIMED else []
    sets = list(dict.fromkeys([NOTHING, frozenset(layers), *alone]))
    return dict(zip(sets, toll.times_ms(sets), strict=True))


def _write_checkpoint(quantized: Checkpoint, also_float: Sequence[str], folder: Path) -> None:
    _, quantization = with_float(quantized, also_float)
    save_network(build_network(quantized), quantized.architecture, folder)
    (folder / "quantization.json").write_text(quantization.to_json())
