import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.artifacts import Audit, Candidate, Compilation, Latency, Place, Precision
from pipeline.compile.result import DECISIONS, choose, read_compilation, write_compilation
from pipeline.errors import WorkspaceError
from pipeline.workspace.store import TIMINGS
from targets.target import find_target

FOLDER = Path("compile")


def latency(cpu_ms: float) -> Latency:
    return Latency(cpu_ms=cpu_ms, wall_ms=2 * cpu_ms, wall_p90_ms=3 * cpu_ms, threads=1, runs=100)


def candidate(precision: str, cpu_ms: float, drop: float, folder: Path = FOLDER) -> Candidate:
    return Candidate(
        precision=Precision(precision),
        folder=folder / precision,
        latency=latency(cpu_ms),
        audit=Audit(int8_nodes=20, float_nodes=1, kept_float=("fc",), operators={"QLinearConv": 20}),
        selection_top1=0.997 - drop / 100,
        selection_drop_points=drop,
    )


def compilation(*candidates: Candidate) -> Compilation:
    return Compilation(
        candidates=candidates,
        float_latency=latency(1.0),
        selection_images=400,
        place=Place.HOST,
        measured_by="linux/amd64",
    )


CASES = [
    pytest.param((0.92, 0.0), (0.44, 0.3), "int8", "0.48 of fp32 latency (0.44 ms against 0.92 ms", id="faster"),
    pytest.param((0.92, 0.0), (0.95, 0.3), "int8", "as fast as fp32 within 5 %", id="tie"),
    pytest.param((0.92, 0.0), (1.00, 0.3), "fp32", "int8 is slower on this CPU", id="slower"),
    pytest.param((0.92, 0.0), (0.44, 1.2), "fp32", "int8 loses 1.20 points, more than the 1 allowed", id="lossy"),
    pytest.param((0.92, 1.5), (0.44, 0.9), "int8", "fp32 loses 1.50 points", id="only int8 holds"),
    pytest.param((0.92, 2.0), (0.44, 3.1), "fp32", "no candidate is within 1 points", id="none holds"),
    pytest.param(
        (0.92, 1.29), (0.44, 1.93), "int8", "no candidate is within 1 points", id="none holds, 3 images more"
    ),
    pytest.param(
        (0.92, 1.1), (0.44, 1.1 + 1.0), "int8", "no candidate is within 1 points", id="none holds, by a hair"
    ),
    pytest.param((0.92, 3.0), (0.44, 2.0), "int8", "no candidate is within 1 points", id="none holds, int8 best"),
    pytest.param((0.92, 3.0), (0.44, 3.0), "int8", "at most as much more than the best", id="none holds, alike"),
    pytest.param((0.44, 3.0), (0.92, 2.9), "fp32", "at most as much more than the best", id="none holds, fp32 fast"),
    pytest.param((0.92, -0.2), (0.44, 1.0), "int8", "selection top-1 98.7 %, float 99.7 %", id="just within"),
]


@pytest.mark.parametrize(("fp32", "int8", "chosen", "said"), CASES)
def test_the_fastest_within_the_budget_ships(
    fp32: tuple[float, float], int8: tuple[float, float], chosen: str, said: str
) -> None:
    both = compilation(candidate("fp32", *fp32), candidate("int8", *int8))
    artifact = choose(both, target=find_target("cpu"), max_drop=1.0)
    assert artifact.precision == chosen
    assert artifact.folder == FOLDER / chosen
    assert artifact.candidate.precision == chosen
    assert artifact.reason.startswith(f"{chosen}: ")
    assert said in artifact.reason
    assert artifact.float_latency == both.float_latency
    assert artifact.target == "cpu"


def test_the_order_of_candidates_does_not_matter() -> None:
    one, two = candidate("fp32", 0.92, 0.0), candidate("int8", 0.93, 0.1)
    for order in ((one, two), (two, one)):
        assert choose(compilation(*order), target=find_target("cpu"), max_drop=1).precision is Precision.INT8


def test_a_single_precision_is_said_to_be_the_only_one() -> None:
    artifact = choose(compilation(candidate("fp32", 1, 0)), target=find_target("cpu"), max_drop=1)
    assert "the only precision of this target" in artifact.reason


def test_what_is_written_is_read_back_from_wherever_it_lies(tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    written = compilation(candidate("fp32", 0.92, 0.0, here), candidate("int8", 0.44, 0.3, here))
    write_compilation(written, here)
    assert read_compilation(here) == written
    there = here.rename(tmp_path / "there")
    assert [found.folder for found in read_compilation(there).candidates] == [there / "fp32", there / "int8"]


def test_timings_stand_in_their_own_file_alone(tmp_path: Path) -> None:
    for name, cpu_ms in (("one", 0.5), ("two", 0.6)):
        (tmp_path / name).mkdir()
        write_compilation(compilation(candidate("int8", cpu_ms, 0.3, tmp_path / name)), tmp_path / name)
    assert (tmp_path / "one" / DECISIONS).read_bytes() == (tmp_path / "two" / DECISIONS).read_bytes()
    assert (tmp_path / "one" / TIMINGS).read_bytes() != (tmp_path / "two" / TIMINGS).read_bytes()
    assert "_ms" not in (tmp_path / "one" / DECISIONS).read_text()


def test_a_damaged_folder_is_named(tmp_path: Path) -> None:
    write_compilation(compilation(candidate("int8", 0.4, 0.3, tmp_path)), tmp_path)
    timings = json.loads((tmp_path / TIMINGS).read_text())
    del timings["int8"]
    (tmp_path / TIMINGS).write_text(json.dumps(timings))
    with pytest.raises(WorkspaceError, match="is damaged"):
        read_compilation(tmp_path)
    (tmp_path / TIMINGS).unlink()
    with pytest.raises(WorkspaceError, match="is damaged"):
        read_compilation(tmp_path)


def test_choosing_needs_no_heavy_library() -> None:
    code = (
        "import sys, pipeline.compile.result\n"
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'scipy', 'PIL', 'pydantic'} & set(sys.modules)))"
    )
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("fp32", "int8", "chosen", "said"),
    [
        pytest.param(
            (0.1, 0.0), (9.0, 0.3), "int8", "not timed on linux/arm64, as this host is linux/amd64", id="slow"
        ),
        pytest.param((9.0, 0.0), (0.1, 0.3), "int8", "not on the device: 0.1 ms against 9 ms of fp32", id="fast"),
        pytest.param((0.9, 0.0), (0.1, 1.2), "fp32", "int8 loses 1.20 points, more than the 1 allowed", id="lossy"),
        pytest.param((0.9, 3.0), (0.1, 2.0), "int8", "no candidate is within 1 points", id="none holds"),
    ],
)
def test_a_host_of_another_platform_concludes_nothing_from_its_clock(
    fp32: tuple[float, float], int8: tuple[float, float], chosen: str, said: str
) -> None:
    both = compilation(candidate("fp32", *fp32), candidate("int8", *int8))
    artifact = choose(replace(both, place=Place.EMULATED), target=find_target("cpu-arm64"), max_drop=1.0)
    assert artifact.precision == chosen
    assert said in artifact.reason
    assert "latency" not in artifact.reason
    assert (artifact.place, artifact.measured_by) == (Place.EMULATED, "linux/amd64")


def test_the_place_of_the_measurement_is_written_and_read(tmp_path: Path) -> None:
    written = replace(compilation(candidate("int8", 0.4, 0.3, tmp_path)), place=Place.EMULATED)
    write_compilation(written, tmp_path)
    assert read_compilation(tmp_path) == written
