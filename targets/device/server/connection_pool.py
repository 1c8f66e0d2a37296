"""All open connections: limits on their number, and a check of their deadlines twice a second."""

from __future__ import annotations

import asyncio
import logging
from email.utils import formatdate
from typing import Optional, Protocol, Set

from targets.device.log import Throttle
from targets.device.server.client_memory import Budget
from targets.device.settings import Settings

LOG = logging.getLogger(__name__)
SWEEP_SECONDS = 0.5
# If a sweep is late by more than this, the whole process was stopped or frozen.
LATE_SECONDS = 1.0
# An incoming request older than this may be closed for a new connection.
SLOW_SECONDS = 1.0
# Refused connections that may still read their response; more of them are closed at once.
SEEN_OUT = 32


class Member(Protocol):
    """The interface of a connection in the pool."""

    deadline: float
    arriving_since: float
    """When the incoming request began, if `is_arriving`."""

    @property
    def is_idle(self) -> bool:
        """Whether it is between two requests."""

    @property
    def is_arriving(self) -> bool:
        """Whether its next request is incoming and none is being answered."""

    def postpone(self, seconds: float) -> None:
        """Extend the deadline by time the client could not use."""

    def on_deadline(self) -> None:
        """Handle the expired deadline."""

    def end(self) -> None:
        """Close it after its current request is answered."""

    def make_room(self) -> None:
        """Close it now, to make room for another one."""


class Connections:
    """The open connections; created in the loop that serves them."""

    def __init__(self, limit: int, held: Optional[Budget] = None) -> None:
        self.loop = asyncio.get_running_loop()
        self._limit = limit
        self.held = Budget(Settings.max_held_bytes) if held is None else held
        """Bytes held while waiting for clients."""
        self._members: Set[Member] = set()
        self._refused: Set[Member] = set()
        self._throttle = Throttle()
        self._swept = self.loop.time()
        self.date = b""
        """The Date header line (RFC 9110, section 6.6.1); updated with each sweep."""
        self._sweep()

    def __len__(self) -> int:
        return len(self._members)

    def add(self, member: Member) -> bool:
        """Add a connection; if all places are taken, close the one idle the longest. False: none can be closed.

        If none is idle, close the one whose request has been arriving the longest.
        """
        if len(self._members) >= self._limit:
            oldest = self._find_dispensable()
            if oldest is None:
                return False
            self._members.discard(oldest)
            oldest.make_room()
        self._members.add(member)
        return True

    def _find_dispensable(self) -> Optional[Member]:
        idle = [each for each in self._members if each.is_idle]
        if idle:
            return min(idle, key=lambda each: each.deadline)
        since = self.loop.time() - SLOW_SECONDS
        slow = [each for each in self._members if each.is_arriving and each.arriving_since <= since]
        return min(slow, key=lambda each: each.arriving_since) if slow else None

    def let_read(self, member: Member) -> bool:
        """Let a refused connection read its response until its deadline. False: there are too many of them."""
        if len(self._refused) >= SEEN_OUT:
            return False
        self._refused.add(member)
        return True

    def discard(self, member: Member) -> None:
        self._members.discard(member)
        self._refused.discard(member)

    def handshake_failed(self, reason: str) -> None:
        """Log a failed TLS handshake."""
        if self._throttle.lets_through():
            fields = {"error": reason, **self._throttle.fields()}
            LOG.warning("TLS handshake failed", extra={"fields": fields})

    async def end(self, seconds: float) -> int:
        """Let connections finish their current request; return the number that did not within `seconds`."""
        for member in list(self._members):
            member.end()
        deadline = self.loop.time() + seconds
        while self._members and self.loop.time() < deadline:
            await asyncio.sleep(0.02)
        self._timer.cancel()
        left = list(self._members)
        for member in left:
            member.make_room()
        # Lets their callbacks run and release what they hold.
        await asyncio.sleep(0.02)
        return len(left)

    def _sweep(self) -> None:
        # First, so that there is a next sweep even if this one fails.
        self._timer = self.loop.call_later(SWEEP_SECONDS, self._sweep)
        self.date = f"Date: {formatdate(usegmt=True)}\r\n".encode()
        now = self.loop.time()
        late, self._swept = now - self._swept - SWEEP_SECONDS, now
        members = [*self._members, *self._refused]
        if late > LATE_SECONDS:
            # Data that clients sent meanwhile could not be read, so the time does not count.
            for member in members:
                member.postpone(late)
        for member in [each for each in members if each.deadline < now]:
            member.on_deadline()
