"""A gate's report with figures of its own."""

import pytest

from pipeline.artifacts import AccuracyReport, Place, Verdict


@pytest.fixture
def report() -> AccuracyReport:
    return AccuracyReport(
        target="cpu",
        place=Place.HOST,
        verdict=Verdict.PASS,
        images=800,
        float_top1=0.99,
        artifact_top1=0.985,
        float_top5=None,
        artifact_top5=None,
        lost=5,
        won=1,
        drop_points=0.5,
        drop_interval_points=(0.0, 1.1),
        drop_bounds_points=(0.1, 0.98),
        confidence=0.95,
        max_drop_points=1.0,
        flip_rate=0.01,
        worst_class="3",
        worst_class_drop_points=2.0,
        gate_looks=1,
        advice="",
        shard_sha256="s",
        artifact_sha256="a",
        instruction_set="avx2",
        runtime="onnxruntime 1.32.0",
    )
