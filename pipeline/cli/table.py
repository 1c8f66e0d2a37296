"""Tables on the terminal: the summary of a build, the targets, the state of a workspace."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from pipeline.printable import printable


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout; the first column is left-aligned, numbers to the right."""
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
