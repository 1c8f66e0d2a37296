"""From the version of Jetson Linux (L4T) to the JetPack that it is part of.

After the release notes of NVIDIA and OE4T's meta-tegra, which has a branch for each.
"""

KNOWN = (
    ("32", "4"),
    ("35.2", "5.1"),
    ("35.3", "5.1.1"),
    ("35.4", "5.1.2"),
    ("35.5", "5.1.3"),
    ("35.6.0", "5.1.4"),
    ("35.6.4", "5.1.6"),
    ("35.6", "5.1.5"),
    ("36.2", "6.0 (developer preview)"),
    ("36.3", "6.0"),
    ("36.4.0", "6.1"),
    ("36.4.3", "6.2"),
    ("36.4", "6.2.1"),
    ("36.5", "6.2.2"),
    ("38.2", "7.0"),
    ("38.4", "7.1"),
    ("39.2", "7.2"),
)
"""The first that fits counts."""


def jetpack_of(l4t: str) -> str | None:
    """`6.2` of `36.4.3`; None for a release that is not known here."""
    whole = l4t if l4t.count(".") > 1 else f"{l4t}.0"
    return next((jetpack for beginning, jetpack in KNOWN if fits(whole, beginning)), None)


def fits(version: str, beginning: str) -> bool:
    """Whether the first parts of a version are these: `36.4` of 36.4.3, but not of 36.40."""
    return version == beginning or version.startswith(f"{beginning}.")
