"""`deploy bench`: compare the speed of artifacts on this machine, or measure an image as a client sees it."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.options import AsJson
from pipeline.cli.output import print_table, say
from pipeline.errors import RecipeError

if TYPE_CHECKING:
    from pipeline.benchmarking.image import Percentiles
    from pipeline.benchmarking.models import Bench

CLIENTS = 8


def bench(
    subjects: Annotated[
        list[str], typer.Argument(metavar="ARTIFACT...|IMAGE", help="Artifact folders, ONNX files, or an image's tag.")
    ],
    threads: Annotated[int | None, typer.Option(min=1, help="For artifacts; default: 1.", show_default=False)] = None,
    clients: Annotated[int | None, typer.Option(min=1, help="For an image; default: 8.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Time artifacts against each other by CPU time, or an image as its clients see it; all in one run."""
    if _is_image(subjects[0]):
        if len(subjects) > 1:
            raise RecipeError(f"only one image can be measured at a time; {len(subjects)} names were given.")
        if threads is not None:
            raise RecipeError("--threads is for artifacts only: an image runs with the threads it was proven with.")
        _bench_server(subjects[0], clients=clients or CLIENTS, as_json=as_json)
        return
    if clients is not None:
        raise RecipeError(f"--clients is for images only, and {subjects[0]} is not an image.")
    _bench_models([Path(name) for name in subjects], threads=threads or 1, as_json=as_json)


def _is_image(name: str) -> bool:
    """Whether it can be the tag of an image: not an existing file or folder, and not written like a path."""
    path = Path(name)
    return not path.exists() and path.suffix != ".onnx" and not name.endswith("/") and not path.is_absolute()


def _bench_server(image: str, *, clients: int, as_json: bool) -> None:
    """Start a container of the image; time it and the raw session of its model in one run."""
    from pipeline.benchmarking.image import bench_image
    from pipeline.cli.console import progress_for

    result = bench_image(image, clients=clients, progress=progress_for(is_verbose=False))
    if as_json:
        derived = {"overhead_ms": result.overhead_ms, "throughput_share": result.throughput_share}
        print(json.dumps({**asdict(result), **derived}, indent=2))
        return
    print(
        f"{image}: ready after {result.ready_seconds:.2f} s, {result.idle_mib:.0f} MiB idle, "
        f"{result.load_mib:.0f} MiB under load"
    )
    print_table(
        f"batch 1, {result.requests} requests of one client, then {clients} clients; raw session in the same run",
        ("", "p50 ms", "p90 ms", "p99 ms", "requests/s"),
        [
            _row("image over HTTP", result.server, f"{result.server_per_second:.0f}"),
            _row("raw session", result.raw, f"{result.raw_per_second:.0f}"),
            ("protocol", f"{result.overhead_ms:+.3f}", "", "", f"{result.throughput_share:.1%}"),
        ],
    )


def _row(name: str, times: "Percentiles", rate: str) -> tuple[str, ...]:
    return (name, f"{times.p50_ms:.3f}", f"{times.p90_ms:.3f}", f"{times.p99_ms:.3f}", rate)


def _bench_models(models: list[Path], *, threads: int, as_json: bool) -> None:
    """Time `models` interleaved in one run; ratios are relative to the first."""
    from pipeline.benchmarking.models import bench as time_models

    result = time_models(models, threads=threads)
    latencies = result.latencies
    if as_json:
        rows = [{"model": str(path), **asdict(latency)} for path, latency in zip(models, latencies, strict=True)]
        state = {"stable": not result.reasons, "reasons": result.reasons}
        measured = {"conditions": {**result.conditions, "facts": result.facts}, "missing": result.missing}
        print(json.dumps({"models": rows, **state, **measured}, indent=2))
        return
    first = latencies[0].cpu_ms
    header = ("model", "CPU ms", "ratio", "wall ms", "wall p90 ms")
    print_table(
        f"batch 1, {threads} thread{'s' if threads > 1 else ''}, {latencies[0].runs} interleaved runs",
        header,
        [
            (
                str(path),
                f"{latency.cpu_ms:.3f}",
                f"{latency.cpu_ms / first:.2f}",
                f"{latency.wall_ms:.3f}",
                f"{latency.wall_p90_ms:.3f}",
            )
            for path, latency in zip(models, latencies, strict=True)
        ],
    )
    say(conditions_line(result))
    # Energy is not a condition of the measurement.
    unknown = [name for name in result.missing if not name.startswith("energy")]
    if unknown:
        say(f"not available here (reasons in --json): {', '.join(unknown)}")
    print("stable" if not result.reasons else f"UNSTABLE, measure again: {'; '.join(result.reasons)}")


def conditions_line(result: "Bench") -> str:
    """Return clocks, governor, temperature, throttling and load in one line; unknown values are left out."""
    parts = []
    known = result.conditions
    clocks = known["clocks_mhz"]
    if clocks:
        fastest = max(clocks.values(), key=lambda clock: clock["median"])
        parts.append(f"CPU at {fastest['least']:.0f} to {fastest['most']:.0f} MHz")
    parts += [f"{fact} {value}" for fact, value in result.facts.items()]
    temperatures = known["temperatures_c"]
    if temperatures:
        name, hottest = max(temperatures.items(), key=lambda item: item[1]["most"])
        parts.append(f"{name} {hottest['first']:.0f} to {hottest['last']:.0f} °C")
    counts = [*known["throttle_events"].values(), *known["throttle_states"].values()]
    if counts:
        parts.append("clocks were cut" if max(counts) > 0 else "no throttling")
    if known["cpu_of_others"] is not None:
        parts.append(f"other programs {known['cpu_of_others']:.0%} of the CPUs")
    return "conditions: " + "; ".join(parts)
