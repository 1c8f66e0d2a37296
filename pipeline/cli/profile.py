"""`deploy profile`: measure a network's latency table on this machine."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.output import print_table
from pipeline.cli.request import RecipeCommand, request_of
from pipeline.errors import RecipeError

if TYPE_CHECKING:
    from pipeline.latency.table import LatencyTable, Times


class ProfileCommand(RecipeCommand):
    """The options that a latency table depends on."""

    names = (
        "recipe",
        "target",
        "checkpoint",
        "model",
        "data",
        "threads",
        "weight_bits",
        "workspace",
        "as_json",
        "verbose",
    )


def profile(
    ctx: typer.Context,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the table as JSON, for --table on another machine.")
    ] = None,
) -> None:
    """Measure how long each layer takes at each width on this machine, and how well that predicts whole networks."""
    from pipeline.cli.prepare import prepare
    from pipeline.latency.stage import profile as profile_of
    from pipeline.latency.table import FILE, read_table
    from pipeline.load.stage import load
    from pipeline.workspace.store import write_atomically

    request = request_of(ctx)
    with prepare(request) as prepared:
        if len(prepared.targets) > 1:
            raise RecipeError(f"{len(prepared.targets)} targets were given; a latency table is for one target.")
        one = prepared.run(prepared.targets[0])
        found = profile_of(one, load(one))
        text = (found.path / FILE).read_text()
        table = read_table(found.path / FILE)
    if output is not None:
        write_atomically(output, text)
    if request.as_json:
        print(text, end="")
        return
    _print(table, "measured before" if found.was_cached else f"measured in {found.seconds:.0f} s")


def _print(table: "LatencyTable", when: str) -> None:
    where = f"{table.machine['processor']}, {table.machine['instruction_set']}"
    print(f"{table.architecture} for {table.target} on {where}, {table.runtime}, threads: {table.threads}; {when}")
    for precision, times in table.precisions.items():
        rows = [_row(shape, times) for shape in sorted(times.shapes)]
        print_table(f"{precision}: layers at full and at half width", ("layer", "µs", "µs at half"), rows)
        print_table(
            f"{precision}: networks not used for the table, largest error {times.error:.1%}",
            ("blocks out", "predicted ms", "measured ms", "error"),
            [
                (f"{len(c.removed)}", f"{c.predicted_ms:.3f}", f"{c.measured_ms:.3f}", f"{c.error:+.1%}")
                for c in times.checks
            ],
        )


def _row(shape: str, times: "Times") -> tuple[str, ...]:
    widest = max(times.shapes[shape])
    half = _nearest(times, shape, widest)
    return shape, f"{times.layer_us(shape, *widest):.1f}", f"{times.layer_us(shape, *half):.1f}"


def _nearest(times: "Times", shape: str, widest: tuple[int, int]) -> tuple[int, int]:
    """Return the grid cell closest to half the input and output channels."""
    return min(times.shapes[shape], key=lambda cell: sum(abs(n - w / 2) for n, w in zip(cell, widest, strict=True)))
