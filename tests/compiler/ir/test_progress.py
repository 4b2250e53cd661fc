import re
import sys
from types import SimpleNamespace

import pytest
import rich.progress  # noqa: F401  before a test changes the clock that it takes
import torch
from torch import nn

import spikec
from spikec.ir import progress
from spikec.ir.progress import shown, track


@pytest.fixture
def seen():
    return []


def texts(seen):
    return [("/".join(each.what), each.current, each.done, each.total) for each in seen]


def test_nested_work_is_told_with_the_work_around_it(seen):
    with shown(seen.append):
        for _ in track("ab", "letters", current=str.upper):
            for _ in track(range(2), "numbers"):
                pass
    assert texts(seen) == [
        ("letters", "A", 0, 2),
        ("letters/numbers", "", 0, 2),
        ("letters/numbers", "", 1, 2),
        ("letters", "A", 0, 2),
        ("letters", "B", 1, 2),
        ("letters/numbers", "", 0, 2),
        ("letters/numbers", "", 1, 2),
        ("letters", "B", 1, 2),
    ]
    assert [str(each) for each in seen[:2]] == ["letters 1 of 2: A", "numbers 1 of 2"]


def test_nobody_is_told_where_nobody_looks_and_items_pass_through(seen):
    with shown(seen.append), shown(False):
        assert list(track(iter("ab"), "letters")) == ["a", "b"]
    assert list(track("ab", "letters")) == ["a", "b"]
    assert seen == []


def test_none_leaves_it_to_whoever_looks_around(seen):
    with shown(seen.append), shown(None):
        list(track("ab", "letters"))
    assert len(seen) == 2


def test_work_that_is_left_is_over(seen):
    with shown(seen.append):
        for _ in track("ab", "letters"):
            break
        list(track("c", "others"))
    assert texts(seen)[-1] == ("others", "", 0, 1)


def test_lines_come_now_and_then_where_there_is_no_terminal(monkeypatch, capsys):
    clock = iter(range(0, 100, 4))  # a look every four seconds
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    with shown(True):
        list(track("abcdef", "letters", current=str))
    assert capsys.readouterr().err.splitlines() == ["12 s: letters 3 of 6: c", "24 s: letters 6 of 6: f"]


def test_a_terminal_gets_bars_and_is_left_clean(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with shown(True):
        list(track("ab", "letters"))
    out, err = capsys.readouterr()
    assert out == ""
    assert "letters" in err


def test_bars_within_bars_are_one_display(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with shown(True), shown(True):
        list(track("ab", "letters"))
    assert "letters" in capsys.readouterr().err


def test_bars_stand_in_a_line_of_a_terminal_of_80_columns(monkeypatch, capsys):
    for name, value in (("FORCE_COLOR", "1"), ("TERM", "xterm"), ("COLUMNS", "80")):
        monkeypatch.setenv(name, value)
    with shown(True):
        for _ in track("a", "ways", current=lambda _: "x" * 200):
            list(track("ab", "layers"))
    lines = re.sub(r"\x1b\[[^A-Za-z]*[A-Za-z]", "\r", capsys.readouterr().err)
    assert max(map(len, re.split(r"[\r\n]", lines))) <= 80
    assert "layers" in lines


def test_a_notebook_gets_bars_in_its_cell_and_is_left_clean(monkeypatch):
    updates = []
    handle = SimpleNamespace(update=lambda data, raw: updates.append(data))
    display = SimpleNamespace(display=lambda data, raw, display_id: handle)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(display=display))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    with shown(True):
        for _ in track("ab", "letters <b>", current=str):
            pass
    first, *_, last = updates
    assert '<progress value="0" max="2">' in first["text/html"]
    assert "letters &lt;b&gt; 1 of 2: a" in first["text/html"]
    assert set(last.values()) == {""}


@pytest.mark.slow
def test_a_compilation_tells_of_its_passes_and_the_batches_within(seen):
    images = torch.rand(6, 4)
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    compilation = spikec.Compiler(
        "nir", calibration=list(images.split(2)), normalization="max", progress=seen.append
    ).run(model)
    passes = [each for each in seen if each.what == ("passes",)]
    assert [each.current for each in {each.done: each for each in passes}.values()] == [
        each.name for each in compilation.stages[1:]
    ]
    assert {each.total for each in passes} == {len(compilation.stages) - 1}
    batches = [each for each in seen if each.what == ("passes", "calibration batches")]
    assert [each.done for each in batches] == [0, 1, 2]


@pytest.mark.slow
def test_evaluate_and_diagnose_tell_of_their_batches(seen):
    images = torch.rand(6, 4)
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    compilation = spikec.Compiler("nir", calibration=images, normalization="max").run(model)
    labelled = [(x, torch.zeros(2, dtype=torch.int64)) for x in images.split(2)]
    spikec.evaluate(compilation.graph, labelled, 2, progress=seen.append)
    assert outermost(seen, "batches") == [(0, 3), (1, 3), (2, 3)]
    assert {each.what for each in seen} == {("batches",), ("batches", "steps")}
    del seen[:]
    spikec.diagnose(compilation, list(images.split(3)), 2, progress=seen.append)
    assert [done for done, _ in outermost(seen, "batches")] == [0, 1]


def outermost(seen, what):
    """How far the outermost work was, each once."""
    return list(dict.fromkeys((each.done, each.total) for each in seen if each.what == (what,)))


@pytest.mark.slow
@pytest.mark.parametrize("patience", [None, 2])
def test_simulate_tells_of_its_steps(seen, patience):
    graph = spikec.compile(
        nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), "nir", calibration=torch.rand(6, 4)
    )
    spikec.simulate(graph, torch.rand(6, 4), 5, patience=patience, progress=seen.append)
    assert outermost(seen, "steps") == [(done, 5) for done in range(5)]


@pytest.mark.slow
def test_a_tuned_compilation_tells_which_way_and_which_layer_is_tuned(seen):
    images, layers = torch.rand(64, 4), (nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    spikec.compile(nn.Sequential(*layers), "spikingjelly", calibration=images, timesteps=4, progress=seen.append)
    ways = [each for each in seen if each.what == ("passes", "ways")]
    assert "tune-thresholds + calibrate-potential" in {each.current for each in ways}
    assert len({each.done for each in ways}) == ways[0].total > 1
    tuned = [each for each in seen if each.what == ("passes", "ways", "layers")]
    assert {each.current for each in tuned} == {"1", "3"}, "the names of the ReLUs in the model"
    assert {each.total for each in tuned} == {2}
    assert {each.what[:2] for each in seen} >= {("checks",), ("passes", "checks")}


@pytest.mark.slow
def test_check_proves_nothing_of_our_own_passes(seen):
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    assert spikec.check(model, "nir", example_input=torch.rand(6, 4), progress=seen.append) == []
    assert {each.what for each in seen} == {("checks",), ("passes",)}
    del seen[:]
    spikec.compile(model, "nir", calibration=torch.rand(6, 4), progress=seen.append)
    assert ("passes", "checks") in {each.what for each in seen}
