"""Every command the documents show exists, with just those options; every target of make, too."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.errors import EXIT_CODES

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
SHOWN = re.compile(r"(?:^|`)(deploy [^`#\n]*)", re.MULTILINE)
MADE = re.compile(r"\bmake ([a-z-]+)\b(?=[`\s])")


def commands() -> list[str]:
    found = {match.strip() for path in DOCUMENTS for match in SHOWN.findall(path.read_text())}
    return sorted(found)


@pytest.mark.parametrize("line", commands())
def test_a_command_that_is_shown_can_be_given(line: str) -> None:
    """Command and options are parsed before `--help` is answered, so a wrong one is found out."""
    words = [word for word in shlex.split(line)[1:] if word not in ("…", "...")]
    shown = CliRunner().invoke(app, [*words, "--help"])
    assert shown.exit_code == 0, shown.output
    assert words[0] in shown.output


def test_a_wrong_option_would_be_found_out() -> None:
    assert CliRunner().invoke(app, ["build", "--no-such-option", "--help"]).exit_code == 2


def test_targets_of_make_exist() -> None:
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    mentioned = {name for path in DOCUMENTS for name in MADE.findall(path.read_text())}
    assert {"demo", "test"} <= mentioned <= known


def test_the_readme_names_every_stage_and_the_gates_exit_codes() -> None:
    from pipeline.build import STAGES

    text = (ROOT / "README.md").read_text()
    assert all(f"| `{stage}` |" in text for stage in STAGES)
    codes = {error.__name__: error.exit_code for error in EXIT_CODES}
    assert f"Exit code {codes['GateFailed']}." in text
    assert f"Exit code {codes['GateUndecided']}." in text


def test_every_fault_of_the_readme_is_tested() -> None:
    cells = re.findall(r"^\| .* \| (`test.*?) \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    rows = [name for cell in cells for name in re.findall(r"`(test_\w+)`", cell)]
    tests = "".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    assert len(rows) >= 20
    assert [row for row in rows if f"def {row}(" not in tests] == []
    files = [name for cell in cells for name in re.findall(r"`tests/(test_\w+\.py)`", cell)]
    assert [name for name in files if not (ROOT / "tests" / name).is_file()] == []
