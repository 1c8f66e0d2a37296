from pathlib import Path

from pipeline.workspace.hashing import sha256_of_file, sha256_of_folder, sha256_of_json


def test_a_file_has_its_published_hash(tmp_path: Path) -> None:
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    # FIPS 180-2, appendix B.1.
    assert sha256_of_file(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_json_is_hashed_by_content_not_by_order() -> None:
    assert sha256_of_json({"a": 1, "b": [1, 2]}) == sha256_of_json({"b": [1, 2], "a": 1})
    assert sha256_of_json({"a": 1}) != sha256_of_json({"a": 1.5})


def test_a_folder_is_hashed_by_names_and_contents(tmp_path: Path) -> None:
    def folder(name: str, files: dict[str, str]) -> Path:
        for file, text in files.items():
            path = tmp_path / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path / name

    base = sha256_of_folder(folder("base", {"a": "1", "b/c": "2"}))
    assert sha256_of_folder(folder("same", {"b/c": "2", "a": "1"})) == base
    assert sha256_of_folder(folder("renamed", {"a": "1", "b/d": "2"})) != base
    assert sha256_of_folder(folder("changed", {"a": "1", "b/c": "3"})) != base
    assert sha256_of_folder(folder("extra", {"a": "1", "b/c": "2", "t": "9"}), leave_out=("t",)) == base
