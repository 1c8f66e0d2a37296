"""`deploy bench IMAGE`: a real image, measured for a moment; figures are checked for sense, never for speed."""

import json
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from tiny_package import Packaged
from typer.testing import CliRunner

from pipeline.benchmarking import image as module
from pipeline.benchmarking.image import (
    Effort,
    ImageBench,
    bench_image,
    latencies,
    per_second,
    percentiles,
    resident_mib,
)
from pipeline.cli.app import app
from pipeline.containers.engine import Engine
from pipeline.errors import CompileError, DeployError, EngineMissing, PackageError, RecipeError
from pipeline.progress import Silent

pytestmark = pytest.mark.slow

MOMENT = Effort(latency_seconds=0.1, least_requests=20, throughput_rounds=2, round_seconds=0.3)


@pytest.fixture(scope="module")
def measured(engine: Engine, packaged: Packaged) -> ImageBench:
    return bench_image(packaged.image.tag, clients=3, progress=Silent(), effort=MOMENT)


@pytest.mark.docker
def test_an_image_is_measured_beside_its_own_model(measured: ImageBench, packaged: Packaged) -> None:
    assert measured.image == packaged.image.tag
    assert measured.requests >= 20
    assert measured.clients == 3
    for times in (measured.server, measured.raw):
        assert 0 < times.p50_ms <= times.p90_ms <= times.p99_ms
    assert measured.overhead_ms == measured.server.p50_ms - measured.raw.p50_ms
    assert measured.throughput_share == measured.server_per_second / measured.raw_per_second
    assert measured.ready_seconds > 0


@pytest.mark.docker
def test_its_memory_is_that_of_a_server_with_the_runtime_in_it(measured: ImageBench) -> None:
    """Python with ONNX Runtime needs more than 20 MiB; half a gibibyte would be somebody else's, too."""
    assert 20 < measured.idle_mib <= measured.load_mib < 512


@pytest.mark.docker
def test_no_container_is_left(measured: ImageBench, engine: Engine, packaged: Packaged) -> None:
    assert engine.client.containers.list(all=True, filters={"ancestor": packaged.image.id}) == []


@pytest.mark.docker
@pytest.mark.long
def test_the_command_prints_a_table_or_one_document(packaged: Packaged, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Effort", partial(Effort, latency_seconds=0.1, least_requests=5, round_seconds=0.2))
    shown = CliRunner().invoke(app, ["bench", packaged.image.tag])
    assert shown.exit_code == 0, shown.output
    text = " ".join(shown.stdout.split())
    assert all(words in text for words in ("image over HTTP", "raw session", "8 clients", "MiB under load"))
    document = json.loads(CliRunner().invoke(app, ["bench", packaged.image.tag, "--clients", "2", "--json"]).stdout)
    assert document["clients"] == 2
    assert document["overhead_ms"] == pytest.approx(document["server"]["p50_ms"] - document["raw"]["p50_ms"])
    assert set(document) >= {"ready_seconds", "idle_mib", "load_mib", "server_per_second", "throughput_share"}


@pytest.mark.docker
def test_an_image_measures_itself_on_its_device(engine: Engine, packaged: Packaged) -> None:
    """Read-only, without rights and network, as it serves."""
    container = engine.client.containers.create(
        packaged.image.id, ["bench", "0.5"], read_only=True, cap_drop=["ALL"], network_mode="none"
    )
    try:
        container.start()
        status = container.wait(timeout=120)["StatusCode"]
        printed = container.logs(stdout=True, stderr=False).decode()
        assert container.logs(stdout=False, stderr=True) == b""
    finally:
        container.remove(force=True)
    found = json.loads(printed)
    assert status == (0 if found["stable"] else 1)
    assert found["latency_ms"]["p50"] > 0
    assert found["conditions"]["facts"]["load average before"]
    assert found["energy"] is not None or any(name.startswith("energy of") for name in found["missing"])


@pytest.mark.docker
def test_more_clients_than_the_server_holds_are_told_so(engine: Engine, packaged: Packaged) -> None:
    """An image with room for one request, which waits for others: how many meet otherwise depends on the machine."""
    container = engine.client.containers.create(packaged.image.id)
    narrow = container.commit(changes="ENV MAX_WAITING=1 BATCH_IMAGES=4 BATCH_DELAY_MS=50")
    container.remove()
    try:
        with pytest.raises(PackageError, match="requests are already being answered"):
            bench_image(str(narrow.id), clients=16, progress=Silent(), effort=MOMENT)
    finally:
        engine.client.images.remove(str(narrow.id))


@pytest.mark.docker
def test_an_image_of_somebody_else_is_named(engine: Engine, base_image: str) -> None:
    with pytest.raises(PackageError, match="not an image made by `deploy build`"):
        bench_image(base_image, clients=1, progress=Silent(), effort=MOMENT)
    with pytest.raises(PackageError, match="no-such-image:1 is neither a folder nor an image here"):
        bench_image("no-such-image:1", clients=1, progress=Silent())


def test_calls_take_turns_in_blocks_until_each_was_made_often_enough() -> None:
    order: list[str] = []
    found = latencies([partial(order.append, "a"), partial(order.append, "b")], seconds=0, least=1)
    assert [len(times) for times in found] == [order.count("a") - 5, order.count("b") - 5]
    blocks = "".join(order[10:])
    assert blocks == "a" * len(found[0]) + "b" * len(found[1])
    again = latencies([lambda: None, lambda: np.linalg.inv(np.eye(200))], seconds=0, least=60)
    assert min(map(len, again)) >= 60


def test_percentiles_are_in_milliseconds() -> None:
    found = percentiles([number / 1000 for number in range(101)])
    assert (found.p50_ms, found.p90_ms, found.p99_ms) == pytest.approx((50, 90, 99))


def test_what_every_thread_has_called_is_counted() -> None:
    calls: list[int] = []

    def call(number: int) -> None:
        calls.append(number)
        # So that no thread keeps the others from running at all.
        time.sleep(0.001)

    rate = per_second([partial(call, number) for number in range(3)], 0.5)
    assert set(calls) == {0, 1, 2}
    assert 0 < rate <= len(calls) / 0.5


@pytest.mark.parametrize(
    "stats",
    [
        pytest.param({"total_rss": 3 << 20, "total_mapped_file": 1 << 20, "rss": 1, "cache": 9 << 20}, id="version 1"),
        pytest.param({"anon": 3 << 20, "file_mapped": 1 << 20, "file": 9 << 20}, id="version 2"),
    ],
)
def test_memory_is_read_from_both_versions_of_control_groups(stats: dict[str, int]) -> None:
    assert resident_mib({"usage": 99, "stats": stats}) == 4


def test_memory_that_is_not_counted_is_no_memory_of_zero() -> None:
    with pytest.raises(PackageError, match="does not account its containers' memory"):
        resident_mib({})


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        pytest.param(["image:1", "image:2"], RecipeError, "only one image can be measured at a time", id="two images"),
        pytest.param(["image:1", "--threads", "2"], RecipeError, "--threads is for artifacts", id="threads"),
        pytest.param([".", "--clients", "2"], RecipeError, "--clients is for images", id="clients"),
        pytest.param(["gone.onnx"], CompileError, "gone.onnx does not exist", id="a file that is not there"),
        pytest.param(["gone/"], CompileError, "gone does not exist", id="a folder that is not there"),
    ],
)
def test_artifacts_and_images_are_not_mixed(
    arguments: list[str], error: type[DeployError], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    failed = CliRunner().invoke(app, ["bench", *arguments])
    assert isinstance(failed.exception, error)
    assert message in str(failed.exception)


def test_without_an_engine_an_image_cannot_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    assert isinstance(CliRunner().invoke(app, ["bench", "image:1"]).exception, EngineMissing)
