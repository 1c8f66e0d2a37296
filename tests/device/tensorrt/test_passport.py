"""Every field of an engine's passport: what fits, what does not, and the cure in the message."""

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from targets.device.nvidia.machine import Machine
from targets.device.tensorrt.passport import (
    ENGINE,
    FILE,
    Passport,
    PassportError,
    check,
    check_asked,
    check_files,
    issue,
    read,
)

ORIN = Machine(
    tensorrt="10.3.0.30",
    cuda="12.6",
    compute_capability="8.7",
    gpu_name="Orin",
    multiprocessors=16,
    platform="linux/arm64",
    l4t="36.4.3",
    driver="540.4.0",
    memory_bytes=64 << 30,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An engine, the model it was built from, and its passport."""
    (tmp_path / ENGINE).write_bytes(b"an engine")
    (tmp_path / "model.onnx").write_bytes(b"a model")
    (tmp_path / "timing.cache").write_bytes(b"timings")
    issue(
        ORIN,
        tmp_path / ENGINE,
        tmp_path / "model.onnx",
        precision="int8",
        dla_core=None,
        timing_cache=tmp_path / "timing.cache",
        built_at_place="device",
        tool="0.1.0",
    ).write(tmp_path)
    return tmp_path


def test_a_passport_comes_back_as_it_was_written_and_fits_where_it_was_issued(folder: Path) -> None:
    passport = read(folder)
    assert (passport.precision, passport.dla_core, passport.built_at_place) == ("int8", None, "device")
    assert len(passport.engine_sha256) == len(passport.onnx_sha256) == len(passport.timing_cache_sha256) == 64
    check(passport, ORIN)
    check_asked(passport, precision="int8", dla_core=None)
    check_files(passport, folder / ENGINE, folder / "model.onnx")


def test_without_a_timing_cache_there_is_no_hash_of_one(folder: Path) -> None:
    arguments: dict[str, Any] = {"precision": "fp16", "dla_core": 1, "built_at_place": "host", "tool": "0.1.0"}
    for cache in (None, folder / "absent.cache"):
        made = issue(ORIN, folder / ENGINE, folder / "model.onnx", timing_cache=cache, **arguments)
        assert made.timing_cache_sha256 == ""


MISMATCHES = [
    ("tensorrt", "10.3.0.26", "Run it in the image in which it was built, or build it again in this one"),
    ("tensorrt", "10.3.1.30", "Run it in the image"),
    ("cuda", "12.2", "Run it in the image"),
    ("compute_capability", "8.6", "build it again on this device"),
    ("gpu_name", "Orin Nano", "build it again on this device"),
    ("multiprocessors", 8, "build it again on this device"),
    ("platform", "linux/amd64", "build it again on this one"),
    ("l4t", "36.5.0", "After a JetPack change, build the engine again"),
    ("l4t", "", "After a JetPack change, build the engine again"),
    ("driver", "535.129.03", "Update the NVIDIA driver"),
    ("driver", "", "Update the NVIDIA driver"),
]


@pytest.mark.parametrize(("field", "value", "cure"), MISMATCHES, ids=lambda value: str(value)[:20])
def test_another_machine_is_refused_by_field_values_and_cure(folder: Path, field: str, value: Any, cure: str) -> None:
    passport, here = read(folder), replace(ORIN, **{field: value})
    with pytest.raises(PassportError) as caught:
        check(passport, here)
    message = str(caught.value)
    assert message.startswith(f"{field} is {value or 'none'!r} here, but the engine was built with ")
    assert repr(getattr(ORIN, field)) in message
    assert cure in message


@pytest.mark.parametrize(
    ("field", "value"), [("l4t", "36.4.7"), ("driver", "540.5.0"), ("driver", "550.54"), ("memory_bytes", 32 << 30)]
)
def test_what_does_not_matter_is_accepted(folder: Path, field: str, value: Any) -> None:
    check(read(folder), replace(ORIN, **{field: value}))


def test_a_driver_that_nobody_told_of_is_no_obstacle(folder: Path) -> None:
    """JetPack 5: the driver is part of L4T."""
    check(replace(read(folder), driver=""), replace(ORIN, driver=""))


@pytest.mark.parametrize(
    ("precision", "dla_core", "message"),
    [
        (
            "fp16",
            None,
            "precision is 'fp16' in the manifest, but the engine was built in 'int8'. Build the engine again",
        ),
        ("int8", 0, "dla_core is 0 in the manifest, but the engine was built for none. Build the engine again"),
    ],
)
def test_another_engine_than_asked_for_is_refused(
    folder: Path, precision: str, dla_core: int | None, message: str
) -> None:
    with pytest.raises(PassportError, match=message):
        check_asked(read(folder), precision=precision, dla_core=dla_core)


@pytest.mark.parametrize(("file", "field"), [(ENGINE, "engine_sha256"), ("model.onnx", "onnx_sha256")])
def test_changed_and_missing_files_are_refused(folder: Path, file: str, field: str) -> None:
    passport = read(folder)
    (folder / file).write_bytes(b"something else")
    with pytest.raises(PassportError, match=rf"{field} of .*{file} is [0-9a-f]+…, but the passport says .*Copy"):
        check_files(passport, folder / ENGINE, folder / "model.onnx")
    (folder / file).unlink()
    with pytest.raises(PassportError, match=rf"{file} is missing, for which the passport has {field}"):
        check_files(passport, folder / ENGINE, folder / "model.onnx")


@pytest.mark.parametrize("field", ["timing_cache_sha256", "built_at_place", "tool"])
def test_what_is_only_told_is_never_compared(folder: Path, field: str) -> None:
    value: Any = "host" if field == "built_at_place" else "another"
    passport = replace(read(folder), **{field: value})
    check(passport, ORIN)
    check_asked(passport, precision="int8", dla_core=None)
    check_files(passport, folder / ENGINE, folder / "model.onnx")


def test_every_field_is_spoken_of_above() -> None:
    compared = {field for field, _, _ in MISMATCHES} | {"precision", "dla_core", "engine_sha256", "onnx_sha256"}
    told = {"timing_cache_sha256", "built_at_place", "tool", "schema"}
    assert compared | told == {field.name for field in fields(Passport)}


def rewrite(folder: Path, **changes: object) -> None:
    raw = json.loads((folder / FILE).read_text())
    raw.update(changes)
    (folder / FILE).write_text(json.dumps({name: value for name, value in raw.items() if value != "REMOVED"}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"schema": 2},
            r"schema is 2, but this version supports 1\. Use the version of the tool that built it \(0\.1\.0\)",
        ),
        ({"schema": "REMOVED"}, "schema is None, but this version supports 1"),
        ({"l4t": "REMOVED"}, "has missing or unknown fields: l4t"),
        ({"colour": "green"}, "has missing or unknown fields: colour"),
        ({"cuda": 12}, "cuda is 12 instead of a string"),
        ({"multiprocessors": "16"}, "multiprocessors is '16'"),
        ({"dla_core": "0"}, "dla_core '0'"),
        ({"precision": "int4"}, "precision is 'int4', not one of fp32, fp16, int8"),
        ({"built_at_place": "cloud"}, "built_at_place is 'cloud', not one of device, host"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_a_passport_that_says_something_else_is_refused(
    folder: Path, changes: dict[str, object], message: str
) -> None:
    rewrite(folder, **changes)
    with pytest.raises(PassportError, match=message):
        read(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00"])
def test_a_damaged_passport_is_refused(folder: Path, text: str) -> None:
    (folder / FILE).write_text(text)
    with pytest.raises(PassportError, match=r"passport\.json is damaged: .*Build the engine again"):
        read(folder)


def test_an_engine_without_a_passport_is_refused(folder: Path) -> None:
    (folder / FILE).unlink()
    with pytest.raises(PassportError, match=r"model\.engine has no passport .*Build the engine again"):
        read(folder)
