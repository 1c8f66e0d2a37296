"""JSON is counted before it is read."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from device_server import http_request, serving
from faults import GOOD, resident_mib
from tiny_package import write_tiny_package

from targets.device.server.bodies import check_amounts
from targets.device.server.tensors import RequestError

SHAPE = (3, 8, 9)


@pytest.mark.parametrize("shape", [(4, *SHAPE), (4, 8, 9, 3), (4 * 216,)], ids=["images", "pixels", "flat"])
def test_as_much_as_the_images_need_is_taken(shape: tuple[int, ...]) -> None:
    entry = {"name": "images", "shape": list(shape), "data": np.zeros(shape, int).tolist()}
    check_amounts(json.dumps({"inputs": [entry], "outputs": [{}, {}]}).encode(), SHAPE, 4)


@pytest.mark.parametrize(
    ("unit", "what"),
    [(b"{},", "objects"), (b"[],", "lists"), (b"1,", "values"), (b'"a",', "values"), (b"1.5,", "values")],
)
def test_more_is_refused(unit: bytes, what: str) -> None:
    with pytest.raises(RequestError, match=f"has about 100000 {what}; at most .* for 4 images") as caught:
        check_amounts(unit * 100_000, SHAPE, 4)
    assert caught.value.status == 413


@pytest.mark.parametrize("unit", [b"{},", b"[],", b"1.5,", b'"a",'])
def test_json_that_would_fill_the_memory_is_refused_before_it_does(tmp_path: Path, unit: bytes) -> None:
    body = b'{"inputs": [{"name": "images", "data": [' + unit * ((16 << 20) // len(unit)) + b"0]}]}"
    with serving(write_tiny_package(tmp_path / "artifact").folder, tmp_path / "log") as running:
        assert running.ask(GOOD)[0] == 200
        before = resident_mib(running)
        status, answer = running.ask(http_request(gzip.compress(body), "Content-Encoding: gzip"))
        assert (status, "MAX_BATCH" in answer["error"]) == (413, True)
        peak = (Path("/proc") / str(running.process.pid) / "status").read_text().partition("VmHWM:")[2].split()[0]
        # The body, a copy of it while it is inflated, and nothing that is many times as large.
        assert int(peak) / 1024 < before + 64
        assert running.ask(GOOD)[0] == 200
