from pathlib import Path

import pytest

from targets.device.gate.evidence_files import write_whole


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    file.write_text("old")

    def half(path: Path) -> None:
        path.write_text("ne")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_whole(file, half)
    assert file.read_text() == "old"

    def whole(path: Path) -> None:
        path.write_text("new")

    write_whole(file, whole)
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("new", 0o644)
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
