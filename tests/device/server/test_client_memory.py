"""Who is sent away where too much is held for clients."""

import pytest

from targets.device.server.client_memory import PATIENCE_SECONDS, Budget, Share


class Clients:
    """Shares by name, on a clock that the test moves."""

    def __init__(self, limit: int) -> None:
        self.now = 0.0
        self.budget = Budget(limit, lambda: self.now)
        self.gone: list[str] = []

    def open(self, name: str, size: int = 0) -> Share:
        share = self.budget.open()

        def evict() -> None:
            self.gone.append(name)
            share.close()

        share.evict = evict
        share.hold(size)
        return share


@pytest.fixture
def clients() -> Clients:
    return Clients(100)


def test_what_fits_stays(clients: Clients) -> None:
    share = clients.open("a", 60)
    clients.open("b", 40)
    share.hold(10)
    clients.open("c", 50)
    assert (clients.gone, clients.budget.total) == ([], 100)


def test_the_one_that_has_cost_the_most_goes(clients: Clients) -> None:
    clients.open("small and old", 10)
    clients.now = 50.0
    clients.open("large", 80)
    clients.now = 60.0
    # 10 bytes for 60 seconds, 80 for 10.
    clients.open("new", 20)
    assert (clients.gone, clients.budget.total) == (["large"], 30)


def test_of_one_size_the_slower_one_goes(clients: Clients) -> None:
    clients.open("slow", 40)
    clients.now = 1.0
    clients.open("quick", 40)
    clients.now = 2.0
    clients.open("new", 30)
    assert clients.gone == ["slow"]


def test_whoever_has_just_come_is_not_judged_but_gets_no_more(clients: Clients) -> None:
    clients.open("a", 60)
    clients.now = PATIENCE_SECONDS / 2
    clients.open("b", 60)
    assert (clients.gone, clients.budget.total) == (["b"], 60)


def test_without_patience_the_newest_stays() -> None:
    clients = Clients(100)
    clients.budget = Budget(100, lambda: clients.now, patience=0.0)
    clients.open("a", 60)
    clients.now = PATIENCE_SECONDS / 2
    clients.open("b", 60)
    assert (clients.gone, clients.budget.total) == (["a"], 60)


def test_what_cannot_be_sent_away_stays(clients: Clients) -> None:
    clients.open("complete", 90).evict = None
    clients.now = 1.0
    clients.open("b", 5)
    clients.now = 2.0
    clients.open("c", 9)
    assert (clients.gone, clients.budget.total) == (["b"], 99)


def test_one_that_is_alone_may_hold_more(clients: Clients) -> None:
    share = clients.open("large", 1000)
    clients.now = 1.0
    assert clients.gone == []
    clients.open("b", 1)
    assert clients.gone == ["large"]
    share.hold(5)
    assert clients.budget.total == 1


def test_one_that_has_less_by_now_need_not_go(clients: Clients) -> None:
    share = clients.budget.open()
    share.evict = lambda: share.hold(1)
    share.hold(90)
    clients.now = 1.0
    clients.open("b", 50)
    assert (clients.gone, clients.budget.total) == ([], 51)


def test_a_share_that_is_closed_forgets_who_had_it(clients: Clients) -> None:
    share = clients.open("a", 7)
    share.close()
    share.close()
    assert (share.evict, clients.budget.total) == (None, 0)
