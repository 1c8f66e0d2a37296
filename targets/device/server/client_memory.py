"""A budget for the bytes held for all clients. Above it, the most expensive client is evicted.

The cost of a share is its bytes times the seconds it has been open, so at equal speed the larger body is evicted, and
at equal size the slower one. A limit per client would have to be small, because there may be a thousand of them.
"""

from __future__ import annotations

import time
from typing import Callable, Optional, Set

# Shares younger than this are not evicted for others: in a burst of good requests, the last ones must retry.
PATIENCE_SECONDS = 0.25


class Share:
    """The bytes held for one client; the `evict` callback must close the share or reduce it."""

    __slots__ = ("_budget", "evict", "held", "since")

    def __init__(self, budget: "Budget", since: float) -> None:
        self._budget = budget
        self.since = since
        self.held = 0
        self.evict: Optional[Callable[[], None]] = None
        """None: cannot be evicted."""

    def hold(self, size: int) -> None:
        """Set the size; if the budget is exceeded, evict others, or this share if no other is old enough."""
        self._budget.hold(self, size)

    def close(self) -> None:
        self._budget.close(self)


class Budget:
    """A limit on all shares, except those that cannot be evicted and a share that is the only one."""

    def __init__(
        self, limit: int, clock: Callable[[], float] = time.monotonic, *, patience: float = PATIENCE_SECONDS
    ) -> None:
        self.limit = limit
        self._patience = patience
        self.total = 0
        self._clock = clock
        self._shares: Set[Share] = set()
        self._holding = 0
        """Number of shares above zero bytes."""

    def open(self, evict: Optional[Callable[[], None]] = None) -> Share:
        share = Share(self, self._clock())
        share.evict = evict
        self._shares.add(share)
        return share

    def hold(self, share: Share, size: int) -> None:
        if share not in self._shares:
            return
        self._set(share, size)
        if self.total > self.limit:
            self._make_room(share)

    def close(self, share: Share) -> None:
        # Breaks the reference cycle, so that the client's memory is freed at once.
        share.evict = None
        if share in self._shares:
            self._set(share, 0)
            self._shares.discard(share)

    def _make_room(self, growing: Share) -> None:
        now = self._clock()
        judged = [each for each in self._shares if each.held and now - each.since >= self._patience]
        judged.sort(key=lambda each: each.held * (now - each.since))
        while judged and self._is_exceeded():
            _evict(judged.pop())
        if self._is_exceeded():
            _evict(growing)

    def _is_exceeded(self) -> bool:
        return self.total > self.limit and self._holding > 1

    def _set(self, share: Share, size: int) -> None:
        self.total += size - share.held
        self._holding += bool(size) - bool(share.held)
        share.held = size


def _evict(share: Share) -> None:
    if share.evict is not None:
        share.evict()
