"""A data set of WIDER FACE's layout in a few small photos: skin-colored ellipses with eyes, on noise."""

import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

Box = tuple[int, int, int, int]
WIDTH, HEIGHT = 200, 150
HEIGHTS = (10, 12, 20, 24, 40)


def write_tiny_wider_face(root: Path, *, training: int = 12, gate: int = 8) -> Path:
    """`root` with so many photos of five faces each."""
    for split, count, offset in (("train", training, 0), ("val", gate, 1000)):
        photos = {}
        for number in range(count):
            boxes = scattered_boxes(seed=offset + number)
            photos[f"{number % 3}--Event/{number}.jpg"] = boxes
            write_photo(root, split, f"{number % 3}--Event/{number}.jpg", jpeg(boxes, seed=offset + number))
        write_annotations(root, split, photos)
    return root


def write_photo(root: Path, split: str, path: str, data: bytes) -> None:
    target = root / f"WIDER_{split}" / "images" / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)


def write_annotations(root: Path, split: str, photos: dict[str, list[Box]]) -> None:
    """As published: a blank at the end of each box, a line of zeros where there is none."""
    lines = []
    for path, boxes in photos.items():
        rows = [f"{x} {y} {w} {h} 0 0 0 0 0 0 " for x, y, w, h in boxes]
        lines += [path, str(len(boxes)), *(rows or ["0 0 0 0 0 0 0 0 0 0 "])]
    target = annotations_of(root, split)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("\n".join(lines) + "\n")


def annotations_of(root: Path, split: str) -> Path:
    return root / "wider_face_split" / f"wider_face_{split}_bbx_gt.txt"


def scattered_boxes(*, seed: int) -> list[Box]:
    """One of each height, in columns of their own."""
    generator = np.random.default_rng(seed)
    return [
        (40 * column + 2, int(generator.integers(0, HEIGHT - high)), high * 3 // 4, high)
        for column, high in enumerate(HEIGHTS)
    ]


def jpeg(boxes: list[Box], *, seed: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> bytes:
    generator = np.random.default_rng(seed)
    noise = generator.integers(0, 200, (size[1] // 5, size[0] // 5, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize(size, Image.Resampling.BILINEAR)
    pen = ImageDraw.Draw(image)
    for x, y, w, h in boxes:
        pen.ellipse((x, y, x + w, y + h), fill=(230, 190, 160))
        for eye in (0.3, 0.7):
            pen.ellipse((x + w * (eye - 0.1), y + h * 0.3, x + w * (eye + 0.1), y + h * 0.45), fill=(20, 20, 20))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()


def zipped_parts(root: Path, target: Path) -> Path:
    """The three zips as they are downloaded, each with its own top folder."""
    target.mkdir()
    for part in ("WIDER_train", "WIDER_val", "wider_face_split"):
        with zipfile.ZipFile(target / f"{part}.zip", "w") as archive:
            for path in sorted((root / part).rglob("*")):
                if path.is_file():
                    archive.write(path, path.relative_to(root).as_posix())
    return target
