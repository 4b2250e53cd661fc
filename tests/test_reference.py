"""Every public name has a docstring with an example, which is run; docs/reference.md is what the docstrings say."""

import doctest
import inspect
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
import torch
from torch import nn

import spikec

ROOT = Path(__file__).parents[1]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.fixture
def names():
    """What the first lines of the page define."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10)).eval()
    images, labels = torch.rand(64, 1, 8, 8), torch.randint(0, 10, (64,))
    modules = {"attrs": attrs, "nn": nn, "spikec": spikec, "torch": torch}
    return modules | {"model": model, "images": images, "labels": labels}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::spikec.SpikecWarning")
@pytest.mark.parametrize("name", spikec.__all__)
def test_the_example_of_a_public_name_runs(name, names, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = inspect.getdoc(getattr(spikec, name))
    example = doctest.DocTestParser().get_doctest(text, names, name, None, 0)
    assert example.examples, f"{name} has no example"
    found = doctest.DocTestRunner(optionflags=FLAGS).run(example)
    assert found.failed == 0, capsys.readouterr().out


def test_the_page_says_what_the_docstrings_say():
    pytest.importorskip("griffe")
    code = "import runpy, sys; sys.stdout.write(runpy.run_path(sys.argv[1])['page']())"
    said = subprocess.run(
        [sys.executable, "-c", code, ROOT / "docs" / "reference.py"], capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stderr
    page = (ROOT / "docs" / "reference.md").read_text()
    assert said.stdout == page, "run: python docs/reference.py"
    for name in spikec.__all__:
        assert page.count(f"\n### spikec.{name}\n") == 1
