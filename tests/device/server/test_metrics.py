"""What the server counts, read by Prometheus' own parser."""

from pathlib import Path

import pytest
from device_server import INFER, answering
from malformed_requests import GOOD
from prometheus_client.parser import text_string_to_metric_families
from tiny_package import write_tiny_package

from targets.device.server import metrics as metrics_module
from targets.device.server.metrics import KINDS, Metrics, resident_mib

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(text: bytes) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def text_of(metrics: Metrics) -> Samples:
    return samples(metrics.text(waiting=2, connections=3, ready=True))


def one(found: Samples, name: str, **labels: str) -> float:
    return found[name, frozenset(labels.items())]


def test_requests_and_refusals_are_counted_by_kind() -> None:
    metrics = Metrics()
    for seconds in (0.001, 0.002, 4.0):
        metrics.answered_request("http", 200, seconds, 2)
    metrics.answered_request("grpc", 200, 0.1, 1)
    metrics.answered_request("http", 429, 0.0, 0)
    for status in (429, 400, 400, 418):
        metrics.refused_request(status)
    metrics.inferred(4, 0.003)
    found = text_of(metrics)
    assert one(found, "edge_deploy_requests_total", protocol="http", status="200") == 3
    assert one(found, "edge_deploy_requests_total", protocol="grpc", status="200") == 1
    assert one(found, "edge_deploy_requests_total", protocol="http", status="429") == 1
    assert one(found, "edge_deploy_errors_total", kind="bad_request") == 2
    assert one(found, "edge_deploy_errors_total", kind="too_many_requests") == 1
    assert one(found, "edge_deploy_errors_total", kind="other") == 1
    assert one(found, "edge_deploy_images_total") == 7
    # Refused ones have no latency.
    assert one(found, "edge_deploy_request_seconds_count") == 4
    assert one(found, "edge_deploy_request_seconds_bucket", le="0.0025") == 2
    assert one(found, "edge_deploy_inference_seconds_count") == 1
    assert one(found, "edge_deploy_batch_images_bucket", le="4.0") == 1
    assert one(found, "edge_deploy_batch_images_bucket", le="2.0") == 0
    assert (one(found, "edge_deploy_waiting_requests"), one(found, "edge_deploy_connections")) == (2, 3)
    assert one(found, "edge_deploy_ready") == 1
    assert one(found, "process_resident_memory_bytes") > 1e6
    assert (metrics.answered, metrics.refused) == (4, 4)


def test_two_servers_count_for_themselves() -> None:
    first, second = Metrics(), Metrics()
    first.inferred(1, 0.1)
    assert one(text_of(second), "edge_deploy_inference_seconds_count") == 0


def test_percentiles_are_of_the_last_thousand() -> None:
    metrics = Metrics()
    assert metrics.latency_ms() is None
    for number in range(2000):
        metrics.answered_request("http", 200, number / 1e3, 1)
    assert metrics.latency_ms() == {"p50": 1500.0, "p90": 1900.0, "p99": 1990.0, "count": 1000}


def test_a_single_answer_is_every_percentile() -> None:
    metrics = Metrics()
    metrics.answered_request("http", 200, 0.5, 1)
    assert metrics.latency_ms() == {"p50": 500.0, "p90": 500.0, "p99": 500.0, "count": 1}


def test_memory_is_the_kernels_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert 5 < resident_mib() < 10_000
    monkeypatch.setattr(metrics_module, "STATM", tmp_path / "none")
    assert resident_mib() == 0.0


def test_what_a_server_has_done_can_be_scraped(tmp_path: Path) -> None:
    tiny = write_tiny_package(tmp_path / "artifact")
    with answering(tiny.folder) as client:
        assert [client.post(INFER, content=GOOD).status_code for _ in range(3)] == [200] * 3
        assert client.post(INFER, content=b"nonsense").status_code == 400
        assert client.get("/nothing").status_code == 404
        answer = client.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        found, again = samples(answer.content), samples(client.get("/metrics").content)
    assert one(found, "edge_deploy_requests_total", protocol="http", status="200") == 3
    assert one(found, "edge_deploy_requests_total", protocol="http", status="400") == 1
    assert one(found, "edge_deploy_errors_total", kind="not_found") == 1
    assert one(found, "edge_deploy_connections") == 1
    assert one(found, "edge_deploy_waiting_requests") == 0
    (info,) = [dict(labels) for name, labels in again if name == "edge_deploy_model_info"]
    assert (info["model"], info["model_sha256"]) == ("tiny", tiny.manifest.model_sha256)


def test_every_kind_is_a_word() -> None:
    assert all(kind.replace("_", "").isalpha() for kind in KINDS.values())
    assert len(set(KINDS.values())) == len(KINDS)
