"""All open connections: room for new ones, and a look at each one's deadline twice a second."""

from __future__ import annotations

import asyncio
import logging
from email.utils import formatdate
from typing import Optional, Protocol, Set

from targets.device.budget import Budget
from targets.device.log import Throttle
from targets.device.settings import Settings

LOG = logging.getLogger(__name__)
SWEEP_SECONDS = 0.5
# A sweep that comes so much later than it should was held up with the whole process (stopped, or frozen).
LATE_SECONDS = 1.0
# A request that has been on its way for so long makes room for a new connection.
SLOW_SECONDS = 1.0
# Refused connections that are seen out at a time; more of them are closed at once.
SEEN_OUT = 32


class Member(Protocol):
    """A connection, as far as it is looked after here."""

    deadline: float
    arriving_since: float
    """When the request that `is_arriving` has begun."""

    @property
    def is_idle(self) -> bool:
        """Between two requests."""

    @property
    def is_arriving(self) -> bool:
        """Its next request is on its way, and none is at hand."""

    def postpone(self, seconds: float) -> None:
        """So much of the time was not the client's."""

    def on_deadline(self) -> None:
        """The deadline is over."""

    def end(self) -> None:
        """Close it as soon as its request is answered."""

    def make_room(self) -> None:
        """Close it now, for another one."""


class Connections:
    """Made within the loop that serves them."""

    def __init__(self, limit: int, held: Optional[Budget] = None) -> None:
        self.loop = asyncio.get_running_loop()
        self._limit = limit
        self.held = Budget(Settings.max_held_bytes) if held is None else held
        """Bytes that wait for the clients to go on."""
        self._members: Set[Member] = set()
        self._refused: Set[Member] = set()
        self._throttle = Throttle()
        self._swept = self.loop.time()
        self.date = b""
        """The Date header (RFC 9110, section 6.6.1), a whole line; made anew with each sweep."""
        self._sweep()

    def __len__(self) -> int:
        return len(self._members)

    def add(self, member: Member) -> bool:
        """Take it in; where all places are taken, the one that has been idle for longest goes. False: none can.

        With none idle, the one whose request is on its way for longest: to be slow costs a client as little.
        """
        if len(self._members) >= self._limit:
            oldest = self._dispensable()
            if oldest is None:
                return False
            self._members.discard(oldest)
            oldest.make_room()
        self._members.add(member)
        return True

    def _dispensable(self) -> Optional[Member]:
        idle = [each for each in self._members if each.is_idle]
        if idle:
            return min(idle, key=lambda each: each.deadline)
        since = self.loop.time() - SLOW_SECONDS
        slow = [each for each in self._members if each.is_arriving and each.arriving_since <= since]
        return min(slow, key=lambda each: each.arriving_since) if slow else None

    def see_out(self, member: Member) -> bool:
        """Let one that was refused read its answer until its deadline. False: there are too many of them."""
        if len(self._refused) >= SEEN_OUT:
            return False
        self._refused.add(member)
        return True

    def discard(self, member: Member) -> None:
        self._members.discard(member)
        self._refused.discard(member)

    def handshake_failed(self, reason: str) -> None:
        """Say it in the log: nobody else hears of it."""
        if self._throttle.lets_through():
            fields = {"error": reason, **self._throttle.fields()}
            LOG.warning("TLS handshake failed", extra={"fields": fields})

    async def end(self, seconds: float) -> int:
        """Let every connection finish the request at hand; the number of those that did not within `seconds`."""
        for member in list(self._members):
            member.end()
        deadline = self.loop.time() + seconds
        while self._members and self.loop.time() < deadline:
            await asyncio.sleep(0.02)
        self._timer.cancel()
        left = list(self._members)
        for member in left:
            member.make_room()
        # So that they are told of it, and give back what they hold.
        await asyncio.sleep(0.02)
        return len(left)

    def _sweep(self) -> None:
        # First of all: whatever becomes of this sweep, there is a next one.
        self._timer = self.loop.call_later(SWEEP_SECONDS, self._sweep)
        self.date = f"Date: {formatdate(usegmt=True)}\r\n".encode()
        now = self.loop.time()
        late, self._swept = now - self._swept - SWEEP_SECONDS, now
        members = [*self._members, *self._refused]
        if late > LATE_SECONDS:
            # What the clients have sent meanwhile could not be read: the time is not theirs.
            for member in members:
                member.postpone(late)
        for member in [each for each in members if each.deadline < now]:
            member.on_deadline()
