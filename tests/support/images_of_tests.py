"""Names for images that tests build, and the target of the engine at hand."""

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from docker.errors import APIError

from pipeline.containers.engine import Engine
from pipeline.package.labels import OPEN_CONTAINER
from targets.target import Target, find_target


def own_target(engine: Engine) -> Target:
    """The catalogue's CPU target, for the engine's own platform."""
    return replace(find_target("cpu"), platform="linux/arm64" if engine.platform == "linux/arm64" else "linux/amd64")


@contextmanager
def names_of_images(engine: Engine) -> Iterator[str]:
    """A name that no image has; images that carry it in tag or title are removed when this is left."""
    name = f"edge-deploy-test-{uuid.uuid4().hex[:8]}"
    try:
        yield name
    finally:
        for image in engine.client.images.list(filters={"label": f"{OPEN_CONTAINER}title={name}"}):
            _remove_image(engine, str(image.id))


def _remove_image(engine: Engine, image: str) -> None:
    for attempt in range(100):
        try:
            engine.client.images.remove(image, force=True)
            return
        except APIError:
            # The engine takes a moment to end the container of a build that was interrupted.
            if attempt == 99:
                raise
            time.sleep(0.1)
