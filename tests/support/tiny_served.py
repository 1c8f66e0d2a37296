"""A tiny model and a server of it, shared by the tests of one module: fixtures to import by name."""

from collections.abc import Iterator

import pytest
from device_server import Running, serving
from tiny_package import TinyPackage, write_tiny_package


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyPackage:
    return write_tiny_package(tmp_path_factory.mktemp("served") / "artifact")


@pytest.fixture(scope="module")
def running(tiny: TinyPackage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(tiny.folder, tmp_path_factory.mktemp("log") / "log") as started:
        yield started
