"""A tiny real ResNet and its checkpoint, real data where it is present, the Docker engine with an image, a browser."""

import functools
import gc
import os
import re
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import NAMES, Chromium, Page, chromium, find_chromium
from images_of_tests import names_of_images, own_target
from random_statistics import with_random_statistics
from repository import REPOSITORY
from status_server import StatusServer, status_server, wait_for_word
from tiny_package import Packaged, write_tiny_package
from torch import nn
from xdist.scheduler import LoadScopeScheduling

from pipeline.artifacts import Architecture, Checkpoint
from pipeline.containers.client import InferenceClient
from pipeline.containers.container import running
from pipeline.containers.engine import Engine, connect
from pipeline.errors import EngineMissing
from pipeline.models.checkpoint import save_network
from pipeline.models.resnet import build_resnet
from pipeline.models.zoo import residual
from pipeline.package.package import package
from pipeline.package.settings import ImageSettings
from pipeline.progress import Silent
from pipeline.workplace import Workplace
from targets.base_images import known_bases

# Of files that use what there is one of on a machine: the Docker engine, its network, the browser.
SHARED = re.compile(
    r"pytest\.mark\.docker|\b(engine: Engine|packaged: Packaged|browser: Chromium|shown: Page|page: Page)\b"
)

# Of files that look at one finished build, which takes a minute to make.
BUILT = re.compile(r"\b(built: Document|trained: Path)\b")
NO_DATA = "no real data"


class OneAtATime(LoadScopeScheduling):  # type: ignore[misc]
    """Under `-n`: a file's tests stay in one process; so do files that share an engine, a browser or a build."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return _scope_of(file)


@functools.cache
def _scope_of(file: str) -> str:
    text = (REPOSITORY / file).read_text(encoding="utf-8")
    if SHARED.search(text):
        return "shared"
    return "built" if BUILT.search(text) else file


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the groups that one process must run alone: at the end the other one would wait for it."""
    items.sort(key=lambda item: _scope_of(item.nodeid.partition("::")[0]) not in ("built", "shared"))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneAtATime:
    return OneAtATime(config, log)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the tests that had no real data: among a thousand lines of dots a skip is easily missed."""
    skipped = terminalreporter.stats.get("skipped", [])
    without = sorted({report.nodeid for report in skipped if NO_DATA in str(report.longrepr)})
    if without:
        terminalreporter.section(f"{len(without)} tests were skipped: {NO_DATA} (EDGE_DEPLOY_DATA names its folder)")
        for nodeid in without:
            terminalreporter.line(nodeid)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Real images and trained checkpoints (`EDGE_DEPLOY_DATA`); the test is skipped where they are absent."""
    root = Path(os.environ.get("EDGE_DEPLOY_DATA", REPOSITORY.parent / "shared" / "data")).resolve()
    if not (root / "checkpoints").is_dir():
        pytest.skip(f"{NO_DATA} at {root} (EDGE_DEPLOY_DATA)")
    return root


@pytest.fixture(scope="session")
def tiny_architecture() -> Architecture:
    """ResNet-8 for 32x32 images of ten classes: three stages, option-A shortcuts, 0.02 M parameters."""
    classes = tuple(f"class{index}" for index in range(10))
    return residual(depths=(1, 1, 1), stage_widths=(8, 16, 32), classes=classes)


@pytest.fixture
def tiny_resnet(tiny_architecture: Architecture) -> nn.Module:
    """The tiny ResNet in evaluation mode, its batch normalization as varied as a trained network's."""
    return with_random_statistics(build_resnet(tiny_architecture), seed=0)


@pytest.fixture
def tiny_checkpoint(tiny_architecture: Architecture, tiny_resnet: nn.Module, tmp_path: Path) -> Checkpoint:
    """The tiny ResNet as a checkpoint folder."""
    folder = tmp_path / "tiny-checkpoint"
    save_network(tiny_resnet, tiny_architecture, folder)
    return Checkpoint(folder=folder)


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """The Docker engine; without one the test is skipped, but fails in CI."""
    found = _engine_or_why_not()
    if isinstance(found, str):
        if os.environ.get("CI"):
            pytest.fail(f"CI is set, so this test is not skipped: {found}")
        pytest.skip(found)
    before = _dependency_stages(found)
    yield found
    # Kept by the engine to build faster; what was there before us stays.
    for stage in _dependency_stages(found) - before:
        found.client.images.remove(stage, force=True)
    found.close()


@pytest.fixture(scope="session")
def base_image(engine: Engine) -> str:
    """The tag of a base image for this machine's platform, made where there is none."""
    for base in known_bases().values():
        if not base.tensorrt and base.platform == engine.platform == engine.platform_of(base.tag):
            return base.tag
    script = [str(REPOSITORY / "scripts" / "base_image.sh")]
    return subprocess.run(script, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


@pytest.fixture
def image_name(engine: Engine) -> Iterator[str]:
    """A name for images, all of which are removed after the test."""
    with names_of_images(engine) as name:
        yield name


@pytest.fixture(scope="session")
def packaged(engine: Engine, base_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Packaged]:
    """A tiny artifact in a real image, built and proven by `package`."""
    root = tmp_path_factory.mktemp("packaged")
    tiny = write_tiny_package(root / "artifact")
    with names_of_images(engine) as name:
        image = package(
            tiny.judged,
            ImageSettings(
                name=name,
                version="0.1.0",
                target=own_target(engine),
                base_image=base_image,
                labels={"dev.edge-deploy.recipe.sha256": "0123abc", "said": 'a "quoted" $HOME \\ name'},
            ),
            shard=tiny.proof.shard,
            context=root / "context",
            at=Workplace(folder=root / "packaged", progress=Silent()),
        )
        yield Packaged(tiny=tiny, image=image, folder=root / "packaged", base_image=base_image)


@pytest.fixture(scope="module")
def client(engine: Engine, packaged: Packaged) -> Iterator[InferenceClient]:
    """A running container of the packaged image."""
    with running(engine, packaged.image.tag, progress=Silent()) as started:
        yield started


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """A headless Chromium; where none runs the test is skipped."""
    program = find_chromium()
    if program is None:
        pytest.skip(
            f"no browser runs here ({', '.join(NAMES)}, or CHROMIUM), or BROWSER=skip: scripts/browser.sh installs one"
        )
    with chromium(program, tmp_path_factory.mktemp("browser") / "profile") as started:
        yield started


@pytest.fixture
def page(browser: Chromium) -> Iterator[Page]:
    """An empty tab."""
    opened = Page(browser)
    yield opened
    opened.close()


@pytest.fixture
def status() -> Iterator[StatusServer]:
    """A server of the status page, whose answers the test makes up."""
    with status_server() as started:
        yield started


@pytest.fixture
def shown(page: Page, status: StatusServer) -> Page:
    """The status page as it is when all is well."""
    page.open(status.url)
    wait_for_word(page, "Ready")
    return page


def _engine_or_why_not() -> Engine | str:
    # The SDK leaves a socket open that it could not connect; collected here, it spoils no other test.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            return connect()
        except EngineMissing as error:
            reason = str(error)
        gc.collect()
    return reason


def _dependency_stages(engine: Engine) -> set[str]:
    found = engine.client.images.list(filters={"label": "dev.edge-deploy.stage=dependencies"})
    return {str(image.id) for image in found}
