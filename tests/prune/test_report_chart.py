"""The chart is valid XML in which every bar can be read."""

from xml.etree import ElementTree

from pipeline.prune.report import BARS, MARKED, PLAIN, Bar, Row, chart

SPACE = "{http://www.w3.org/2000/svg}"


def test_bars_names_and_notes() -> None:
    rows = [
        Row(
            name="layer1.0.conv1 <&>",
            bars=(
                Bar(label="8", value=10.0, note="loss 1", is_marked=False),
                Bar(label="16", value=0.1, note="loss 2", is_marked=True),
            ),
        ),
        Row(name="layer1.1", bars=(Bar(label="left out", value=None, note="slower", is_marked=False),)),
        Row(name="zero", bars=(Bar(label="1", value=0.0, note="free", is_marked=False),)),
    ]
    root = ElementTree.fromstring(chart("Title & more", rows))
    words = [element.text for element in root.iter(f"{SPACE}text")]
    for expected in ("Title & more", "layer1.0.conv1 <&>", "8", "16", "left out", "loss 1", "slower"):
        assert expected in words
    bars = list(root.iter(f"{SPACE}rect"))[1:]
    lengths = [float(bar.get("width", "nan")) for bar in bars]
    assert lengths[0] == BARS
    assert lengths[1] == BARS / 2  # two of four decades down
    assert lengths[2] == 0
    assert 0 < lengths[3] < 3
    assert [bar.get("fill") for bar in bars] == [PLAIN, MARKED, PLAIN, PLAIN]


def test_without_rows_it_is_still_a_chart() -> None:
    assert ElementTree.fromstring(chart("none", [])).tag == f"{SPACE}svg"
