"""What `torchrun` says of a process, and what is refused there."""

import pytest

from pipeline.errors import RecipeError
from pipeline.training.torchrun import is_first, rank_and_world_size, refuse_torchrun


def test_a_process_by_itself_and_a_launched_one() -> None:
    assert rank_and_world_size({}) is None
    assert rank_and_world_size({"RANK": "0", "WORLD_SIZE": "1"}) is None
    assert rank_and_world_size({"RANK": "3", "WORLD_SIZE": "8"}) == (3, 8)
    assert is_first()


def test_what_one_process_does_is_refused_under_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_torchrun("so what")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not is_first()
    with pytest.raises(RecipeError, match="this is process 2 of 2 started by torchrun: use --nproc"):
        refuse_torchrun("use --nproc")
