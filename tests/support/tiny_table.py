"""A latency table as data: times that anyone can compute by hand."""

import itertools

from torch import nn

from pipeline.latency.sampling_plan import widths_of
from pipeline.latency.subnetwork import sites
from pipeline.latency.table import LatencyTable, Times
from pipeline.models.surgery import channel_groups


def table_of(
    network: nn.Module, input_shape: tuple[int, int, int], *, multiple: int = 8, per_layer: float = 2.0
) -> LatencyTable:
    """Each layer takes `per_layer` microseconds and a hundredth for each pair of its channels in and out."""
    groups = channel_groups(network, input_shape)
    layers = sites(network, groups)
    full = {group.root: group.width for group in groups}
    grid = {group.root: widths_of(group, multiple) for group in groups}
    shapes = {}
    for name, site in layers.items():
        roots = sorted(site.roots)
        cells = {}
        for widths in itertools.product(*(grid[root] for root in roots)):
            inputs, outputs = site.size({**full, **dict(zip(roots, widths, strict=True))}, full)
            cells[inputs, outputs] = (inputs * outputs / 100, 1.0)
        shapes[name] = cells
    return LatencyTable(
        architecture="tiny",
        target="cpu",
        machine={"processor": "none", "instruction_set": "none"},
        runtime="none",
        threads=1,
        full=full,
        grid=grid,
        layers={name: name for name in layers},
        precisions={"int8": Times(shapes=shapes, rest=(0.0, 0.0), scale=1.0, per_node=per_layer, checks=())},
    )
