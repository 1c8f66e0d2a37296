"""What requests of every protocol share: places, the model's names, and where answers are computed."""

import asyncio
import gc
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device_server import images, loaded
from faults import eventually
from numpy.typing import NDArray
from tiny_package import write_tiny_package

from targets.device.server.endpoint import Endpoint, _awaitable, check_outputs
from targets.device.server.protocol import InferRequest, RequestedOutput
from targets.device.server.service import NotReady, Service
from targets.device.server.tensors import RequestError
from targets.device.settings import Settings

Array = NDArray[np.float32]
PIECE = InferRequest(id=None, inputs={"images": images(1)}, outputs=None, binary=False)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    made = Service(write_tiny_package(tmp_path_factory.mktemp("endpoint") / "artifact").folder)
    loaded(made)
    yield made
    made.close()


@pytest.fixture
def endpoint(service: Service) -> Endpoint:
    return Endpoint(service, Settings(max_waiting=2, max_batch=4))


def ask(endpoint: Endpoint, request: InferRequest = PIECE, *, size: int = 100) -> tuple[Array, bool, str]:
    """The answer, whether it was there at once, and the thread that computed it."""
    names: list[str] = []
    # Its thread hands over an answer a moment before it is done.
    assert eventually(lambda: endpoint.service.is_idle)

    def render(_request: InferRequest, logits: Array) -> Array:
        names.append(threading.current_thread().name)
        return logits

    async def within() -> tuple[Array, bool, str]:
        answer: Any = endpoint.answer(lambda: request, render, size=size)
        is_at_once = not isinstance(answer, asyncio.Future)
        return (answer if is_at_once else await asyncio.wait_for(answer, 30)), is_at_once, names[0]

    return asyncio.run(within())


def test_places_are_taken_and_given_back(endpoint: Endpoint) -> None:
    endpoint.enter()
    endpoint.enter()
    with pytest.raises(RequestError, match=r"2 requests are already being answered \(MAX_WAITING\)") as caught:
        endpoint.enter()
    assert (caught.value.status, endpoint.waiting) == (429, 2)
    endpoint.leave()
    endpoint.enter()
    assert endpoint.waiting == 2


def test_the_model_has_a_name_and_a_version(endpoint: Endpoint, service: Service) -> None:
    assert endpoint.model("tiny", None) is endpoint.model("tiny", "0.1.0") is endpoint.model("tiny", "")
    for name, version, message in (("other", None, "no model 'other'"), ("tiny", "2", "no version '2' of 'tiny'")):
        with pytest.raises(RequestError, match=message) as caught:
            endpoint.model(name, version)
        assert caught.value.status == 404


def test_without_a_model_nobody_enters(tmp_path: Path) -> None:
    broken = Service(tmp_path)
    loaded(broken)
    endpoint = Endpoint(broken, Settings())
    with pytest.raises(NotReady, match="no manifest"):
        endpoint.enter()
    with pytest.raises(NotReady, match="no manifest"):
        endpoint.model("tiny", None)
    assert endpoint.waiting == 0
    broken.close()


def test_short_work_is_done_at_once_and_long_work_in_the_models_thread(endpoint: Endpoint, service: Service) -> None:
    service.seconds_per_image = float("inf")
    first = ask(endpoint)
    service.seconds_per_image = 1e-6
    inline, large = ask(endpoint), ask(endpoint, size=1 << 20)
    service.seconds_per_image = 1.0
    slow = ask(endpoint)
    assert [each[1:] for each in (first, inline, large, slow)] == [
        (False, "model"),
        (True, "MainThread"),
        (False, "model"),
        (False, "model"),
    ]
    assert len({each[0].tobytes() for each in (first, inline, large, slow)}) == 1


def test_what_is_joined_goes_to_the_models_thread(service: Service) -> None:
    service.seconds_per_image = 1e-6
    assert ask(Endpoint(service, Settings(batch_images=2)))[1:] == (False, "model")


@pytest.mark.parametrize("size", [100, 1 << 20])
def test_a_wrong_request_is_refused_wherever_it_is_looked_at(endpoint: Endpoint, service: Service, size: int) -> None:
    service.seconds_per_image = 1e-6
    with pytest.raises(RequestError, match="5 images in one request; 1 to 4"):
        ask(endpoint, replace(PIECE, inputs={"images": images(5)}), size=size)
    with pytest.raises(RequestError, match="no output 'scores'"):
        ask(endpoint, replace(PIECE, outputs=(RequestedOutput("scores", False),)), size=size)


def test_outputs_are_logits_or_nothing() -> None:
    check_outputs(PIECE)
    check_outputs(replace(PIECE, outputs=(RequestedOutput("logits", True),)))
    with pytest.raises(RequestError, match="the model has 'logits'"):
        check_outputs(replace(PIECE, outputs=(RequestedOutput("Logits", True),)))


def test_what_is_awaited_ends_as_what_is_computed() -> None:
    async def within() -> None:
        done: Future[int] = Future()
        failed: Future[int] = Future()
        gone: Future[int] = Future()
        waiting = [_awaitable(each) for each in (done, failed, gone)]
        waiting[2].cancel()
        threading.Thread(target=done.set_result, args=(7,)).start()
        threading.Thread(target=failed.set_exception, args=(KeyError("a"),)).start()
        assert await asyncio.wait_for(waiting[0], 10) == 7
        with pytest.raises(KeyError):
            await asyncio.wait_for(waiting[1], 10)
        assert gone.cancelled()

    asyncio.run(within())


def test_an_answer_after_the_loops_end_disturbs_nobody() -> None:
    late: Future[int] = Future()

    async def within() -> None:
        _awaitable(late)

    asyncio.run(within())
    late.set_result(1)


def test_what_is_awaited_makes_no_circle() -> None:
    """Else the body of every refused request would stay until the collector comes."""

    class Failed(Exception):
        pass

    async def within() -> "weakref.ref[Failed]":
        computed: Future[int] = Future()
        awaited = _awaitable(computed)
        error = Failed()
        kept = weakref.ref(error)
        computed.set_exception(error)
        del computed, error
        await asyncio.wait([awaited])
        assert isinstance(awaited.exception(), Failed)
        del awaited
        await asyncio.sleep(0.01)
        return kept

    gc.collect()
    gc.disable()
    try:
        assert asyncio.run(within())() is None
    finally:
        gc.enable()
