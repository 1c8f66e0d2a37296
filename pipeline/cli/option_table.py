"""Commands that take the rows of a table as options, besides their function's own parameters."""

from functools import cache
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand
from typer.main import get_command


class TableCommand(TyperCommand):
    """Add the rows of `table`, a dataclass, to the command's options.

    Typer reads a row from a field's annotation, as it reads an option from a parameter. The command's function
    gets the filled dataclass as `ctx.obj`, and its own parameters as usual.
    """

    table: ClassVar[type]
    names: ClassVar[tuple[str, ...] | None] = None
    """The rows the command takes, in the order of its help; None: all."""

    def __init__(self, name: str | None, *, params: list[Any] | None = None, **settings: Any) -> None:
        super().__init__(name, params=[*self._rows(), *(params or [])], **settings)

    def invoke(self, ctx: Any) -> Any:
        given = {row.name: ctx.params.pop(row.name) for row in self._rows()}
        ctx.obj = _command_of(self.table).callback(**given)
        return super().invoke(ctx)

    @classmethod
    def _rows(cls) -> list[Any]:
        rows = {row.name: row for row in _command_of(cls.table).params}
        return [rows[name] for name in (rows if cls.names is None else cls.names)]


@cache
def _command_of(table: type) -> Any:
    """Return the command that Typer makes from a dataclass: its parameters are the rows, its callback fills them."""
    app = typer.Typer(add_completion=False)
    app.command()(table)
    return get_command(app)
