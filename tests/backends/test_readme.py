"""The examples of backends/README.md run."""

import re
from pathlib import Path

import pytest

import spikec.backends.nir_nodes
import spikec.backends.spikingjelly_emitters

TEXT = (Path(__file__).parents[2] / "backends" / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture(autouse=True)
def _tables_as_they_were(monkeypatch):
    for module in (spikec.backends.nir_nodes, spikec.backends.spikingjelly_emitters):
        monkeypatch.setattr(module.emitter, "_table", dict(module.emitter._table))


def test_there_are_examples():
    assert len(BLOCKS) == 2


@pytest.mark.parametrize("block", BLOCKS, ids=["target", "op"])
def test_example_runs(block):
    exec(compile(block, "backends/README.md", "exec"), {"__name__": "readme"})
