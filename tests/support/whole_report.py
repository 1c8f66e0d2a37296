"""A report in which every field is set."""

from pipeline.artifacts import (
    AccuracyReport,
    Place,
    Verdict,
)

REPORT = AccuracyReport(
    target="cpu",
    place=Place.IMAGE,
    verdict=Verdict.PASS,
    images=846,
    float_top1=776 / 846,
    artifact_top1=774 / 846,
    float_top5=None,
    artifact_top5=None,
    lost=3,
    won=1,
    drop_points=200 / 846,
    drop_interval_points=(-0.3, 0.8),
    drop_bounds_points=(-0.2, 0.7),
    confidence=0.95,
    max_drop_points=1.0,
    flip_rate=5 / 846,
    worst_class="cat",
    worst_class_drop_points=1.2,
    gate_looks=2,
    advice="",
    shard_sha256="5" * 64,
    artifact_sha256="a" * 64,
    instruction_set="avx2",
    runtime="onnxruntime 1.22.0",
)
