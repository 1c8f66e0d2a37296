import io
import json
import logging
import random
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import suppress

import pytest
from PIL import Image, TiffImagePlugin

from targets.device.log import PER_SECOND, JsonLines, Throttle, log_as_json
from targets.device.model.image_files import ImageError, decode


def formatted(message: object, *arguments: object, fields: object = None, error: BaseException | None = None) -> str:
    given = None if error is None else (type(error), error, error.__traceback__)
    record = logging.LogRecord("name", logging.WARNING, "file.py", 1, message, arguments, given)
    if fields is not None:
        record.__dict__["fields"] = fields
    return JsonLines().format(record)


def test_a_line_is_one_json_object() -> None:
    line = formatted("%s of %d", "one", 2, fields={"port": 8000, "path": "/a\nb", "other": ("x", "ü")})
    assert "\n" not in line
    assert "ü" in line
    entry = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry.pop("time"))
    assert entry == {
        "level": "warning",
        "message": "one of 2",
        "port": 8000,
        "path": "/a\nb",
        "other": ["x", "ü"],
    }


def test_traces_and_foreign_objects_fit_into_the_line() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError as error:
        line = formatted("failed", fields={"error": error}, error=error)
    assert "\n" not in line
    entry = json.loads(line)
    assert entry["error"] == "two\nlines"
    assert "ValueError: two\nlines" in entry["traceback"]
    assert entry["traceback"].startswith("Traceback")


def test_fields_of_another_kind_are_left_out() -> None:
    assert set(json.loads(formatted("x", fields="none of ours"))) == {"time", "level", "message"}


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, as it was before when this is left."""
    found = logging.getLogger()
    handlers, level = found.handlers[:], found.level
    yield found
    logging.captureWarnings(False)
    logging.getLogger("PIL").setLevel(logging.NOTSET)
    found.handlers[:] = handlers
    found.setLevel(level)


def test_everything_goes_to_stdout_from_the_level_on(
    root: logging.Logger, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log_as_json("warning")
    logging.getLogger("any.library").info("not this")
    logging.getLogger("any.library").warning("but %s", "this")
    shown = capsys.readouterr()
    assert shown.err == ""
    (line,) = shown.out.splitlines()
    assert json.loads(line)["message"] == "but this"
    assert [handler.stream for handler in root.handlers if isinstance(handler, logging.StreamHandler)] == [sys.stdout]


def test_warnings_are_lines_like_others(root: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    log_as_json("info")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("look out", UserWarning, stacklevel=1)
    (line,) = capsys.readouterr().out.splitlines()
    entry = json.loads(line)
    assert entry["level"] == "warning"
    assert "UserWarning: look out" in entry["message"]


def test_what_pillow_says_of_clients_images_is_neither_logged_nor_remembered(
    root: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "TIFF", tiffinfo={0x010F: "somebody's camera"})
    log_as_json("debug")
    chance = random.Random(0)
    for _ in range(500):
        damaged = bytearray(file.getvalue())
        for _ in range(3):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        with suppress(ImageError):
            decode(bytes(damaged))
    assert capsys.readouterr().out == ""
    assert not getattr(TiffImagePlugin, "__warningregistry__", {}).keys() - {"version"}


def test_an_unknown_level_is_refused(root: logging.Logger) -> None:
    with pytest.raises(ValueError, match="LOUD"):
        log_as_json("loud")


def test_a_flood_of_lines_is_cut_and_counted() -> None:
    now = [100.0]
    throttle = Throttle(lambda: now[0])
    assert [throttle.lets_through() for _ in range(PER_SECOND + 3)] == [True] * PER_SECOND + [False] * 3
    now[0] += 1
    assert throttle.lets_through()
    assert throttle.fields() == {"lines_dropped_before": 3}
    assert throttle.fields() == {}
