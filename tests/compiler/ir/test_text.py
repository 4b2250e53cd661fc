"""Tables and sentences as text: no line is longer than the terminal, and nothing is left out."""

import pytest

from spikec.ir.text import columns, count, percent, sentences

ROWS = [("layer", *(f"heading{i}" for i in range(9))), ("block.conv1 (net.py:12)", *map(str, range(9)))]


@pytest.mark.parametrize("width", [40, 80, 120, 400])
def test_columns_that_do_not_fit_follow_below(width):
    lines = list(columns(ROWS, width))
    assert max(map(len, lines)) <= width
    words = " ".join(lines).split()
    assert [word for word in words if word.startswith("heading")] == list(ROWS[0][1:])
    assert [word for word in words if word.isdigit()] == list(ROWS[1][1:])
    assert lines.count("") == sum("layer" in line for line in lines) - 1
    assert (len(lines) == 2) == (width >= 120)


def test_a_long_first_column_keeps_its_end():
    (line,) = columns([("a" * 60 + " (net.py:12)", "1.0")], 40)
    assert len(line) <= 40
    assert line.startswith("  …a")
    assert line.endswith("(net.py:12)  1.0")


def test_sentences_are_broken_and_set_in():
    text = "  note: " + "word " * 40
    lines = list(sentences([text, "", "short"], 80))
    assert max(map(len, lines)) <= 80
    assert [line.split() for line in lines[-2:]] == [[], ["short"]]
    assert " ".join(lines[:-2]).split() == text.split()
    assert lines[1].startswith("    word")


def test_numbers():
    assert percent(0.9794) == "97.9"
    assert [count(each) for each in (3, 1250, 1.25e6, 2e9)] == ["3", "1.25 k", "1.25 M", "2 G"]
