"""The README's examples run, and do what it says."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import spikec
from spikec.ir.errors import CompileError, UnsupportedOpError
from spikec.ir.stages import IMPORTED
from spikec.ir.verify import verify

README = Path(__file__).parents[2] / "frontends" / "README.md"


def run_examples():
    names = {"__name__": "readme_of_frontends"}
    text = README.read_text()
    for found in re.finditer(r"```python\n(.*?)```", text, re.DOTALL):
        line = text.count("\n", 0, found.start(1))
        exec(compile("\n" * line + found.group(1), str(README), "exec"), names)
    return names


@pytest.fixture(scope="module")
def names():
    return run_examples()


@pytest.mark.slow
def test_a_users_converter(names):
    graph = names["graph"]
    verify(graph, IMPORTED, graph.sources)
    x = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        assert torch.allclose(spikec.run(graph, x), names["model"](x), atol=1e-6)
    assert [s.kind for s in graph["affine_1"].origin] == ["Affine"]


def test_a_users_onnx_operator(names):
    x = torch.tensor([[-1.0, 0.1, 0.5]])
    wanted = torch.nn.functional.softshrink(x, 0.3).abs().sum(1, keepdim=True)
    assert torch.allclose(spikec.run(names["shrunk"], x), wanted)
    assert [s.label for s in names["shrunk"]["soft"].origin] == ["soft"]


def test_a_users_function(names):
    class Net(torch.nn.Module):
        def __init__(self, **options):
            super().__init__()
            self.options = options

        def forward(self, x):
            return torch.special.expit(x, **self.options)

    x = torch.randn(2, 3)
    assert torch.equal(spikec.run(spikec.load(Net(), x), x), x.sigmoid())
    with pytest.raises(UnsupportedOpError, match="out= is not supported"):
        spikec.load(Net(out=torch.zeros(1)), x)


def test_a_users_frontend(names):
    model = [np.full((3, 2), 0.5, np.float32), np.ones((1, 3), np.float32)]
    graph = names["frontend"].load(model, None)
    verify(graph, IMPORTED, graph.sources)
    assert spikec.run(graph, torch.tensor([[1.0, 3.0]])).tolist() == [[6.0]]
    assert names["frontend"].accepts(model)


@pytest.mark.slow
def test_registering_again_from_the_same_line_is_fine_and_from_another_is_an_error(names):
    run_examples()
    converter, layer = names["converter"], names["Affine"]
    converter(layer)(names["affine"])
    with pytest.raises(CompileError, match="two torch.fx converters"):

        @converter(layer)
        def other(module, call):
            return call.operand


def test_a_converter_by_qualified_name_that_does_nothing():
    from spikec.frontends.torch import converter

    class Nothing(torch.nn.Module):
        def forward(self, x):
            return x * 1

    @converter(f"{Nothing.__module__}.{Nothing.__qualname__}")
    def nothing(module, call):
        return call.operand

    graph = spikec.load(torch.nn.Sequential(torch.nn.ReLU(), Nothing()), torch.zeros(1, 2))
    assert {source.path: reason for source, reason in graph.imported.dropped.items()} == {"1": "does nothing"}


def test_a_converter_whose_layer_is_called_with_more_than_it_takes():
    from spikec.frontends.torch import converter

    class Gated(torch.nn.Module):
        def forward(self, x, gate):
            return x * gate

    @converter(Gated)
    def gated(module, call):
        return call.operand

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gated = Gated()

        def forward(self, x):
            return self.gated(x, x.relu())

    with pytest.raises(UnsupportedOpError, match=r"takes one tensor here, and is called with %x, %relu"):
        spikec.load(Net(), torch.zeros(1, 2))
