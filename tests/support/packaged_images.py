"""What images of a name the engine has, and of which layers one is."""

from pipeline.containers.engine import Engine
from pipeline.package.labels import OPEN_CONTAINER


def layers(engine: Engine, image: str) -> list[str]:
    found: list[str] = engine.client.images.get(image).attrs["RootFS"]["Layers"]
    return found


def images_named(engine: Engine, name: str) -> list[str]:
    found = engine.client.images.list(filters={"label": f"{OPEN_CONTAINER}title={name}"})
    return [str(image.id) for image in found]
