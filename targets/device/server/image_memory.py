"""A memory limit that several threads share."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import Iterator


class Allowance:
    """A number of bytes; a thread that needs more than are left waits, and so do later ones."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._taken = 0
        self._turn = threading.Lock()
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, size: int) -> Iterator[None]:
        """Hold `size` bytes, at most `total`; a thread holds one share at a time."""
        assert size <= self.total
        # In order, so that many small requests cannot starve a large one.
        with self._turn, self._changed:
            self._changed.wait_for(lambda: self._taken + size <= self.total)
            self._taken += size
        try:
            yield
        finally:
            with self._changed:
                self._taken -= size
                self._changed.notify_all()
