"""`benchmarks/time_pruned.py`: networks cut to a share of the MACs and to a time, as it lists them."""

from pathlib import Path

import numpy as np
import pytest
from time_pruned import allocated, timed, uniform
from tiny_networks import network_of
from tiny_table import table_of

from pipeline.latency.table import FILE
from pipeline.models.cost import cost_of
from pipeline.models.zoo import Bottleneck, residual

DEEP = residual(
    depths=(2, 2),
    stage_widths=(32, 64),
    shortcut="B",
    classes=("a", "b"),
    input_size=(8, 8),
    bottleneck=Bottleneck(inner=64),
)
IMAGES = np.random.default_rng(0).standard_normal((4, 3, 8, 8)).astype(np.float32)


@pytest.mark.slow
def test_both_ways_keep_the_share_and_not_much_less() -> None:
    network = network_of(DEEP)
    whole = cost_of(network, DEEP.input_shape).macs
    for cut in (uniform(network, DEEP, 0.7), allocated(network, DEEP, IMAGES, 0.7)):
        assert 0.5 < cost_of(cut, DEEP.input_shape).macs / whole <= 0.7
    with pytest.raises(SystemExit, match=r"cannot reach 0\.01 of the MACs"):
        uniform(network, DEEP, 0.01)


def test_a_table_that_is_there_is_used_and_what_it_predicts_told(tmp_path: Path) -> None:
    network = network_of(DEEP)
    file = tmp_path / DEEP.name / FILE
    file.parent.mkdir()
    table = table_of(network, DEEP.input_shape, multiple=16)
    file.write_text(table.to_json())
    (variant,) = timed(network, DEEP, IMAGES, [1.3], tmp_path)
    whole = sum(2.0 + i * o / 100 for i, o in (max(table.precisions["int8"].shapes[name]) for name in table.layers))
    assert variant.predicted_ms is not None
    assert 0.8 * whole / 1.3 < variant.predicted_ms * 1e3 <= whole / 1.3
    assert cost_of(variant.network, DEEP.input_shape).macs < cost_of(network, DEEP.input_shape).macs
