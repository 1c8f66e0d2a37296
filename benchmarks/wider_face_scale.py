"""Create a synthetic dataset with WIDER FACE's layout and size, and measure streaming it.

    python benchmarks/wider_face_scale.py FOLDER [--share 1.0] [--width 320] [--side 32] [--batches 100]

FOLDER gets 12,880 + 3,226 annotated photos and 16,097 without annotations (times the share), unless it exists: small
unique JPEGs of colored noise, with random boxes, including crowds. Prints JSON: time to open without and with a warm
cache, and peak memory; then decoding for training, without cached crops, photo by photo as `Batches` does it and in
random order.
"""

import argparse
import io
import json
import resource
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

PHOTOS = {"train": 12_880, "val": 3_226, "test": 16_097}
EVENTS = [*range(60), 61]
KINDS = 100
"""Number of different pictures; a comment in each file makes it unique."""
MAX_FACES = 1_000
T = TypeVar("T")


def main() -> None:
    """Create what is missing, then measure in a separate process, so that its memory contains nothing else."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--share", type=float, default=1.0, help="fraction of the full number of photos")
    parser.add_argument("--width", type=int, default=320, help="width of a photo; its height is three quarters of it")
    parser.add_argument("--side", type=int, default=32, help="side of the network's input, in pixels")
    parser.add_argument("--batches", type=int, default=100, help="batches of 128 crops to decode")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.folder, side=given.side, batches=given.batches), indent=2))
        return
    if not given.folder.exists():
        make(given.folder, share=given.share, width=given.width)
    sys.exit(subprocess.run([sys.executable, *sys.argv, "--measure"], check=False).returncode)


def make(folder: Path, *, share: float, width: int) -> None:
    """Write the dataset's folders and annotations."""
    generator = np.random.default_rng(0)
    kinds = [_jpeg(generator, width) for _ in range(KINDS)]
    split_folder = folder / "wider_face_split"
    split_folder.mkdir(parents=True)
    for split, full in PHOTOS.items():
        lines: list[str] = []
        for number in range(max(1, round(full * share))):
            event = EVENTS[number % len(EVENTS)]
            path = f"{event}--Event/{event}_Event_Event_{event}_{number}.jpg"
            target = folder / f"WIDER_{split}" / "images" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(_commented(kinds[number % KINDS], f"{split} {number}".encode()))
            lines += [path, *_boxes(generator, width)]
        if split != "test":
            (split_folder / f"wider_face_{split}_bbx_gt.txt").write_text("\n".join(lines) + "\n")


def measure(folder: Path, *, side: int, batches: int) -> dict[str, object]:
    """Measure seconds, MiB and crops per second; memory first, before PyTorch allocates its own."""
    from pipeline.data.readers import open_dataset

    spec, index = f"wider-face:{folder}", folder / "index.json"
    index.unlink(missing_ok=True)
    before = _peak_mib()
    first = _timed(lambda: open_dataset(spec, index=index))[1]
    dataset, again = _timed(lambda: open_dataset(spec, index=index))
    opened = _peak_mib()

    from pipeline.data.batches import Batches
    from pipeline.data.images import ImageSet
    from targets.device.model.preprocess import Preprocessing

    preprocessing = Preprocessing(resize=side, crop=(side, side), mean=(0.5,) * 3, std=(0.25,) * 3)
    with_torch = _peak_mib()

    def crops_per_second(images: ImageSet) -> float:
        start, seen = time.perf_counter(), 0
        epoch = Batches(images, preprocessing, shuffle=True, augment=True, cache_bytes=0).epoch(0)
        for number, (_, labels) in enumerate(epoch):
            seen += len(labels)
            if number + 1 >= batches:
                break
        return seen / (time.perf_counter() - start)

    together = crops_per_second(dataset.training)
    streamed = _peak_mib()
    scattered = dataset.training.subset(range(len(dataset.training)))
    scattered.origins = None
    return {
        "photos": sum(1 for _ in folder.glob("WIDER_*/images/*/*.jpg")),
        "crops": {
            "training": len(dataset.training),
            "selection": len(dataset.selection),
            "gate": len(dataset.gate),
        },
        "open_seconds": first,
        "open_again_seconds": again,
        "index_mib": round(index.stat().st_size / 2**20, 1),
        "peak_mib": {
            "interpreter": round(before),
            "opened": round(opened),
            "with_torch": round(with_torch),
            "streamed": round(streamed),
        },
        "crops_per_second": {
            "photo_by_photo": round(together),
            "random_order": round(crops_per_second(scattered)),
        },
    }


def _jpeg(generator: np.random.Generator, width: int) -> bytes:
    coarse = Image.fromarray(generator.integers(0, 256, (24, 32, 3), dtype=np.uint8))
    file = io.BytesIO()
    coarse.resize((width, width * 3 // 4), Image.Resampling.BICUBIC).save(file, "JPEG", quality=60)
    return file.getvalue()


def _commented(jpeg: bytes, comment: bytes) -> bytes:
    """Insert a comment segment after the start-of-image marker."""
    return jpeg[:2] + b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment + jpeg[2:]


def _boxes(generator: np.random.Generator, width: int) -> list[str]:
    """Return count and boxes as written in annotations: 12 on average, sometimes none or a crowd."""
    if generator.random() < 0.001:
        return ["0", "0 0 0 0 0 0 0 0 0 0 "]
    count = min(MAX_FACES, 1 + round(generator.exponential(6) * (30 if generator.random() < 0.03 else 1)))
    height = width * 3 // 4
    heights = np.clip(generator.lognormal(2.6, 0.7, count) * width / 320, 3, height / 2).astype(int)
    widths = np.maximum(heights * 3 // 4, 1)
    lefts = (generator.random(count) * (width - widths)).astype(int)
    tops = (generator.random(count) * (height - heights)).astype(int)
    rows = zip(lefts, tops, widths, heights, strict=True)
    return [str(count), *(f"{x} {y} {w} {h} 0 0 0 0 0 0 " for x, y, w, h in rows)]


def _timed(act: Callable[[], T]) -> tuple[T, dict[str, float]]:
    wall, cpu = time.perf_counter(), time.process_time()
    found = act()
    return found, {"wall": round(time.perf_counter() - wall, 2), "cpu": round(time.process_time() - cpu, 2)}


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
