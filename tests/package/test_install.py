"""What is left out of the image's environment, what works without it, and that its layer is always the same."""

import base64
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
from images_of_tests import names_of_images, own_target
from PIL import Image as Photo
from PIL import features
from script import load_script
from tiny_package import Packaged

from pipeline.containers.container import copy_out, output_of
from pipeline.containers.engine import Engine
from pipeline.package.base_image import find_base
from pipeline.package.build_context import MODEL, Environment, write_context
from pipeline.package.labels import OPEN_CONTAINER
from pipeline.package.wheels import default_cache, fetch_wheels, find_lock
from pipeline.progress import Silent
from pipeline.validate.published import report_json
from targets.device.gate.report import read_proof
from targets.device.model.image_files import FORMATS, decode
from targets.device.server.status import page
from targets.shipped import shipped

PYTHON = "/opt/edge-deploy/bin/python"
DECODING = """
import base64, hashlib, json, sys
from targets.device.model.image_files import decode
for each in sys.argv[1:]:
    print(hashlib.sha256(decode(base64.b64decode(each)).tobytes()).hexdigest())
"""


INSTALL = load_script("docker/install.py")
SURPLUS = [line for line in shipped("surplus.txt").read_text().splitlines() if not line.startswith("#")]


def encoded() -> list[bytes]:
    """A photo in every format the device decodes, and in the kinds that need more of Pillow than others."""
    pixels = Photo.effect_mandelbrot((48, 40), (-2.0, -1.5, 1.0, 1.5), 60)
    color = Photo.merge("RGB", (pixels, pixels.rotate(90), pixels.rotate(180)))
    kinds: list[tuple[Photo.Image, str, dict[str, Any]]] = [(color, kind, {}) for kind in FORMATS]
    kinds += [(color, "TIFF", {"compression": each}) for each in ("tiff_lzw", "tiff_adobe_deflate", "jpeg")]
    kinds += [(color.convert(mode), "PNG", {}) for mode in ("RGBA", "LA", "P", "1", "I;16")]
    kinds += [
        (color.convert("CMYK"), "JPEG", {}),
        (color, "JPEG", {"progressive": True}),
        (color, "WEBP", {"lossless": True}),
    ]
    written = []
    for photo, kind, options in kinds:
        file = io.BytesIO()
        photo.save(file, kind, **options)
        written.append(file.getvalue())
    return written


def test_what_matches_is_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in ("pip/a.py", "pip-25.dist-info/x", "pipe/a.py", "numpy/a/tests/t.py", "numpy/a/code.py", "one.pxd"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "link").symlink_to(outside)
    INSTALL.remove(tmp_path, ("pip", "pip-*", "numpy/**/tests", "link", "absent"))
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if not path.is_dir()}
    assert left == {"pipe/a.py", "numpy/a/code.py", "one.pxd"}
    assert outside.is_dir()


@pytest.mark.docker
def test_nothing_surplus_is_in_the_image(engine: Engine, packaged: Packaged) -> None:
    code = (
        "import glob, json, pathlib, site, sys\n"
        "packages = pathlib.Path(site.getsitepackages()[0])\n"
        "print(json.dumps([str(path) for pattern in json.loads(sys.argv[1]) for path in packages.glob(pattern)]))"
    )
    found = output_of(engine, packaged.image.tag, [PYTHON, "-c", code, json.dumps(SURPLUS)])
    assert json.loads(found) == []


@pytest.mark.docker
@pytest.mark.parametrize("name", ["pip", "setuptools", "torch", "onnx", "pipeline", "numpy.random"])
def test_the_image_cannot_import(engine: Engine, packaged: Packaged, name: str) -> None:
    code = f"import importlib.util; print(importlib.util.find_spec({name!r}))"
    assert output_of(engine, packaged.image.tag, [PYTHON, "-c", code]).strip() == "None"


@pytest.mark.docker
def test_every_format_is_decoded_in_the_image_as_it_is_here(engine: Engine, packaged: Packaged) -> None:
    assert features.check("webp")
    photos = encoded()
    arguments = [base64.b64encode(each).decode() for each in photos]
    there = output_of(engine, packaged.image.tag, [PYTHON, "-c", DECODING, *arguments]).split()
    assert there == [hashlib.sha256(decode(each).tobytes()).hexdigest() for each in photos]
    assert len(there) == 18


@pytest.mark.docker
def test_the_gates_report_travels_in_the_image(engine: Engine, packaged: Packaged, tmp_path: Path) -> None:
    container = engine.client.containers.create(packaged.image.tag)
    try:
        for name in ("report.json", "manifest.json"):
            copy_out(container, packaged.image.tag, f"/{MODEL.relative_to('model')}/{name}", tmp_path)
    finally:
        container.remove()
    assert (tmp_path / "report.json").read_text() == report_json(packaged.tiny.report)
    proof = read_proof(tmp_path, packaged.tiny.manifest)
    assert proof is not None
    assert (proof.verdict, proof.place, proof.images) == ("pass", "host", 120)


@pytest.mark.docker
def test_the_status_page_is_in_the_image(engine: Engine, packaged: Packaged) -> None:
    code = "import sys; from targets.device.server.status import page; sys.stdout.buffer.write(page()[0])"
    assert output_of(engine, packaged.image.tag, [PYTHON, "-c", code]).strip() == page()[0].decode().strip()


@pytest.mark.docker
def test_the_image_is_at_most_100_mb_larger_than_its_base(engine: Engine, packaged: Packaged) -> None:
    """The runtime is 37 MB, OpenBLAS, which NumPy cannot be loaded without, 28, NumPy itself 14, Pillow 11."""
    assert packaged.image.bytes - engine.bytes_of(packaged.base_image) < 100e6


@pytest.mark.docker
@pytest.mark.long
def test_layers_are_the_same_bit_for_bit_when_everything_is_made_again(
    engine: Engine, packaged: Packaged, tmp_path: Path
) -> None:
    base = find_base(engine, own_target(engine), packaged.base_image, progress=Silent())
    lock = find_lock(base.platform, base.python)
    wheels = fetch_wheels(lock, cache=default_cache(), progress=Silent())
    artifact = packaged.tiny.folder
    with names_of_images(engine) as name:
        labels = {f"{OPEN_CONTAINER}title": name}
        write_context(
            tmp_path / "c",
            artifact=artifact,
            report=packaged.tiny.report,
            environment=Environment(base=base, wheels=wheels, lock=lock.path),
            labels=labels,
        )
        again, _ = engine.client.images.build(path=str(tmp_path / "c"), nocache=True, network_mode="none", rm=True)
        first = engine.client.images.get(packaged.image.id)
        assert again.attrs["RootFS"]["Layers"] == first.attrs["RootFS"]["Layers"]
