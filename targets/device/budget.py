"""Bytes that are held for clients: bounded in all. Where they become too many, whoever has cost the most is sent away.

What a share costs is its bytes times the seconds for which it has been open: at one pace the larger body, of one size
the slower one. A bound on each client by itself would have to be small, as there may be a thousand of them.
"""

from __future__ import annotations

import time
from typing import Callable, Optional, Set

# Whoever has come just now is not judged: of a burst of good requests the last are asked to come again.
PATIENCE_SECONDS = 0.25


class Share:
    """What one client holds; whoever sets `send_away` closes the share in it, or holds less."""

    __slots__ = ("_budget", "held", "send_away", "since")

    def __init__(self, budget: "Budget", since: float) -> None:
        self._budget = budget
        self.since = since
        self.held = 0
        self.send_away: Optional[Callable[[], None]] = None
        """None: it stays, whatever it costs."""

    def hold(self, size: int) -> None:
        """So much from now on; sends away others for it, or this one where nobody else is old enough."""
        self._budget.hold(self, size)

    def close(self) -> None:
        self._budget.close(self)


class Budget:
    """At most `limit`, but for what cannot be sent away, and for one share that is alone."""

    def __init__(
        self, limit: int, clock: Callable[[], float] = time.monotonic, *, patience: float = PATIENCE_SECONDS
    ) -> None:
        self.limit = limit
        self._patience = patience
        self.total = 0
        self._clock = clock
        self._shares: Set[Share] = set()
        self._holding = 0
        """Shares of more than nothing."""

    def open(self, send_away: Optional[Callable[[], None]] = None) -> Share:
        share = Share(self, self._clock())
        share.send_away = send_away
        self._shares.add(share)
        return share

    def hold(self, share: Share, size: int) -> None:
        if share not in self._shares:
            return
        self._set(share, size)
        if self.total > self.limit:
            self._make_room(share)

    def close(self, share: Share) -> None:
        # Without the circle of references the client's memory is free at once.
        share.send_away = None
        if share in self._shares:
            self._set(share, 0)
            self._shares.discard(share)

    def _make_room(self, growing: Share) -> None:
        now = self._clock()
        judged = [each for each in self._shares if each.held and now - each.since >= self._patience]
        judged.sort(key=lambda each: each.held * (now - each.since))
        while judged and self._is_exceeded():
            _send_away(judged.pop())
        if self._is_exceeded():
            _send_away(growing)

    def _is_exceeded(self) -> bool:
        return self.total > self.limit and self._holding > 1

    def _set(self, share: Share, size: int) -> None:
        self.total += size - share.held
        self._holding += bool(size) - bool(share.held)
        share.held = size


def _send_away(share: Share) -> None:
    if share.send_away is not None:
        share.send_away()
