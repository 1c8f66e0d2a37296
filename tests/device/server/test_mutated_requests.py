"""Good requests after a few things have happened to them, always the same 500."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from device_server import INFER, answering
from malformed_requests import GOOD, HEADER, TENSOR, Headers
from tiny_package import write_tiny_package

from targets.device.server.protocol import LENGTH_HEADER


@pytest.fixture
def client(tmp_path: Path) -> Iterator[httpx2.Client]:
    with answering(write_tiny_package(tmp_path / "artifact").folder) as made:
        yield made


ODD: list[Any] = [
    None,
    True,
    -1,
    0,
    2**63,
    10**300,
    1.5,
    "",
    "FP32",
    "\ud800",
    [],
    [[]],
    {},
    [None],
    ["images"],
    {"a": []},
]


def node_of(tree: Any, pick: random.Random) -> tuple[Any, Any] | None:
    """A random container within `tree`, and a key of it."""
    found: list[tuple[Any, Any]] = []
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        keys = list(node) if isinstance(node, dict) else list(range(min(len(node), 5)))
        found += [(node, key) for key in keys]
        waiting += [node[key] for key in keys if isinstance(node[key], dict | list)]
    return pick.choice(found) if found else None


def replaced(tree: Any, pick: random.Random) -> None:
    if (place := node_of(tree, pick)) is not None:
        place[0][place[1]] = pick.choice(ODD)


def removed(tree: Any, pick: random.Random) -> None:
    if (place := node_of(tree, pick)) is not None:
        del place[0][place[1]]


def doubled(tree: Any, pick: random.Random) -> None:
    if (place := node_of(tree, pick)) is not None and isinstance(place[0], list):
        place[0].append(place[0][place[1]])


def flipped(data: bytes, pick: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(pick.randrange(1, 6)):
        changed[pick.randrange(len(changed))] = pick.randrange(256)
    return bytes(changed)


def cut(data: bytes, pick: random.Random) -> bytes:
    start = pick.randrange(len(data))
    return data[:start] + data[start + pick.randrange(1, 60) :]


def grown(data: bytes, pick: random.Random) -> bytes:
    start = pick.randrange(len(data))
    return data[:start] + pick.randbytes(pick.randrange(1, 60)) + data[start:]


TREES: list[Callable[[Any, random.Random], None]] = [replaced, removed, doubled]
BYTES: list[Callable[[bytes, random.Random], bytes]] = [flipped, cut, grown]


def mutated(pick: random.Random) -> tuple[bytes, Headers]:
    """A request that was good before a few things happened to its JSON, its bytes, or the length it states."""
    is_binary = pick.random() < 0.5
    tree = json.loads(HEADER if is_binary else GOOD)
    tree.update({"id": "7", "outputs": [{"name": "logits", "parameters": {"binary_data": True}}], "parameters": {}})
    for _ in range(pick.randrange(3)):
        pick.choice(TREES)(tree, pick)
    header = json.dumps(tree).encode()
    sent = header + TENSOR if is_binary else header
    for _ in range(pick.randrange(2)):
        sent = pick.choice(BYTES)(sent, pick)
    stated = pick.choice([len(header)] * 8 + [0, len(sent), len(sent) + 1, pick.randrange(2000)])
    return sent, {LENGTH_HEADER: str(stated)} if is_binary or pick.random() < 0.1 else {}


def test_500_mutated_requests_are_answered_or_refused(client: httpx2.Client) -> None:
    pick = random.Random(20240607)
    statuses = []
    for _ in range(500):
        sent, headers = mutated(pick)
        response = client.post(INFER, content=sent, headers=headers)
        statuses.append(response.status_code)
        assert response.status_code in (200, 400), (sent, headers)
        if response.status_code == 400:
            assert list(response.json()) == ["error"]
    # Neither is all of it broken, nor too little.
    assert 50 < statuses.count(200) < 350
    after = client.post(INFER, content=GOOD).json()["outputs"][0]
    assert after["shape"] == [1, 4]
    assert np.isfinite(after["data"]).all()
