"""What an interpreter and a notebook show of public objects, and of what they return."""

import importlib.util
import inspect
from html.parser import HTMLParser

import attrs
import numpy as np
import pytest
import torch
from torch import nn

import spikec
from spikec.ir.ops import Flatten, Linear, Neuron, Weighted


@pytest.fixture(scope="module")
def examples():
    """An instance of every public class that is no error, by its name, and what these hold and return, by any."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)).eval()
    images = torch.rand(8, 1, 8, 8)
    told, contexts = [], []

    @attrs.frozen
    class Look(spikec.Pass):
        name = "look"

        def run(self, graph, context):
            contexts.append(context)
            context.note("", "seen")
            return 0

    pipeline = spikec.Pipeline.default("nir", normalization="max").insert_before("normalize", Look())
    compiler = spikec.Compiler("nir", calibration=images, timesteps=8, pipeline=pipeline, progress=told.append)
    compilation = compiler.run(model)
    graph = compilation.graph
    refused = nn.Sequential(nn.Linear(3, 3), nn.Hardshrink()).eval()
    net = spikec.compile(model, "netx", calibration=images, timesteps=8)
    found = {
        "Backend": compiler.backend,
        "Calibration": compilation.calibration,
        "Compilation": compilation,
        "Compiler": compiler,
        "Context": contexts[0],
        "Diagnosis": spikec.diagnose(compilation, images, 8),
        "Forecast": spikec.diagnose(model, compilation.artifact, images, timesteps=8),
        "Graph": graph,
        "Movement": Flatten(),
        "Normalization": spikec.Normalization(method="max"),
        "Op": graph.match(Weighted)[0].op,
        "Pass": Look(),
        "Pipeline": pipeline,
        "Problem": spikec.check(refused, "nir", example_input=torch.rand(1, 3))[0],
        "Progress": next(each for each in told if isinstance(each, spikec.Progress)),
        "Recording": spikec.record(compilation, images[:2], 8),
        "Repair": spikec.repair(compilation.artifact, "spikingjelly"),
        "Role": spikec.Role.LINEAR,
        "Simulation": spikec.simulate(graph, images, 8),
        "StatefulOp": graph.match(Neuron)[0].op,
        "ledger": compilation.ledger,
        "report": compilation.report,
        "entry": compilation.ledger.entries[0],
        "note": compilation.report.notes[0],
        "stage": compilation.stages[-1],
        "node": graph.match(Neuron)[0],
        "type": graph.type(graph.match(Neuron)[0].name),
        "source": compilation.ledger.entries[0].source,
        "statistics": next(iter(compilation.calibration.nodes.values())),
        "retained": compilation.calibration.retained,
        "net": net,
        "layer of net": net.layers[0],
        "trace": net.simulate(images, 8),
    }
    found["findings"], found["rung"], found["advice"] = (
        found["Diagnosis"].layers[0],
        found["Diagnosis"].rungs[0],
        found["Diagnosis"].advice,
    )
    found["record"] = next(iter(found["Recording"].layers.values()))
    found["summary"] = net.summary()
    return found


def public_classes():
    values = {name: getattr(spikec, name) for name in spikec.__all__}
    return {name for name, value in values.items() if inspect.isclass(value) and not issubclass(value, BaseException)}


@pytest.mark.slow
def test_there_is_an_example_of_every_public_class(examples):
    assert public_classes() <= set(examples)
    for name in public_classes():
        assert isinstance(examples[name], getattr(spikec, name))


def test_a_repr_is_one_line_without_addresses_and_weights(examples):
    for name, value in examples.items():
        text = repr(value)
        assert "object at 0x" not in text, name
        assert "array(" not in text, name
        assert "tensor(" not in text, name
        if name == "Pipeline":  # every pass with its options, to copy from
            assert text.count("\n") == 0
            assert str(value) in text
        elif name != "summary":  # a table
            assert text.count("\n") == 0, name
            assert len(text) < 400, (name, text)


def test_an_error_is_one_line_too():
    with pytest.raises(spikec.CompileError) as refused:
        spikec.compile(nn.Hardshrink(), "nir", example_input=torch.rand(1, 3))
    assert "\n" not in repr(refused.value)


class Tags(HTMLParser):
    """Sees that what is opened is closed."""

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], set()

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)
        self.seen.add(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize("name", ["Graph", "Compilation", "report", "ledger", "Diagnosis", "summary"])
def test_what_is_a_table_or_a_graph_has_a_view_for_notebooks(name, examples):
    reader = Tags()
    reader.feed(examples[name]._repr_html_())
    assert reader.open == []
    assert reader.seen & {"table", "svg"}


def test_a_network_of_nir_is_viewed_as_a_graph(examples):
    graph = spikec.load(examples["Compilation"].artifact)
    assert len(graph.match(Neuron)) == len(examples["Graph"].match(Neuron))
    assert "<svg" in graph._repr_html_()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("pandas") is None, reason="needs pandas")
def test_tables_are_for_pandas_too(examples):
    ledger, report, net = examples["ledger"], examples["report"], examples["net"]
    assert ledger.to_pandas()["is"].tolist() == [entry.fate for entry in ledger]
    passes = report.to_pandas()
    assert passes["changes"].sum() == sum(stage.changes for stage in report.stages)
    assert passes["ops"].iloc[-1] == len(examples["Graph"])
    counts = net.summary().to_pandas()
    assert counts["synapses"].sum() == net.summary().synapses
    assert examples["Diagnosis"].to_pandas()["layer"].tolist() == [each.name for each in examples["Diagnosis"].layers]


def test_an_op_of_the_users_says_shapes_and_where_it_is_from(examples):
    text = repr(examples["Op"])
    assert text.startswith("Conv(origin=")
    assert "weight=<4x1x3x3 float32>" in text
    assert repr(Linear(np.eye(2))).startswith("Linear(origin=, weight=<2x2 float64>, bias=None")
