"""Rescue: put the fewest layers back in float where int8 in all of them would lose more than is allowed.

    1  Each layer's fragility: how far the answers move when it alone is quantized (`pipeline.quantize.fragility`).
    2  The most fragile layers go to float, until what is left in int8 loses no more than allowed.
    3  One by one, the dearest in time first, they go back to int8 as long as that stays so.

All on the selection split, on ONNX Runtime's grid in PyTorch, which the exported file repeats number by number. What
is allowed is held against the network before it was quantized: what pruning lost, no layer in float brings back.
Weights and ranges stay as they are.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pipeline.artifacts import Checkpoint
from pipeline.data.batches import Batches
from pipeline.data.readers import Dataset
from pipeline.data.selection import at_most, count_right
from pipeline.models.checkpoint import build_network, save_network
from pipeline.progress import Progress
from pipeline.quantize.fragility import fragilities
from pipeline.quantize.network import build_quantized, with_float
from pipeline.quantize.result import FloatLayer, Rescue, write_rescue
from pipeline.quantize.toll import Toll
from pipeline.training.evaluation import logits_of
from targets.device.model.preprocess import Preprocessing

IMAGES = 512
"""For the order of layers: a mean over answers settles long before a count of right ones."""
MOST_SHARE = 0.5
"""Of the layers: with more of them in float little is left of int8, and fp32 stands beside it as a candidate."""
MOST_TIMED = 8
"""Layers whose time is measured one by one; each costs an export."""
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

    `before` is the network that was quantized. `toll`: None where the target's clock is not at hand. Where not
    even half of the layers in float would suffice, none is: the file says so.
    """
    selection = dataset.selection
    drop = _drop_of(quantized, before, Batches(selection, preprocessing), progress)
    progress.detail(f"measuring what int8 costs layer by layer on {min(IMAGES, len(selection))} images")
    few = Batches(at_most(selection, IMAGES), preprocessing)
    fragile = fragilities(build_quantized(quantized), few, progress=progress)
    ranking = sorted(fragile, key=lambda name: -fragile[name])
    first = shortest(ranking[: int(len(ranking) * MOST_SHARE)], drop, max_drop)
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
    """The shortest beginning of `ranking` that suffices, found by doubling and halving; () where none does."""
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
    """Those of `layers`, the most fragile first, that cannot go back to int8; the dearest, then the least fragile,
    are tried first."""
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
    """Milliseconds with none, all, and each one of `layers` in float, in one run; empty where nothing is timed.

    Where there are many, only none and all.
    """
    if toll is None:
        return {}
    alone = [frozenset({name}) for name in layers] if len(layers) <= MOST_TIMED else []
    sets = list(dict.fromkeys([NOTHING, frozenset(layers), *alone]))
    return dict(zip(sets, toll.times_ms(sets), strict=True))


def _write_checkpoint(quantized: Checkpoint, also_float: Sequence[str], folder: Path) -> None:
    _, quantization = with_float(quantized, also_float)
    save_network(build_network(quantized), quantized.architecture, folder)
    (folder / "quantization.json").write_text(quantization.to_json())
