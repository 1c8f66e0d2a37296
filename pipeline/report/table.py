"""The table before -> after, from the document of `deploy build --json`."""

from collections.abc import Sequence

from pipeline.artifacts import Verdict
from pipeline.outcome import Outcome
from pipeline.report.document import TargetSummary, TimeSummary, device_row, rescue_rows, summarize

Row = tuple[str, str, str, str, str]


def table_header() -> Row:
    return ("target", "", "before", "after", "change")


def table_rows(outcomes: Sequence[Outcome]) -> list[Row]:
    """Return one line per figure and target; missing figures are left out."""
    rows: list[Row] = []
    for found in map(summarize, outcomes):
        names = iter([found.target])
        rows += [(next(names, ""), *row) for row in _rows(found)]
    return rows


def _rows(found: TargetSummary) -> list[tuple[str, str, str, str]]:
    rows = [_verdict_row(found)]
    if found.proof == "pending":
        rows.append(("proof", "", "pending", "simulated; the engine is built and proven at the image's first start"))
    elif found.proven_on:
        rows.append(("proof", "", "proven", f"on {', '.join(found.proven_on)}"))
    if found.drop_points is not None and found.drop_interval_points is not None:
        low, high = found.drop_interval_points
        change = f"drop {found.drop_points:+.2f} points, 95 % [{low:+.2f}, {high:+.2f}]"
        rows.append(("top-1", _percent(found.float_top1), _percent(found.artifact_top1), change))
    if found.float_top5 is not None:
        rows.append(("top-5", _percent(found.float_top5), _percent(found.artifact_top5), ""))
    rows += _group_rows(found)
    if found.flip_rate is not None:
        rows.append(("predictions", "", f"{_percent(found.flip_rate)} changed", f"on {found.images:,} images"))
    for name, before, after, text in (
        ("latency", found.float_latency_ms, found.artifact_latency_ms, _milliseconds),
        ("size", found.float_bytes, found.artifact_bytes, _megabytes),
        ("MACs", found.macs_before, found.macs_after, _millions),
        ("parameters", found.params_before, found.params_after, _millions),
    ):
        if before is not None and after is not None:
            is_elsewhere = name == "latency" and not found.timed_on_target
            note = f", timed on {found.timed_on}, not the target" if is_elsewhere else ""
            rows.append((name, text(before), text(after), f"x {after / before:.2f}{note}"))
    rows += [] if found.time is None else [_time_row(found.time)]
    rows += rescue_rows(found.rescue)
    safe = found.saturation_safe
    if safe is not None:
        low, high = safe.drop_interval_points
        note = f"{safe.verdict}: drop {safe.drop_points:+.2f} points, 95 % [{low:+.2f}, {high:+.2f}]"
        rows.append(("7-bit variant", "", _percent(safe.artifact_top1), f"{note}, x {safe.latency_ratio:.2f}"))
    rows += [device_row(each) for each in found.devices or ()]
    if found.image is not None:
        rows.append(("image", "", _megabytes(found.image.bytes), found.image.tag))
    return rows


def _time_row(time: TimeSummary) -> tuple[str, str, str, str]:
    """Return the requested time in its unit."""
    if time.asked_ms is not None:
        asked, unit = f"{time.asked_ms:.3g} ms", " ms"
        figures = (time.predicted_ms, time.planned_ms, time.artifact_ms)
    else:
        asked, unit = f"x {time.asked_speedup:.3g} as fast", ""
        figures = (time.predicted_speedup, time.planned_speedup, time.artifact_speedup)
    names = ("predicted", "after pruning", "artifact")
    told = [f"{name} {value:.3g}{unit}" for name, value in zip(names, figures, strict=True) if value is not None]
    return ("time asked", asked, time.verdict, ", ".join([*told, time.reason] if time.reason else told))


def _group_rows(found: TargetSummary) -> list[tuple[str, str, str, str]]:
    rows = []
    for group in found.groups or ():
        intervals = f"{_interval(group.float_interval)}, {_interval(group.artifact_interval)}"
        note = f"{group.images} images, 95 % {intervals}"
        rows.append((group.name, _percent(group.float_share), _percent(group.artifact_share), note))
    return rows


def _verdict_row(found: TargetSummary) -> tuple[str, str, str, str]:
    if found.verdict is None or found.drop_bounds_points is None:
        return ("stopped", "", "", "done as requested" if found.error is None else f"exit code {found.exit_code}")
    lower, upper = found.drop_bounds_points
    bound = f"lower bound {lower:+.2f}" if found.verdict is Verdict.FAIL else f"upper bound {upper:+.2f}"
    stopped = "" if found.error is None else f"; exit code {found.exit_code}"
    return ("verdict", "", found.verdict, f"{bound}, {found.max_drop_points:g} allowed{stopped}")


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f} %"


def _interval(shares: tuple[float, float]) -> str:
    return f"[{100 * shares[0]:.1f}, {100 * shares[1]:.1f}]"


def _milliseconds(value: float) -> str:
    return f"{value:.3f} ms" if value < 10 else f"{value:.1f} ms"


def _megabytes(value: float) -> str:
    return f"{value / 1e6:,.2f} MB"


def _millions(value: float) -> str:
    return f"{value / 1e6:,.2f} M"
