"""What layers in float cost in time, each set exported and timed by the real runtime."""

from pathlib import Path

import pytest
from tiny_progress import Counted
from tiny_quantized import write_original, write_quantized

from pipeline.quantize.mixed_precision import Toll
from targets.runtimes import timing
from targets.target import find_target


@pytest.mark.slow
def test_every_set_is_timed_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "MODEL_SECONDS", 0.02)
    monkeypatch.setattr(timing, "BLOCK_SECONDS", 0.001)
    network = write_quantized(write_original("option A", tmp_path / "original"), tmp_path / "quantized")
    progress = Counted()
    toll = Toll(checkpoint=network, target=find_target("cpu"), threads=1, progress=progress)
    times = toll.times_ms([frozenset(), frozenset({"layer1.0.conv1"}), frozenset({"layer1.0.conv1", "fc"})])
    assert len(times) == 3
    assert all(time > 0 for time in times)
    (told,) = progress.tasks
    assert (told.name, told.done, told.total) == ("time layers in float", 3, 3)
