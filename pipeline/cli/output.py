"""Results on stdout: sentences and tables, in which no text of strangers moves the terminal's cursor."""

from collections.abc import Sequence

import typer

from pipeline.untrusted import LONGEST, printable


def say(text: str) -> None:
    """Print `text`, printable."""
    typer.echo(printable(text, longest=LONGEST * 100))


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout; the first column is left-aligned, numbers to the right."""
    # Most commands print none, and importing it takes a third of their start.
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title or None, title_justify="left", show_edge=False, pad_edge=False)
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(printable(cell) for cell in row))
    # A pipe has no width: rather long lines than cut figures.
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    console.print(table, markup=False)
