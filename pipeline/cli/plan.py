"""`deploy plan`: show what a build would do."""

import json
import shutil
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from pipeline.cli.output import print_table
from pipeline.cli.request import request_of

if TYPE_CHECKING:
    from pipeline.plan import Plan, PlannedStage


def plan(ctx: typer.Context) -> None:
    """Show what a build would do: finished stages, time, memory and disk."""
    from pipeline.cli.prepare import prepare
    from pipeline.plan import plan as plan_of

    request = request_of(ctx)
    with prepare(request) as prepared:
        plans = [plan_of(prepared.run(target)) for target in prepared.targets]
        free = shutil.disk_usage(prepared.workspace.root).free
    if request.as_json:
        documents = [
            {**asdict(each), "seconds_left": each.seconds_left, "memory_bytes": each.memory_bytes} for each in plans
        ]
        print(json.dumps(documents, indent=2))
        return
    for each in plans:
        _print(each, free)


def _print(found: "Plan", free: int) -> None:
    rows = [
        (stage.stage, _state(stage), _duration(stage.seconds, is_estimate=not stage.is_done), _memory(stage))
        for stage in found.stages
    ]
    print_table(f"target {found.target}", ("stage", "state", "time", "memory"), rows)
    if found.seconds_left > 0:
        print(
            f"left: {_duration(found.seconds_left, is_estimate=True)} on this machine, {_peak(found)}"
            f"{found.disk_bytes / 1e6:,.0f} MB in the workspace ({free / 1e9:,.0f} GB free)"
        )
    else:
        print("nothing to do: everything is built already")


def _state(stage: "PlannedStage") -> str:
    if stage.is_done:
        return "done"
    return f"resumes after epoch {stage.epochs_done}" if stage.epochs_done else "to do"


def _memory(stage: "PlannedStage") -> str:
    from pipeline.estimate.available_memory import gib

    if stage.is_done:
        return ""
    return "not known" if stage.memory_bytes is None else f"about {gib(stage.memory_bytes)}"


def _peak(found: "Plan") -> str:
    from pipeline.estimate.available_memory import gib

    return "" if found.memory_bytes is None else f"{gib(found.memory_bytes)} of memory at the peak, "


def _duration(seconds: float, *, is_estimate: bool) -> str:
    about = "about " if is_estimate else ""
    if seconds < 90:
        return f"{about}{seconds:.0f} s"
    if seconds < 5400:
        return f"{about}{seconds / 60:.0f} min"
    return f"{about}{seconds / 3600:.1f} h"
