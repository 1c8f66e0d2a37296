"""Images that are built from a few lines."""

from pathlib import Path

from pipeline.containers.engine import Engine
from pipeline.package.labels import OPEN_CONTAINER
from pipeline.progress import Silent


def write_dockerfile(folder: Path, base_image: str, name: str, *lines: str) -> Path:
    folder.mkdir(exist_ok=True)
    text = [f"FROM {base_image}", f'LABEL {OPEN_CONTAINER}title="{name}"', *lines]
    (folder / "Dockerfile").write_text("\n".join(text) + "\n")
    return folder


def build(engine: Engine, folder: Path) -> str:
    return engine.build(folder, labels={}, platform=engine.platform, progress=Silent())
