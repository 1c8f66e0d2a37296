"""What keeps an artifact out of an image, in a whole build; the verdicts themselves are in test_timeliness."""

from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
from tiny_progress import Counted
from tiny_table import table_of
from tiny_trained import architecture, digits, trained, write_weights

from pipeline.build import build
from pipeline.errors import LatencyMissed
from pipeline.latency.stopwatch import Stopwatch
from pipeline.latency.subnetwork import Subnetwork
from pipeline.latency.table import LatencyTable, Timing
from pipeline.progress import Report
from pipeline.recipe import Recipe
from pipeline.run import Run
from pipeline.workspace.store import Workspace
from targets.device.model.cpu import instruction_set, processor_name
from targets.runtimes import timing
from targets.target import find_target

ASKED_MS = 1e-4
"""No network answers in a tenth of a microsecond, on whatever machine."""


def table_of_this_machine() -> LatencyTable:
    """By which the time is easily reached."""
    shape = architecture().input_shape
    table = table_of(trained(), shape, per_layer=1e-6)
    times = {name: replace(each, scale=1e-6) for name, each in table.precisions.items()}
    here = {"processor": processor_name(), "instruction_set": instruction_set()}
    return replace(table, precisions=times, machine=here, runtime=f"onnxruntime {version('onnxruntime')}")


def confirmed(watch: Stopwatch, subnetwork: Subnetwork, report: Report) -> Timing:
    """The lie of the one clock that is asked before the recovery."""
    del watch, subnetwork, report
    return Timing(unpruned_ms=2e-4, pruned_ms=ASKED_MS, noise=0.01)


@pytest.mark.long
def test_an_artifact_that_is_late_gets_no_image_and_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "MODEL_SECONDS", 0.02)
    monkeypatch.setattr(timing, "BLOCK_SECONDS", 0.001)
    monkeypatch.setattr(Stopwatch, "time", confirmed)
    timed: list[Path] = []
    time_file = Stopwatch.time_file

    def counted(watch: Stopwatch, model: Path, report: Report) -> Timing:
        timed.append(model)
        return time_file(watch, model, report)

    monkeypatch.setattr(Stopwatch, "time_file", counted)
    write_weights(tmp_path / "digits.safetensors")
    (tmp_path / "table.json").write_text(table_of_this_machine().to_json())
    recipe = Recipe.model_validate(
        {
            "checkpoint": str(tmp_path / "digits.safetensors"),
            "data": "digits",
            "preprocessing": {"crop": 16},
            "prune": {"latency": ASKED_MS, "table": str(tmp_path / "table.json"), "epochs": 0},
            "quantize": {"qat_epochs": 0},
            "validate": {"max_drop": 100.0},
        }
    )
    progress = Counted()
    run = Run(
        recipe=recipe, target=find_target("cpu"), dataset=digits(), workspace=Workspace(tmp_path / ".deploy"),
        progress=progress,
    )  # fmt: skip
    outcome = build(run, until=None)
    assert isinstance(outcome.error, LatencyMissed), outcome.error
    assert outcome.error.exit_code == 26
    assert "time missed: 0.0001 ms requested" in str(outcome.error)
    assert "No image was built; artifact and report are kept" in str(outcome.error)
    assert "package" not in outcome.stage_seconds
    assert outcome.published is not None
    assert (outcome.published / "report.json").exists()
    assert outcome.timeliness is not None
    # A miss counts only once it was timed twice.
    assert len(timed) == 2
    told = [(task.done, task.total) for task in progress.tasks if task.name == "time the artifact"]
    assert told == [(100, 100)] * 2
    assert outcome.timeliness.artifact_ms is not None
    assert outcome.timeliness.artifact_ms > 10 * ASKED_MS
    # Who only looks finds it as it was; who builds again has it timed once more.
    looked = build(run.dry_run(), until=None)
    assert (looked.timeliness, len(timed)) == (outcome.timeliness, 2)
    assert isinstance(build(run, until=None).error, LatencyMissed)
    assert len(timed) == 3
