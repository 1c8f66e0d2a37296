"""An image that was built with gRPC, started with the rights that every container of ours has."""

import time
from collections.abc import Iterator
from pathlib import Path

import google.protobuf
import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from device_server import HOST, SECONDS, free_port, images
from grpc_device import expected, tensor
from images_of_tests import names_of_images, own_target
from tiny_package import Packaged, TinyPackage, write_tiny_package

from pipeline.artifacts import Image
from pipeline.containers.container import RIGHTS, output_of
from pipeline.containers.engine import Engine
from pipeline.package.build_context import GRPC_PORT
from pipeline.package.package import package
from pipeline.package.settings import ImageSettings
from pipeline.progress import Silent
from pipeline.workplace import Workplace

pytestmark = [pytest.mark.docker, pytest.mark.long]
PYTHON = "/opt/edge-deploy/bin/python"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyPackage:
    return write_tiny_package(tmp_path_factory.mktemp("tiny") / "artifact")


@pytest.fixture(scope="module")
def image(
    engine: Engine, base_image: str, tiny: TinyPackage, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Image]:
    root: Path = tmp_path_factory.mktemp("packaged")
    with names_of_images(engine) as name:
        yield package(
            tiny.judged,
            ImageSettings(
                name=name, version="0.1.0", target=own_target(engine), base_image=base_image, grpc=True, labels={}
            ),
            shard=tiny.proof.shard,
            context=root / "context",
            at=Workplace(folder=root / "packaged", progress=Silent()),
        )


@pytest.fixture(scope="module")
def address(engine: Engine, image: Image) -> Iterator[str]:
    port = free_port()
    container = engine.client.containers.run(
        image.tag, detach=True, ports={f"{GRPC_PORT}/tcp": (HOST, port)}, **RIGHTS
    )
    try:
        yield f"{HOST}:{port}"
    finally:
        container.remove(force=True)


def test_it_answers_over_grpc_as_a_session_of_our_own(address: str, tiny: TinyPackage) -> None:
    values = images(5, seed=4)
    with triton.InferenceServerClient(address) as client:
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                if client.is_server_ready():
                    break
            except triton.InferenceServerException as error:
                assert "UNAVAILABLE" in str(error.status())  # noqa: PT017 - nothing listens yet
            assert time.monotonic() < deadline
            time.sleep(0.1)
        logits = client.infer("tiny", [tensor("images", values, "FP32")]).as_numpy("logits")
    np.testing.assert_allclose(logits, expected(tiny, values), rtol=0, atol=1e-5)


def test_it_has_the_versions_that_the_tests_run_with(engine: Engine, image: Image) -> None:
    code = "import grpc, google.protobuf; print(grpc.__version__, google.protobuf.__version__)"
    there = output_of(engine, image.tag, [PYTHON, "-c", code]).split()
    assert there == [grpc.__version__, google.protobuf.__version__]


def test_grpc_costs_at_most_25_mb(image: Image, packaged: Packaged) -> None:
    """Its one library is 17 MB."""
    assert 0 < image.bytes - packaged.image.bytes < 25e6


def test_an_image_without_it_has_nothing_of_it(engine: Engine, packaged: Packaged) -> None:
    code = "import importlib.util; print([importlib.util.find_spec(name) for name in ('grpc', 'google')])"
    assert output_of(engine, packaged.image.tag, [PYTHON, "-c", code]).strip() == "[None, None]"
    settings = engine.client.images.get(packaged.image.id).attrs["Config"]
    assert list(settings["ExposedPorts"]) == ["8000/tcp"]
    assert not [line for line in settings["Env"] if line.startswith("GRPC_PORT")]
