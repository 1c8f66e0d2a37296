"""A progress that says nothing and counts what it is told."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pipeline.progress import Advance, Silent


@dataclass
class Told:
    name: str
    total: int
    steps: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    is_over: bool = False

    @property
    def done(self) -> int:
        return sum(self.steps)


class Counted(Silent):
    def __init__(self) -> None:
        self.tasks: list[Told] = []

    @contextmanager
    def task(self, name: str, total: int) -> Iterator[Advance]:
        # Live bars can be but one at a time.
        assert all(task.is_over for task in self.tasks), f"{name} is inside another task"
        told = Told(name=name, total=total)
        self.tasks.append(told)

        def advance(steps: int = 1, *, note: str = "") -> None:
            told.steps.append(steps)
            if note:
                told.notes.append(note)

        yield advance
        told.is_over = True

    def named(self, name: str) -> Told:
        (found,) = (task for task in self.tasks if task.name == name)
        return found
