"""Memory that threads share."""

import threading
import time

from targets.device.server.image_memory import Allowance


def test_what_is_left_is_given_and_more_is_waited_for() -> None:
    allowance, order = Allowance(10), []
    free = threading.Event()

    def take(name: str, size: int) -> None:
        with allowance.taken(size):
            order.append(name)
            free.wait(20)

    threads = [threading.Thread(target=take, args=each) for each in (("first", 6), ("small", 4), ("large", 10))]
    for number, thread in enumerate(threads):
        thread.start()
        while len(order) < min(number + 1, 2):
            time.sleep(0.001)
    # It would fit, but behind the large one, which would wait for ever otherwise.
    last = threading.Thread(target=take, args=("last", 1))
    last.start()
    time.sleep(0.05)
    assert order == ["first", "small"]
    free.set()
    for thread in (*threads, last):
        thread.join(20)
    assert order == ["first", "small", "large", "last"]


def test_what_ends_with_an_error_is_given_back() -> None:
    allowance = Allowance(1)
    for _ in range(3):
        try:
            with allowance.taken(1):
                raise KeyError
        except KeyError:
            pass
