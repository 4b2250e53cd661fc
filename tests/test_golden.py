"""What spikec writes for people, held as files in golden/, so that a change of format is seen in a diff.

After a deliberate change run ``pytest --update-golden`` on this file and look at the diff.
"""

import re
import runpy
import warnings
from pathlib import Path

import pytest
import torch

import spikec

NETS = runpy.run_path(str(Path(__file__).with_name("golden") / "net.py"))

#: what differs between machines and between runs, and what stands in its place
VARYING = (
    (re.compile(r"#[0-9a-f]{6}\b"), "#digest"),
    (re.compile(r"\b\d\.\de[+-]\d\d\b"), "1.0e-99"),
    (re.compile(r"\b\d+\.\d{3}(?= s\b|\t)"), "0.000"),
)


def steady(text):
    """The text without the digests of weights, measured differences and seconds."""
    for pattern, instead in VARYING:
        text = pattern.sub(instead, text)
    return text


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A compilation and the folder of its dumps."""
    folder = tmp_path_factory.mktemp("dumps")
    images = torch.arange(8 * 36).reshape(8, 1, 6, 6) * 5 % 17 / 16
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", spikec.SpikecWarning)
        compiler = spikec.Compiler("nir", calibration=images, normalization="max", dump_dir=folder)
        return compiler.run(NETS["Net"]().eval()), folder


def written(folder, ending):
    """The one file of that name, whatever its number is."""
    (path,) = folder.glob(f"*{ending}")
    return path.read_text()


def test_dump_of_the_import(compiled, golden):
    golden("import.txt", steady(written(compiled[1], "-import.txt")))


def test_dump_of_the_last_graph(compiled, golden):
    golden("last.txt", steady(str(compiled[0].graph)))


def test_diff_of_a_pass(compiled, golden):
    golden("fold-batchnorm.diff", steady(written(compiled[1], "-fold-batchnorm.diff")))


def test_index_of_the_dumps(compiled, golden):
    golden("index.tsv", steady(written(compiled[1], "index.tsv")))


def test_ledger(compiled, golden):
    golden("ledger.txt", written(compiled[1], "ledger.txt"))


def test_report(compiled, golden):
    golden("report.txt", steady(f"{compiled[0].report}\n"))


def test_card_of_an_error(golden):
    with pytest.raises(spikec.CompileError) as caught:
        spikec.load(NETS["Refused"]().eval(), torch.zeros(2, 5, 6))
    assert len(caught.value.problems) == 3
    golden("error.txt", f"{type(caught.value).__name__}: {caught.value}\n\n{caught.value.ledger}\n")


def test_a_change_of_format_is_seen(compiled, golden, request):
    if request.config.getoption("--update-golden"):
        pytest.skip("would write the change")
    with pytest.raises(AssertionError):
        golden("report.txt", steady(f"{compiled[0].report}\n").replace("note: ", "Note: "))
    with pytest.raises(AssertionError, match="--update-golden"):
        golden("of-nothing.txt", "")
