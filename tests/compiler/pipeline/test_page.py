import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import attrs
import numpy as np
import pytest
import torch
from torch import nn

import spikec
from spikec.extend.passbase import Note
from spikec.ir.graph import Graph
from spikec.ir.ops import Input, Linear, Output, Weighted
from spikec.ir.origin import Source
from spikec.pipeline.manager import StageRecord
from spikec.pipeline.page import Page, summary

CHROMIUM = os.environ.get("SPIKEC_CHROMIUM") or shutil.which("chromium")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium on the path or in SPIKEC_CHROMIUM")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.norm, self.two, self.head = nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        x = torch.relu(self.norm(self.one(x)))
        return self.head(torch.relu(self.two(x) + x))


@attrs.frozen
class Wrong(spikec.Pass):
    """A pass that says it is exact, and is not."""

    name = "wrong"
    contract = "exact"

    def run(self, graph, context):
        node = graph.match(Weighted)[0]
        graph.set_op(node.name, attrs.evolve(node.op, weight=node.op.weight * 2))
        return 1


@pytest.fixture(scope="module")
def dumped(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("dump")
    images = torch.rand(32, 6)
    return spikec.Compiler("nir", calibration=images, normalization="99.9%", dump_dir=folder).run(Net().eval()), folder


@pytest.fixture(scope="module")
def failed(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("failed")
    pipeline = spikec.Pipeline.default("nir").insert_after("fold-batchnorm", Wrong())
    images = torch.rand(32, 6)
    with pytest.raises(spikec.VerificationError) as refused:
        spikec.Compiler("nir", calibration=images, pipeline=pipeline, verify="each", dump_dir=folder).run(Net().eval())
    return refused.value, folder


@pytest.mark.slow
def test_the_json_says_what_every_pass_did_to_every_node(dumped):
    compilation, folder = dumped
    data = json.loads((folder / "index.json").read_text())
    assert [each["name"] for each in data["passes"]] == [each.name for each in compilation.stages]
    assert [each["changes"] for each in data["passes"]] == [each.changes for each in compilation.stages]
    for shown, stage in zip(data["passes"], compilation.stages, strict=True):
        nodes = data["graphs"][shown["graph"]]
        assert list(nodes) == list(stage.graph)
        for name, number in nodes.items():
            record = data["records"][number]
            assert record["kind"] == stage.graph[name].kind
            assert record["type"] == str(stage.graph.type(name))
            assert record["operands"] == [f"%{each}" for each in stage.graph.operands(name)]
    assert len(data["ledger"]) == len(compilation.ledger)
    assert data["error"] == ""
    weight = compilation.stages[0].graph["one"].weight
    shown = data["records"][data["graphs"][0]["one"]]["numbers"]["weight"]
    assert shown["shape"] == [6, 6]
    assert float(shown["max"]) == pytest.approx(weight.max(), rel=1e-3)
    assert sum(shown["counts"]) == weight.size


def test_a_note_stands_at_its_pass_and_others_with_the_ledger(dumped):
    compilation, folder = dumped
    data = json.loads((folder / "index.json").read_text())
    shown = [note for each in data["passes"] for note in each["notes"]] + data["notes"]
    assert sorted(shown) == sorted([*map(str, compilation.report.notes), *compilation.ledger.notes])


class Resources(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        self.found += [value for name, value in attributes if name in ("src", "href") or tag == "link"]


def test_the_page_asks_for_nothing_beside_itself(dumped):
    _, folder = dumped
    text = (folder / "index.html").read_text()
    reader = Resources()
    reader.feed(text)
    assert reader.found == []
    assert text.count("http") == text.count("http://www.w3.org/2000/svg")
    assert "import(" not in text
    assert "@import" not in text


def test_a_name_of_the_users_cannot_end_the_script(tmp_path):
    model = nn.Sequential()
    model.add_module("</script><b>&", nn.Linear(3, 3))
    spikec.Compiler("nir", calibration=torch.rand(8, 3), normalization="max", dump_dir=tmp_path).run(model.eval())
    text = (tmp_path / "index.html").read_text()
    assert text.count("</script>") == 2
    assert "<b>&<" not in text


def test_a_pass_that_fails_is_on_the_page_with_the_graph_that_it_left(failed):
    error, folder = failed
    data = json.loads((folder / "index.json").read_text())
    last = data["passes"][-1]
    assert (last["name"], last["failed"]) == ("wrong", True)
    assert data["error"] == str(error)
    before = data["graphs"][data["passes"][-2]["graph"]]
    changed = {name for name, number in data["graphs"][last["graph"]].items() if before.get(name) != number}
    assert changed == {"one"}
    assert not any(each["failed"] for each in data["passes"][:-1])


@pytest.mark.slow
@pytest.mark.parametrize(
    "behind",
    ["start", "lower-maxpool", "normalize", "relu-to-if", "avgpool-to-sumpool", "fold-pool"],
    ids=["first", "middle", "last", "first spiking", "middle spiking", "last spiking"],
)
def test_of_passes_that_are_checked_together_the_wrong_one_is_marked(behind, tmp_path):
    torch.manual_seed(0)
    default = spikec.Pipeline.default("nir", normalization="max")
    pipeline = (
        default.insert_before(default.passes[0].name, Wrong())
        if behind == "start"
        else default.insert_after(behind, Wrong())
    )
    options = {"calibration": torch.rand(32, 6), "pipeline": pipeline, "dump_dir": tmp_path}
    with pytest.raises(spikec.VerificationError) as refused:
        spikec.Compiler("nir", **options).run(Net().eval())
    names = [each.name for each in pipeline]
    at = names.index("wrong") + 1
    rows = [line.split("\t") for line in (tmp_path / "index.tsv").read_text().splitlines()[1:]]
    assert [row[0] for row in rows[1:]] == [f"{i:02d}-{name}" for i, name in enumerate(names[:at], start=1)]
    assert [row[1] == "failed" for row in rows] == [False] * at + [True]
    assert "VerificationError: pass wrong: " in rows[-1][5]
    passes = json.loads((tmp_path / "index.json").read_text())["passes"]
    assert [(each["name"], each["failed"]) for each in passes[1:]] == [(name, name == "wrong") for name in names[:at]]
    texts = sorted(path.name for path in tmp_path.glob("*.txt"))
    assert texts[-2:] == [f"{at:02d}-wrong.txt", "ledger.txt"]
    if hasattr(refused.value, "__notes__"):  # from Python 3.11 on
        assert f"in pass {at} of {len(names)}, wrong; run before it: " in refused.value.__notes__[0]


def test_a_refused_model_has_a_page_too(tmp_path):
    with pytest.raises(spikec.UnsupportedOpError):
        spikec.compile(
            nn.Sequential(nn.Linear(3, 3), nn.Hardshrink()), "nir", example_input=torch.rand(1, 3), dump_dir=tmp_path
        )
    data = json.loads((tmp_path / "index.json").read_text())
    assert "Hardshrink" in data["error"]
    assert [each["fate"] for each in data["ledger"]] == ["kept", "refused"]


def test_show_opens_the_page(dumped, tmp_path, monkeypatch):
    compilation, _ = dumped
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    page = compilation.show(tmp_path / "page")
    assert opened == [page.as_uri()]
    assert json.loads((page.parent / "index.json").read_text())["title"] == compilation.report.title


def test_show_opens_the_page_of_the_dump_where_there_is_one(dumped, tmp_path, monkeypatch):
    compilation, folder = dumped
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    written = (folder / "index.html").stat().st_mtime_ns
    assert compilation.show() == folder / "index.html"
    assert opened == [(folder / "index.html").as_uri()]
    assert (folder / "index.html").stat().st_mtime_ns == written
    gone = attrs.evolve(compilation, dump_dir=tmp_path / "gone")
    assert gone.show().parent != tmp_path / "gone"


def test_reprs_are_one_line_and_have_a_view_for_notebooks(dumped):
    compilation, _ = dumped
    for each in (compilation, compilation.report, compilation.ledger, compilation.graph):
        assert "\n" not in repr(each)
        assert len(repr(each)) < 200
        assert "<" in each._repr_html_()
    assert "9 ops in" in repr(compilation)
    assert repr(compilation.ledger) == "<spikec ledger: 4 kept, 1 folded, 2 converted>"
    assert "two (test_page.py:" in compilation.ledger._repr_html_()


def test_a_summary_of_numbers_is_numpys():
    values = np.random.default_rng(0).normal(size=(40, 50))
    values[0, :20] = 0
    found = summary(values)
    assert float(found["mean"]) == pytest.approx(values.mean(), rel=1e-3)
    assert float(found["std"]) == pytest.approx(values.std(), rel=1e-3)
    assert found["zeros"] == "1"
    assert found["counts"] == np.histogram(values, 24)[0].tolist()
    assert summary(np.array([np.nan, 1.0, 2.0]))["counts"][0] == 1


@pytest.mark.parametrize("values", [[1.0, np.nextafter(1.0, 2)], [0.0, 5e-324]], ids=["narrow", "tiny"])
def test_a_histogram_is_counted_over_any_range(values):
    counts = summary(np.array(values))["counts"]
    assert counts == [1] + 22 * [0] + [1]


def test_a_histogram_of_equal_numbers_has_one_bar():
    assert sorted(summary(np.full(7, 3.0))["counts"]) == 23 * [0] + [7]


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """The page of a pass over 10,000 ops in modules of a hundred each, which changes two of them."""
    graph = Graph("large")
    last = graph.add(Input((2,)), name="x")
    for index in range(10_000):
        origin = (Source(f"n{index}", f"stage{index // 1000}.{index // 100 % 10}.layer{index % 100}"),)
        last = graph.add(Linear(np.eye(2), origin=origin), last, name=f"n{index}")
    graph.add(Output(), last)
    after = graph.copy()
    for name in ("n5", "n7777"):
        after.set_op(name, attrs.evolve(after[name], weight=2 * np.eye(2)))
    stages = [StageRecord("import", graph), StageRecord("wrong", after, 2, by=Wrong())]
    folder = tmp_path_factory.mktemp("large")
    return Page("large", stages, [Note("wrong", "n7777", "it is not the last one")], None).write(folder)


@pytest.mark.slow
def test_a_page_of_ten_thousand_ops_is_small_and_draws_parts(large):
    assert large.stat().st_size < 10e6
    text = large.read_text()
    assert text.count('<g class="node') < 500
    assert "10002 ops drawn as 101 parts" in text


def screen(page: Path, fragment: str, script: str = "") -> str:
    """The page's document as Chromium leaves it, opened at a fragment and after a script of somebody who uses it."""
    if script:
        text = page.read_text().replace("</body>", f"<script>{script}</script></body>")
        page = page.with_name("used.html")
        page.write_text(text)
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,900", "--dump-dom"]
    shown = subprocess.run(
        [*command, f"{page.as_uri()}#{fragment}"], capture_output=True, text=True, timeout=60, check=True
    )
    return shown.stdout.split('<script type="application/json"')[0].split("<template")[0]


@pytest.mark.slow
@needs_chromium
def test_a_browser_shows_the_pass_the_node_and_what_is_searched_for(dumped):
    _, folder = dumped
    names = [each["name"] for each in json.loads((folder / "index.json").read_text())["passes"]]
    shown = screen(folder / "index.html", f"pass={names.index('fold-batchnorm')}&node=one&both=1&find=norm")
    assert shown.count('class="pane"') == 2
    assert "before fold-batchnorm" in shown
    assert 'role="status">1 found' in shown  # folded away, it is found as a source of %one
    assert "norm (test_page.py:" in shown
    assert "changed chosen" in shown.replace(" hit", "")
    assert "removed" in shown
    assert 'aria-label="histogram of weight"' in shown


@pytest.mark.slow
@needs_chromium
def test_a_browser_draws_before_and_after_at_one_scale(tmp_path):
    wide, narrow = Graph("wide"), Graph("narrow")
    for graph, branches in ((wide, 12), (narrow, 1)):
        x = graph.add(Input((2,)), name="x")
        for i in range(branches):
            graph.add(Output(), graph.add(Linear((1 + branches) * np.eye(2)), x, name=f"branch{i}"))
    page = Page("wide", [StageRecord("import", wide), StageRecord("wrong", narrow, 1, by=Wrong())], [], None)
    before, after = re.findall(r"scale\(([\d.]+)\)", screen(page.write(tmp_path), "pass=1&both=1"))
    assert float(before) < 1
    assert before == after


@pytest.mark.slow
@needs_chromium
def test_a_browser_shows_why_a_compilation_failed(failed):
    _, folder = failed
    shown = screen(folder / "index.html", "")
    assert 'role="alert"' in shown
    assert "an exact pass changed the output" in shown
    assert 'class="failed"' in shown
    assert 'aria-label="linear one, real&lt;6&gt;' in shown
    assert "after wrong" in shown  # it opens at the pass that failed


@pytest.mark.slow
@needs_chromium
def test_a_browser_shows_which_layer_is_refused_and_why(tmp_path):
    model = nn.Sequential(nn.Linear(3, 3), nn.Hardshrink())
    with pytest.raises(spikec.UnsupportedOpError):
        spikec.compile(model, "nir", example_input=torch.rand(1, 3), dump_dir=tmp_path)
    name = list(json.loads((tmp_path / "index.json").read_text())["graphs"][0])[2]
    shown = screen(tmp_path / "index.html", f"node={name}")
    assert 'class="node activation refused chosen"' in shown
    assert "refused: nn.Hardshrink is not supported" in shown


@pytest.mark.slow
@needs_chromium
def test_a_browser_shows_all_of_a_short_graph_whatever_is_chosen(tmp_path):
    short = Graph("short")
    last = short.add(Input((2,)), name="x")
    for _ in range(5):
        last = short.add(Linear(np.eye(2)), last)
    short.add(Output(), last, name="y")
    page = Page("short", [StageRecord("import", short)], [], None).write(tmp_path)
    assert re.search(r"translate\([-\d.]+px, 30px\)", screen(page, "node=y"))


@pytest.mark.slow
@needs_chromium
def test_a_browser_leads_from_a_layer_to_the_node_that_it_became(dumped):
    _, folder = dumped
    click = "[...byId('about').querySelectorAll('button')].find(each => each.textContent === '%one').click()"
    shown = screen(folder / "index.html", "tab=ledger", click)
    assert "<h3>%one</h3>" in shown
    assert screen(folder / "index.html", "tab=ledger").count('class="link"') == 7  # what was folded leads on too


@pytest.mark.slow
@needs_chromium
def test_a_browser_finds_a_node_in_a_part_of_a_large_graph(large):
    shown = screen(large, "pass=1&node=n7777&find=stage7.7.layer77")
    assert 'role="status">1 found' in shown
    box = shown.split("changed hit chosen")[1].split("</g>")[0]
    assert "100 ops of stage7.7" in box
    assert "<h3>%n7777</h3>" in shown
    assert "wrong: it is not the last one" in shown  # what the pass says of it


@pytest.mark.slow
@needs_chromium
def test_a_browser_lists_the_ops_of_a_part(large):
    shown = screen(large, "pass=1", 'panes[0].find("n7777").dispatchEvent(new MouseEvent("click"))')
    assert "<h3>100 ops</h3>" in shown
    assert shown.count('class="link"') == 100


@pytest.mark.slow
@needs_chromium
def test_keys_alone_go_through_passes_graph_and_tabs(dumped):
    _, folder = dumped
    names = [each["name"] for each in json.loads((folder / "index.json").read_text())["passes"]]
    walk = f"""
      const key = key => document.activeElement.dispatchEvent(new KeyboardEvent("keydown", {{ key, bubbles: true }}));
      byId("passes").children[{names.index("fold-batchnorm") - 1}].firstChild.focus(); key("ArrowDown");
      panes[0].svg.querySelector("[tabindex='0']").focus(); key("ArrowUp"); key("ArrowDown"); key("Enter");
      key("b"); byId("tab-node").focus(); key("ArrowRight");"""
    shown = screen(folder / "index.html", "pass=0", walk)
    assert shown.count('class="pane"') == 2
    assert "after fold-batchnorm" in shown
    assert shown.count('tabindex="0"') >= 4  # one in each pane, a tab, and what it shows
    assert shown.count('class="node') - shown.count('tabindex="0" role="button"') >= 14
    assert 'aria-labelledby="tab-pass"' in shown
    # from the first node that the pass changed up to the input, down again, and chosen
    assert re.findall(r'chosen" data-node="(\w+)"', shown) == 2 * ["one"]
