"""What an opener (folder, cifar10, wider_face, digits) found, before the training images are split."""

from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.data.images import ImageSet


@dataclass(frozen=True, kw_only=True)
class Source:
    name: str
    classes: tuple[str, ...]
    """In the order of the labels."""
    training: ImageSet
    gate: ImageSet
    notes: tuple[str, ...] = ()
    """What the user should know, a sentence each."""


def first_few(lines: Iterable[str], *, limit: int = 8) -> str:
    """An indented list, cut after `limit` lines with the number of those left out."""
    everything = list(lines)
    shown = [f"\n  {line.encode(errors='backslashreplace').decode()}" for line in everything[:limit]]
    if len(everything) > limit:
        shown.append(f"\n  ... and {len(everything) - limit} more")
    return "".join(shown)
