"""Results on stdout: sentences and tables; untrusted text cannot move the terminal's cursor."""

from collections.abc import Sequence

import typer

from pipeline.untrusted import LONGEST, printable


def say(text: str) -> None:
    """Print `text` with control characters escaped."""
    typer.echo(printable(text, longest=LONGEST * 100))


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; the first column is left-aligned, the others right-aligned."""
    # Most commands print no table, and this import takes a third of their start-up time.
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title or None, title_justify="left", show_edge=False, pad_edge=False)
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(printable(cell) for cell in row))
    # A pipe has no width: long lines are better than cut figures.
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    console.print(table, markup=False)
