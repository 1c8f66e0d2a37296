"""Choose the subnetworks to time, so that each layer shape occurs with each pair of its widths."""

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from onnx import ModelProto

from pipeline.artifacts import Quantization
from pipeline.latency.subnetwork import Site, Subnetwork
from pipeline.models.surgery import Group

MAX_WIDTHS = 8
"""Of a group's grid: the pairs of a layer's two widths grow with its square."""
Cell = tuple[str, int, int]
"""A layer's shape, its input and output channels."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The network to profile, as a graph that can be cut."""

    marked: ModelProto
    quantization: Quantization
    layers: Mapping[str, Site]
    shapes: Mapping[str, str]
    full: Mapping[str, int]
    grid: Mapping[str, tuple[int, ...]]
    removable: tuple[str, ...]

    def cells(self, subnetwork: Subnetwork) -> Iterator[tuple[str, Cell]]:
        """Yield each remaining layer, and its cell of the table."""
        for name, site in self.layers.items():
            if not any(name.startswith(f"{block}.") for block in subnetwork.removed):
                yield name, (self.shapes[name], *site.size(subnetwork.widths, self.full))


def widths_of(group: Group, multiple: int) -> tuple[int, ...]:
    """Return a group's grid, ascending, up to the full width: half multiples, or larger steps for eight widths."""
    step = math.lcm(max(1, multiple // 2), group.parts)
    while group.width / step > MAX_WIDTHS:
        step *= 2
    return (*range(step, group.width, step), group.width)


def plan_subnetworks(subject: Subject, rng: random.Random) -> list[Subnetwork]:
    """Return subnetworks that contain every cell; greedy, as usual for covering arrays of strength two."""
    missing = {cell for name in subject.layers for cell in _cells_of(subject, name)}
    plan = [Subnetwork(widths=subject.full)]
    missing -= {cell for _, cell in subject.cells(plan[0])}
    while missing:
        best = max((_greedy(subject, missing, rng) for _ in range(3)), key=lambda each: _gain(subject, each, missing))
        plan.append(best)
        missing -= {cell for _, cell in subject.cells(best)}
    return plan


def random_subnetwork(subject: Subject, rng: random.Random) -> Subnetwork:
    """Return a random subnetwork as after pruning: groups at half to full width, a quarter of the blocks removed."""
    widths = {
        root: rng.choice([width for width in grid if width >= grid[-1] / 2]) for root, grid in subject.grid.items()
    }
    return Subnetwork(widths=widths, removed=frozenset(block for block in subject.removable if rng.random() < 0.25))


def _cells_of(subject: Subject, name: str) -> set[Cell]:
    """Return every cell a layer can be in."""
    site = subject.layers[name]
    return {
        (subject.shapes[name], *site.size({**subject.full, **chosen}, subject.full))
        for chosen in _choices(subject, site)
    }


def _gain(subject: Subject, subnetwork: Subnetwork, missing: set[Cell]) -> int:
    return len(missing & {cell for _, cell in subject.cells(subnetwork)})


def _greedy(subject: Subject, missing: set[Cell], rng: random.Random) -> Subnetwork:
    """Choose for one group after the other the width that adds most missing cells of its layers."""
    widths: dict[str, int] = {}
    roots = list(subject.grid)
    rng.shuffle(roots)
    # One missing cell is always included, so that the plan ends.
    shape, inputs, outputs = rng.choice(sorted(missing))
    certain = next(
        chosen
        for name, site in subject.layers.items()
        if subject.shapes[name] == shape
        for chosen in _choices(subject, site)
        if site.size({**subject.full, **chosen}, subject.full) == (inputs, outputs)
    )
    widths |= certain
    for root in roots:
        if root in widths:
            continue
        layers = [name for name, site in subject.layers.items() if root in site.roots]
        options = list(subject.grid[root])
        rng.shuffle(options)
        widths[root] = max(options, key=lambda width: _missed(subject, layers, {**widths, root: width}, missing))
    return Subnetwork(widths=widths)


def _choices(subject: Subject, site: Site) -> list[dict[str, int]]:
    choices: list[dict[str, int]] = [{}]
    for root in sorted(site.roots):
        choices = [{**chosen, root: width} for chosen in choices for width in subject.grid[root]]
    return choices


def _missed(subject: Subject, layers: Sequence[str], widths: Mapping[str, int], missing: set[Cell]) -> int:
    decided = [name for name in layers if subject.layers[name].roots <= widths.keys()]
    return len(
        missing & {(subject.shapes[name], *subject.layers[name].size(widths, subject.full)) for name in decided}
    )
