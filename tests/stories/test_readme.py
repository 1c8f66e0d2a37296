"""The documents: every command shown exists and says what it needs; every page, link and test named is there."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.errors import EXIT_CODES

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
README = ROOT / "README.md"
HISTORY = ROOT / "CHANGELOG.md"
DOCUMENTS = [README, ROOT / "CONTRIBUTING.md", HISTORY, *PAGES]
IDS = [path.relative_to(ROOT).as_posix() for path in DOCUMENTS]
SITE = DOCS / "site" / "mkdocs.yml"

FENCE = re.compile(r"^```(.*)\n((?:.*\n)*?)```$", re.MULTILINE)
NEEDS = re.compile(r"\*Needs: ([^\n]+)\.\*\n\n\Z")
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
PATH = re.compile(
    r"(?:pipeline|targets|tests|docker|docs|scripts|benchmarks)/[\w./-]+\.(?:py|sh|toml|in|proto|md|yml)"
)
LANGUAGES = {"sh", "text", "toml", "python", "json"}
PROGRAMS = ("deploy", "make", "python", "torchrun", "curl")
NOTHING, A_MINUTE = "nothing", "a minute of CPU time"
"""What the commands of a block may need for a test to run them; each test of a page begins in an empty folder."""
LONGEST_README = 180


@dataclass(frozen=True)
class Block:
    """A fenced block of a document."""

    language: str
    lines: tuple[str, ...]
    needs: str | None
    """From the line above it."""


def blocks(path: Path) -> list[Block]:
    text = path.read_text()
    found = []
    for match in FENCE.finditer(text):
        marked = NEEDS.search(text[: match.start()])
        found.append(Block(match[1].strip(), tuple(match[2].splitlines()), marked[1] if marked else None))
    return found


def code(path: Path) -> Iterator[str]:
    """Every command line and every piece of inline code."""
    for block in blocks(path):
        if block.language == "sh":
            yield from block.lines
    yield from INLINE.findall(FENCE.sub("", path.read_text()))


def commands() -> list[str]:
    return sorted(
        {each.partition("#")[0].strip() for path in DOCUMENTS for each in code(path) if starts(each, "deploy")}
    )


def starts(line: str, program: str) -> bool:
    return line.startswith(f"{program} ")


@pytest.mark.parametrize("line", commands())
def test_a_command_that_is_shown_can_be_given(line: str) -> None:
    """Command and options are parsed before `--help` is answered, so a wrong one is found out."""
    words = [word for word in shlex.split(line)[1:] if word not in ("…", "...")]
    shown = CliRunner().invoke(app, [*words, "--help"])
    assert shown.exit_code == 0, shown.output
    assert words[0] in shown.output or words[0].startswith("-")


def test_a_wrong_option_would_be_found_out() -> None:
    assert CliRunner().invoke(app, ["build", "--no-such-option", "--help"]).exit_code == 2


def test_targets_of_make_exist() -> None:
    known = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    mentioned = {each.split()[1] for path in DOCUMENTS for each in code(path) if starts(each, "make")}
    assert {"demo", "test", "docs"} <= mentioned <= known


@pytest.mark.parametrize("path", DOCUMENTS, ids=IDS)
def test_every_block_of_commands_says_what_it_needs(path: Path) -> None:
    assert path.read_text().count("```") == 2 * len(blocks(path)), "a block that is indented or not closed"
    for block in blocks(path):
        assert block.language in LANGUAGES, block
        if block.language == "sh":
            assert block.needs, f"no line *Needs: … .* above {block.lines}"
        else:
            assert not [line for line in block.lines if any(starts(line, program) for program in PROGRAMS)]
    if path != HISTORY:
        hidden = [each for each in code(path) if each.startswith(("python ", "torchrun ", "curl ", "pip "))]
        shown = [line for block in blocks(path) for line in block.lines]
        assert [each for each in hidden if each not in shown] == [], "commands that are not in a block"


@pytest.mark.parametrize(
    ("path", "needs"),
    [
        pytest.param(path, needs, id=f"{path.name}: {needs}", marks=[pytest.mark.long] if needs == A_MINUTE else [])
        for path in DOCUMENTS
        for needs in (NOTHING, A_MINUTE)
        if any(block.needs == needs for block in blocks(path))
    ],
)
def test_commands_that_need_nothing_run(path: Path, needs: str, tmp_path: Path) -> None:
    for line in [line for block in blocks(path) if block.needs == needs for line in block.lines]:
        program, *words = shlex.split(line)
        assert program == "deploy"
        done = subprocess.run(
            [sys.executable, "-m", "pipeline", *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            timeout=300,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"


def test_some_commands_are_run() -> None:
    run = [line for path in DOCUMENTS for block in blocks(path) if block.needs == NOTHING for line in block.lines]
    assert {"deploy init", "deploy targets", "deploy explain 11"} <= set(run)


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if path != HISTORY], ids=lambda path: path.name)
def test_files_that_are_named_exist(path: Path) -> None:
    named = {each for line in code(path) for each in PATH.findall(line)}
    assert [each for each in named if not (ROOT / each).exists()] == []


def test_the_readme_is_short_and_names_every_stage_and_the_gates_exit_codes() -> None:
    from pipeline.build import STAGES

    text = README.read_text()
    assert text.count("\n") <= LONGEST_README
    assert all(f"| `{stage}` |" in text for stage in STAGES)
    codes = {error.__name__: error.exit_code for error in EXIT_CODES}
    assert f"Exit code {codes['GateFailed']}." in text
    assert f"Exit code {codes['GateUndecided']}." in text


def test_every_fault_of_the_documents_is_tested() -> None:
    text = (DOCS / "attacks.md").read_text()
    rows = re.findall(r"^\| (?!---).* \| (.*?) \|$", text, re.MULTILINE)
    cells = [cell for cell in rows if cell != "test"]
    assert len(cells) >= 40
    assert [cell for cell in cells if not cell.startswith("`test")] == []
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    names = [name for cell in cells for name in re.findall(r"`(test_\w+)`", cell)]
    assert [name for name in names if f"def {name}(" not in tests] == []


def anchors(path: Path) -> set[str]:
    """Of all headings, as the site makes them."""
    found = set()
    for heading in HEADING.findall(FENCE.sub("", path.read_text())):
        plain = unicodedata.normalize("NFKD", heading).encode("ascii", "ignore").decode()
        found.add(re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower()))
    return found


@pytest.mark.parametrize("path", DOCUMENTS, ids=IDS)
def test_links_between_documents_resolve(path: Path) -> None:
    for link in LINK.findall(FENCE.sub("", path.read_text())):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        to = (path.parent / name).resolve() if name else path
        assert to.is_file(), link
        assert not anchor or anchor in anchors(to), link
        # The site has nothing from outside of its folder.
        assert DOCS not in path.parents or DOCS in to.parents, link


def test_the_site_names_every_page_once() -> None:
    named = re.findall(r"^\s+- .*: (\S+\.md)$", SITE.read_text(), re.MULTILINE)
    assert sorted(named) == sorted(path.relative_to(DOCS).as_posix() for path in PAGES)


@pytest.mark.skipif(importlib.util.find_spec("material") is None, reason="mkdocs-material is not installed here")
def test_the_site_builds(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(SITE), "--site-dir", str(tmp_path / "site")],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "errors" / "11-GateUndecided" / "index.html").is_file()
