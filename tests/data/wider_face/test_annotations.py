"""WIDER FACE's annotations: every quirk that the published files have, and errors that name the line."""

from pathlib import Path

import pytest

from pipeline.data.wider_face.annotations import parse_annotations
from pipeline.errors import DataError

# The quirks, the first photo and the box of no width are those of the published files.
QUIRKS = """0--Parade/0_Parade_marchingband_1_849.jpg
1
449 330 122 149 0 0 0 0 0 0 
0--Parade/0_Parade_Parade_0_452.jpg
0
0 0 0 0 0 0 0 0 0 0 
39--Ice_Skating/39_Ice_Skating_iceskiing_39_583.jpg
3
1026 474 0 23 2 0 0 1 2 0 
10 20 30 40 1 1 1 0 2 1 
10 20 30 40 1 1 1 0 2 1 
61--Street_Battle/61_Street_Battle_streetfight_61_22.jpg
1
-2 3 40 50 0 0 0 0 0 0 
"""  # noqa: W291


def fault(text: str) -> str:
    with pytest.raises(DataError) as caught:
        parse_annotations(text, file="train.txt")
    return str(caught.value)


def test_quirks_of_the_published_files() -> None:
    photos = parse_annotations(QUIRKS, file="train.txt")
    assert [photo.path.partition("/")[0] for photo in photos] == [
        "0--Parade",
        "0--Parade",
        "39--Ice_Skating",
        "61--Street_Battle",
    ]
    assert [photo.line for photo in photos] == [1, 4, 7, 12]
    assert photos[0].boxes.tolist() == [[449, 330, 122, 149]]
    assert photos[1].boxes.shape == (0, 4)
    assert photos[2].boxes.tolist() == [[1026, 474, 0, 23], [10, 20, 30, 40], [10, 20, 30, 40]]
    assert photos[2].invalid.tolist() == [True, False, False]
    assert photos[3].boxes.tolist() == [[-2, 3, 40, 50]]


def test_line_ends_blanks_and_a_missing_dummy_change_nothing() -> None:
    expected = parse_annotations(QUIRKS, file="train.txt")
    without_dummy = QUIRKS.replace("0 0 0 0 0 0 0 0 0 0 \n", "", 1)
    for text in (QUIRKS.replace("\n", "\r\n"), QUIRKS.replace(" \n", "\n"), QUIRKS + "\n\n", without_dummy):
        found = parse_annotations(text, file="train.txt")
        assert [photo.boxes.tolist() for photo in found] == [photo.boxes.tolist() for photo in expected]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        pytest.param("449 330 122 149 0", "449 330 122 149", "train.txt, line 3: expected box 1 of 1", id="nine"),
        pytest.param("449 330", "449 33.5", "line 3: expected box 1 of 1 of 0--Parade", id="no integer"),
        pytest.param("583.jpg\n3", "583.jpg\n4", "line 12: expected box 4 of 4", id="count too high"),
        pytest.param("583.jpg\n3", "583.jpg\n2", "line 11: expected a photo's path, found one more box", id="too low"),
        pytest.param("583.jpg\n3", "583.jpg\nthree", "line 8: expected the number of faces", id="no count"),
        pytest.param("22.jpg\n1", "22.jpg\n2", "ends after 1 of the 2 boxes of 61--Street", id="cut short"),
        pytest.param("0 0 0 0 0 0 0 0 0 0 \n39", "5 5 9 9 0 0 0 0 0 0 \n39", "line 6: 0--Parade", id="box after 0"),
        pytest.param("1 1 1 0 2 1", "1 1 1 2 2 1", "line 10: the flag `invalid`", id="column order"),
        pytest.param("61--Street_Battle/", "../../etc/", "line 12: expected a photo's path", id="climbs out"),
        pytest.param("0_Parade_Parade_0_452", "0_Parade_marchingband_1_849", "line 4: 0--Parade", id="twice"),
    ],
)
def test_mistakes_are_named_with_their_line(old: str, new: str, message: str) -> None:
    assert message in fault(QUIRKS.replace(old, new, 1))


def test_an_empty_file_is_refused() -> None:
    assert "is empty" in fault("\n\n")


@pytest.mark.parametrize(("split", "photos", "faces"), [("train", 150, 3695), ("val", 50, 677)])
def test_the_real_subset(data_root: Path, split: str, photos: int, faces: int) -> None:
    root = data_root / "wider-face-subset"
    if not root.is_dir():
        pytest.skip(f"no WIDER FACE subset at {root} (EDGE_DEPLOY_DATA)")
    file = root / "wider_face_split" / f"wider_face_{split}_bbx_gt.txt"
    found = parse_annotations(file.read_text(), file=str(file))
    assert len(found) == photos
    assert sum(len(photo.boxes) for photo in found) == faces
