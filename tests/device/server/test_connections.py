"""Places for connections, and a look at their deadlines."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from email.utils import parsedate_to_datetime

import pytest

from targets.device.server import connection_pool as connections_module
from targets.device.server.connection_pool import SEEN_OUT, Connections


class Seat:
    """Writes down what is asked of it."""

    def __init__(self, deadline: float = 1e12, *, is_idle: bool = True) -> None:
        self.deadline = deadline
        self.is_idle = is_idle
        self.is_arriving, self.arriving_since = False, 0.0
        self.calls: list[str] = []

    def postpone(self, seconds: float) -> None:
        self.deadline += seconds

    def on_deadline(self) -> None:
        self.calls.append("deadline")

    def end(self) -> None:
        self.calls.append("end")

    def make_room(self) -> None:
        self.calls.append("make room")


def run(test: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 30))


def test_the_one_that_is_idle_for_longest_makes_room() -> None:
    async def test() -> None:
        connections = Connections(3)
        busy, young, old, new = Seat(1, is_idle=False), Seat(3e12), Seat(2e12), Seat()
        assert all(map(connections.add, (busy, young, old)))
        assert connections.add(new)
        assert (busy.calls, young.calls, old.calls) == ([], [], ["make room"])
        assert len(connections) == 3

    run(test)


def test_where_all_are_busy_there_is_no_room() -> None:
    async def test() -> None:
        connections = Connections(2)
        assert all(connections.add(Seat(is_idle=False)) for _ in range(2))
        refused = [Seat() for _ in range(SEEN_OUT + 1)]
        assert not any(map(connections.add, refused))
        assert [connections.let_read(each) for each in refused] == [True] * SEEN_OUT + [False]
        connections.discard(refused[0])
        assert connections.let_read(refused[-1])
        assert len(connections) == 2

    run(test)


def test_deadlines_are_looked_at_twice_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections_module, "SWEEP_SECONDS", 0.01)

    async def test() -> None:
        connections = Connections(1)
        over, later, refused = Seat(connections.loop.time()), Seat(), Seat(connections.loop.time())
        connections.add(over)
        assert not connections.add(later) or over.calls == ["make room"]
        connections = Connections(3)
        over.calls.clear()
        assert connections.add(over)
        assert connections.add(later)
        assert connections.let_read(refused)
        await asyncio.sleep(0.1)
        assert "deadline" in over.calls
        assert "deadline" in refused.calls
        assert later.calls == []

    run(test)


def test_a_sweep_that_fails_is_not_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections_module, "SWEEP_SECONDS", 0.01)

    async def test() -> None:
        seat = Seat(0)

        def broken() -> None:
            seat.calls.append("deadline")
            raise KeyError("a bug")

        seat.on_deadline = broken  # type: ignore[method-assign]
        asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
        Connections(1).add(seat)
        await asyncio.sleep(0.1)
        assert len(seat.calls) > 1

    run(test)


def test_time_in_which_nothing_could_be_read_is_not_the_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections_module, "SWEEP_SECONDS", 0.01)
    monkeypatch.setattr(connections_module, "LATE_SECONDS", 0.2)

    async def test() -> None:
        connections = Connections(1)
        seat = Seat(connections.loop.time() + 0.3)
        connections.add(seat)
        await asyncio.sleep(0.05)
        # As a process does that is stopped: nothing at all.
        time.sleep(0.5)
        await asyncio.sleep(0.05)
        assert seat.calls == []
        await asyncio.sleep(0.5)
        assert "deadline" in seat.calls

    run(test)


def test_the_date_is_a_header_line_of_now() -> None:
    async def test() -> None:
        name, _, value = Connections(1).date.decode().partition(": ")
        assert name == "Date"
        assert value.endswith(" GMT\r\n")
        assert abs(parsedate_to_datetime(value.strip()).timestamp() - time.time()) < 60

    run(test)


def test_the_end_asks_all_and_then_takes_what_is_left() -> None:
    async def test() -> None:
        connections = Connections(2)
        quick, slow = Seat(), Seat(is_idle=False)
        quick.end = lambda: connections.discard(quick)  # type: ignore[method-assign]
        connections.add(quick)
        connections.add(slow)
        assert await connections.end(0.1) == 1
        assert slow.calls == ["end", "make room"]

    run(test)
