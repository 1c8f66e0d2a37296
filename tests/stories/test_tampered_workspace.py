"""Files of finished stages and of published artifacts, rewritten with their old size and time: none is believed."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from builds import FAST, deploy

from pipeline.errors import WorkspaceError
from pipeline.report.document import Document
from pipeline.validate.predictions import read_predictions, write_predictions
from pipeline.workspace.store import StageKey, Workspace

pytestmark = pytest.mark.slow

BUILD = ("build", "--data", "digits", "--checkpoint", "digits.safetensors", *FAST)


def rewrite(file: Path, contents: bytes) -> None:
    """As a bad disk would, or somebody who puts the time back."""
    before = file.stat()
    assert len(contents) == before.st_size
    file.write_bytes(contents)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def flipped(contents: bytes) -> bytes:
    middle = len(contents) // 2
    return contents[:middle] + bytes([contents[middle] ^ 1]) + contents[middle + 1 :]


def zeroed(contents: bytes) -> bytes:
    """As after a power loss: the size is right, what was not yet on the disk is zero."""
    return contents[: len(contents) // 2] + bytes(len(contents) - len(contents) // 2)


def published_in(folder: Path) -> Path:
    (found,) = (folder / ".deploy" / "artifacts").iterdir()
    return found


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json", "golden.npz", "predictions.npz", "shard.zip"])
def test_a_published_file_that_was_tampered_with_is_put_right(built: Document, trained: Path, name: str) -> None:
    assert built.targets
    file = published_in(trained) / name
    whole = file.read_bytes()
    rewrite(file, flipped(whole))
    deploy(*BUILD, cwd=trained)
    assert file.read_bytes() == whole


def test_a_published_report_that_is_no_text_is_put_right(built: Document, trained: Path) -> None:
    assert built.targets
    file = published_in(trained) / "report.json"
    whole = file.read_bytes()
    rewrite(file, b"\xff" + whole[1:])
    deploy(*BUILD, cwd=trained)
    assert file.read_bytes() == whole


def test_answers_that_were_rewritten_pass_no_gate(built: Document, trained: Path) -> None:
    """Without an image nobody asks the model again: these answers are all that the verdict is made of."""
    assert built.targets
    file = only(trained, ".deploy/validate/*/predictions.npz")
    whole, stored = file.read_bytes(), read_predictions(file)
    better = np.ascontiguousarray(stored.logits[::-1])
    write_predictions(file.with_name("new.npz"), type(stored)(**{**vars(stored), "logits": better}))
    other = file.with_name("new.npz").read_bytes()
    file.with_name("new.npz").unlink()
    rewrite(file, other)
    refused = deploy(*BUILD, cwd=trained, code=WorkspaceError.exit_code)
    assert "predictions.npz has changed since it was written" in refused.stderr
    assert "validate  " not in refused.stderr
    deploy(*BUILD, cwd=trained)
    again = only(trained, ".deploy/validate/*/predictions.npz")
    assert again.read_bytes() == whole


@pytest.mark.parametrize("damage", [flipped, zeroed])
def test_a_model_that_is_not_what_was_compiled_is_not_published(
    built: Document, trained: Path, damage: Callable[[bytes], bytes]
) -> None:
    assert built.targets
    file = only(trained, f".deploy/compile/*/{built.targets[0].precision}/model.onnx")
    whole = (published_in(trained) / "model.onnx").read_bytes()
    rewrite(file, damage(file.read_bytes()))
    refused = deploy(*BUILD, cwd=trained, code=WorkspaceError.exit_code)
    assert "model.onnx has changed since it was written" in refused.stderr
    assert "pass" not in refused.stderr
    assert (published_in(trained) / "model.onnx").read_bytes() == whole
    deploy(*BUILD, cwd=trained)


def test_a_truncated_model_is_made_again(built: Document, trained: Path) -> None:
    assert built.targets
    file = only(trained, f".deploy/compile/*/{built.targets[0].precision}/model.onnx")
    whole, before = file.read_bytes(), file.stat()
    file.write_bytes(whole[: len(whole) // 2])
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    done = deploy(*BUILD, cwd=trained)
    assert "Stage compile is repeated" in done.stderr
    for each in trained.glob(f".deploy/compile/*/{built.targets[0].precision}/model.onnx"):
        assert each.stat().st_size > len(whole) // 2
    assert len((published_in(trained) / "model.onnx").read_bytes()) > len(whole) // 2


def test_nothing_is_built_upon_a_stage_that_was_rewritten(tmp_path: Path) -> None:
    """Also where only the next stage is to be done: its work would be of other weights than its key says."""

    def write(folder: Path) -> None:
        (folder / "weights").write_text("42")

    workspace = Workspace(tmp_path)
    first = StageKey(stage="prune", inputs={}, options={}, code="c")
    done = workspace.obtain(first, write)
    rewrite(done.path / "weights", b"43")
    found = workspace.find(first)
    assert found is not None
    following = StageKey(stage="quantize", inputs={"pruned": found.digest}, options={}, code="c")
    with pytest.raises(WorkspaceError, match="weights has changed"):
        workspace.obtain(following, lambda folder: pytest.fail("it was built upon"))
    assert not workspace.obtain(first, write).was_cached
    assert workspace.obtain(following, write).path.is_dir()
