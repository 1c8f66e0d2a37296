"""All open connections: room for new ones, and a look at each one's deadline twice a second."""

from __future__ import annotations

import asyncio
from email.utils import formatdate
from typing import Protocol, Set

SWEEP_SECONDS = 0.5
# A sweep that comes so much later than it should was held up with the whole process (stopped, or frozen).
LATE_SECONDS = 1.0
# Refused connections that are seen out at a time; more of them are closed at once.
SEEN_OUT = 32


class Member(Protocol):
    """A connection, as far as it is looked after here."""

    deadline: float

    @property
    def is_idle(self) -> bool:
        """Between two requests."""

    def on_deadline(self) -> None:
        """The deadline is over."""

    def end(self) -> None:
        """Close it as soon as its request is answered."""

    def make_room(self) -> None:
        """Close it now, for another one."""


class Connections:
    """Made within the loop that serves them."""

    def __init__(self, limit: int) -> None:
        self.loop = asyncio.get_running_loop()
        self._limit = limit
        self._members: Set[Member] = set()
        self._refused: Set[Member] = set()
        self._swept = self.loop.time()
        self.date = b""
        """The Date header (RFC 9110, section 6.6.1), a whole line; made anew with each sweep."""
        self._sweep()

    def __len__(self) -> int:
        return len(self._members)

    def add(self, member: Member) -> bool:
        """Take it in; where all places are taken, the one that has been idle for longest goes. False: none is."""
        if len(self._members) >= self._limit:
            idle = [each for each in self._members if each.is_idle]
            if not idle:
                return False
            oldest = min(idle, key=lambda each: each.deadline)
            self._members.discard(oldest)
            oldest.make_room()
        self._members.add(member)
        return True

    def see_out(self, member: Member) -> bool:
        """Let one that was refused read its answer until its deadline. False: there are too many of them."""
        if len(self._refused) >= SEEN_OUT:
            return False
        self._refused.add(member)
        return True

    def discard(self, member: Member) -> None:
        self._members.discard(member)
        self._refused.discard(member)

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
                member.deadline += late
        for member in [each for each in members if each.deadline < now]:
            member.on_deadline()
