"""Candidates and artifacts that were never compiled."""

from pathlib import Path

from pipeline.artifacts import Artifact, Audit, Candidate, Latency, Place, Precision


def latency(cpu_ms: float) -> Latency:
    return Latency(cpu_ms=cpu_ms, wall_ms=cpu_ms, wall_p90_ms=cpu_ms, threads=1, runs=10)


def candidate(precision: Precision, cpu_ms: float) -> Candidate:
    return Candidate(
        precision=precision,
        folder=Path("compile") / precision,
        latency=latency(cpu_ms),
        audit=Audit(int8_nodes=20, float_nodes=0),
        selection_top1=0.9,
        selection_drop_points=0.1,
    )


def artifact(
    precision: Precision = Precision.INT8, place: Place = Place.HOST, measured_by: str = "linux/amd64"
) -> Artifact:
    return Artifact(
        folder=Path("compile") / precision,
        target="cpu",
        precision=precision,
        reason="the fastest",
        candidate=candidate(precision, 0.4),
        float_latency=latency(1.0),
        place=place,
        measured_by=measured_by,
    )
