"""What the ledger, ``check`` and errors say of a model that is refused, and of one that is not."""

import math

import nir
import numpy as np
import pytest
import torch
from torch import nn

import nets
import spikec
from spikec import CompileError, Pass, UnsupportedOpError
from spikec.calibration.source import CalibrationSource
from spikec.dry_run import readable_part, refuse_early
from spikec.ir.errors import Problem
from spikec.ir.graph import Graph
from spikec.ir.ledger import Ledger
from spikec.ir.ops import Input, Linear, Output, Relu
from spikec.ir.origin import Source


class Net(nn.Module):
    """Two refused calls, one of which keeps the shape, around layers that can be read."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(1, 2, 2)
        self.act = nn.Hardshrink()
        self.fc = nn.Linear(16, 4)
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        x = self.act(self.conv(x))
        x = torch.relu(self.fc(x.flatten(1)))
        x = torch.cdist(torch.sign(x), x)
        return self.head(torch.relu(x))


VOLUME = torch.rand(4, 1, 3, 3, 3)


def rows(ledger):
    return {entry.source.label: entry.fate for entry in ledger}


def refusal(function, *args, **options):
    with pytest.raises(CompileError) as caught:
        function(*args, **options)
    return caught.value


def test_a_refused_model_has_all_its_rows_in_the_order_of_the_model():
    error = refusal(spikec.load, Net(), VOLUME)
    assert rows(error.ledger) == {
        "conv": "kept",
        "act": "refused",
        "flatten": "kept",
        "fc": "kept",
        "relu": "kept",
        "sign": "refused",
        "cdist": "refused",
        "relu_1": "unread",
        "head": "unread",
    }
    assert [entry.source.label for entry in error.ledger][:4] == ["conv", "act", "flatten", "fc"]
    refused = next(entry for entry in error.ledger if entry.fate == "refused")
    assert refused.into.startswith("nn.Hardshrink is not supported")
    assert refused.source.place.startswith("test_ledger.py:")
    assert "refused" in str(error.ledger)


@pytest.mark.slow
@pytest.mark.parametrize("function", [spikec.compile, lambda *args, **o: spikec.Compiler(args[1], **o).run(args[0])])
def test_the_target_speaks_of_what_could_be_read(function):
    error = refusal(function, Net(), "nir", calibration=VOLUME)
    assert [p.location.split(" ")[0] for p in error.problems] == ["act", "sign", "cdist", "conv"]
    assert "conv" in str(error)
    assert error.ledger is not None
    assert rows(error.ledger)["conv"] == "refused"
    assert [
        p.location.split(" ")[0] for p in refusal(spikec.compile, Net(), "spikingjelly", calibration=VOLUME).problems
    ] == [
        "act",
        "sign",
        "cdist",
    ]


@pytest.mark.slow
def test_check_lists_all_of_it_at_once():
    problems = spikec.check(Net(), "nir", example_input=VOLUME)
    assert [p.location.split(" ")[0] for p in problems] == ["act", "sign", "cdist", "conv"]
    assert all(p.hint for p in problems)
    torch.manual_seed(0)
    two = nn.Sequential(nn.Conv3d(1, 8, 2), nn.ReLU(), nn.Conv3d(8, 9, 2), nn.ReLU(), nn.Flatten(), nn.Linear(9, 2))
    assert [p.location for p in spikec.check(two, "nir", example_input=VOLUME)] == ["0", "2"]
    assert spikec.check(two, "spikingjelly", example_input=VOLUME) == []
    assert spikec.check(nets.build("mlp"), "netx") == []


@pytest.mark.slow
def test_a_verdict_that_depends_on_what_is_missing_is_not_given(monkeypatch):
    """A pool may fold into the layer behind it, and here that is not known."""
    model = nn.Sequential(nn.Conv1d(1, 4, 3), nn.ReLU(), nn.AvgPool1d(2), nn.LSTM(3, 2))
    signal = torch.rand(2, 1, 8)
    _, end = readable_part(refusal(spikec.load, model, signal).graph)
    assert [source.label for source in end] == ["2"]
    compiler = spikec.Compiler("nir", example_input=signal)
    monkeypatch.setattr(type(compiler.backend), "check", lambda self, graph: [graph.problem(n, "no") for n in graph])
    assert [p.location for p in refusal(compiler.run, model).problems] == ["3", "0", "1"]


class Counted:
    """A loader of three batches that knows how many were read."""

    def __init__(self, x):
        self.x = x
        self.read = 0

    def __len__(self):
        return 3

    def __iter__(self):
        for _ in range(3):
            self.read += 1
            yield self.x


@pytest.mark.slow
def test_a_target_refuses_before_the_data_is_looked_at():
    model = nn.Sequential(nn.Conv3d(1, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    data = Counted(VOLUME)
    error = refusal(spikec.compile, model, "nir", calibration=data)
    assert data.read == 1
    assert [p.location for p in error.problems] == ["0"]
    assert rows(error.ledger) == {"0": "refused", "1": "kept", "2": "kept", "3": "kept"}
    spikec.compile(model, "spikingjelly", calibration=Counted(VOLUME))


@pytest.mark.slow
def test_what_only_the_weights_alone_would_break_is_not_refused_early(monkeypatch):
    """Thresholds from weights are no reason: the first batch must break it too."""
    compiler = spikec.Compiler("spikingjelly")
    graph = spikec.load(nets.build("mlp"))
    problem = Problem("the threshold is too high", "1")
    seen = []

    def check(self, graph):
        seen.append(graph)
        return [problem] if len(seen) == 1 else []

    monkeypatch.setattr(type(compiler.backend), "check", check)
    calibration = CalibrationSource.of([nets.batch("mlp")] * 3, ["input"])
    refuse_early(graph, calibration, compiler._run_dry)
    assert len(seen) == 2
    seen.clear()
    monkeypatch.setattr(type(compiler.backend), "check", lambda self, graph: [problem])
    assert refusal(refuse_early, graph, calibration, compiler._run_dry).problems == (problem,)


def test_a_pass_that_refuses_leaves_the_ledger_too():
    class Refuse(Pass):
        name = "refuse"
        contract = "exact"

        def run(self, graph, context):
            name = graph.match(Linear)[1].name
            raise UnsupportedOpError(graph.problem(name, "this one is not liked"))

    pipeline = spikec.Pipeline.default("nir").insert_after("fold-batchnorm", Refuse())
    error = refusal(spikec.compile, nets.build("mlp"), "nir", calibration=nets.batch("mlp"), pipeline=pipeline)
    assert rows(error.ledger) == {"0": "kept", "1": "kept", "2": "refused", "3": "kept", "4": "kept"}


@pytest.mark.slow
def test_the_dump_has_the_ledger(tmp_path):
    compilation = spikec.Compiler("nir", calibration=nets.batch("mlp"), dump_dir=tmp_path).run(nets.build("mlp"))
    assert (tmp_path / "ledger.txt").read_text() == f"{compilation.ledger}\n"
    error = refusal(spikec.compile, Net(), "nir", calibration=VOLUME, dump_dir=tmp_path)
    assert (tmp_path / "ledger.txt").read_text() == f"{error.ledger}\n"
    other = tmp_path / "new"
    refusal(spikec.compile, Net(), "nir", calibration=VOLUME, dump_dir=other)
    assert "refused" in (other / "ledger.txt").read_text()


def test_errors_without_a_model_have_no_ledger():
    assert refusal(spikec.load, object()).ledger is None
    assert refusal(spikec.compile, nets.build("mlp"), "nir", calibration=[]).ledger is None


def test_a_problem_marks_the_node_that_the_op_stands_for():
    first, second = Source("a", "a", "nn.Linear"), Source("b", "b", "nn.BatchNorm1d")
    graph = Graph()
    x = graph.add(Input((2,)))
    graph.register_sources(first, second, Source("c"))
    x = graph.add(Linear(torch.eye(2).numpy(), origin=(first, second)), x)
    graph.add(Output(), graph.add(Relu(), x))
    ledger = Ledger.of(graph, graph, [graph.problem("relu", "no"), graph.problem(x, "later")])
    assert [(e.source.label, e.fate, e.into) for e in ledger] == [
        ("a", "refused", "no"),
        ("b", "folded", "into %linear"),
        ("c", "unread", "it takes the result of a refused node"),
    ]


def test_a_node_that_a_frontend_met_and_lost_is_found():
    graph = spikec.load(nets.build("mlp"))
    graph.register_sources(Source("lost", "body.lost"))
    error = refusal(spikec.compile, graph, "spikingjelly")
    assert "a source node vanished" in str(error)
    assert error.location == "body.lost"


# --------------------------------------------------------------------- neurons


class Smooth(nn.Module):
    """A ReLU, a gate and a smooth function."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.relu, self.act = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.SiLU()
        self.fc, self.head = nn.Linear(4 * 36, 8), nn.Linear(8, 2)

    def forward(self, x):
        y = self.relu(self.conv(x))
        y = y * torch.sigmoid(y.mean((2, 3), keepdim=True))
        return self.head(self.act(self.fc(y.flatten(1))))


PICTURES = torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def of_a_module(snn):
    with torch.no_grad():
        snn(PICTURES[:1])
    return sum(each.v.numel() for each in snn.modules() if type(each).__name__ == "IFNode")


def of_nir(graph):
    return sum(np.prod(each.output_type["output"]) for each in graph.nodes.values() if isinstance(each, nir.IF))


def of_netx(network):
    """A file has no encoder of the input; it has two readouts, and neurons that hand constants and pulses on."""
    encoder, readouts = 64, 2
    relays = sum(layer.relays * math.prod(layer.shape[1:]) for layer in network.layers)
    return sum(layer.neurons for layer in network.summary().layers) + encoder - readouts - relays


COUNTS = {"spikingjelly": of_a_module, "nir": of_nir, "netx": of_netx}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*hard reset in")
@pytest.mark.parametrize("target", COUNTS)
def test_check_says_what_each_layer_costs_as_it_is_then_compiled(target):
    """Counted in what is emitted: potentials of torch modules, outputs of NIR's nodes, compartments of a netx file."""
    model = Smooth().eval()
    problems = spikec.check(model, target, calibration=PICTURES, timesteps=4)
    assert problems == []
    compilation = spikec.Compiler(target, calibration=PICTURES, timesteps=4).run(model)
    costs = {entry.source.label: entry.neurons for entry in problems.ledger}
    assert costs == {entry.source.label: entry.neurons for entry in compilation.ledger}
    assert problems.ledger.neurons == COUNTS[target](compilation.artifact)
    if target != "netx":  # whose encoder belongs to no layer
        assert problems.ledger.neurons == sum(costs.values())
    assert costs["relu"] >= 4 * 36
    assert all(costs[label] for label in ("sigmoid", "mul", "act"))
    assert not any(costs[label] for label in ("conv", "fc", "head"))
    assert f"with {costs['act']:,} neurons" in str(problems.ledger)


def test_a_refused_model_has_a_ledger_too():
    assert rows(spikec.check(Net(), "nir", example_input=VOLUME).ledger)["act"] == "refused"
