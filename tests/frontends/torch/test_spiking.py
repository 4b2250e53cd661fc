"""Models that are spiking already, known by the names of their layers."""

import sys

import numpy as np
import pytest
import torch
from torch import nn

import spikec
import spikec.frontends.torch.converters.spiking as spiking
from spikec.backends.spikingjelly import IFNode as OwnIF
from spikec.frontends.torch import converter, fires
from spikec.ir.ops import IF, LIF, BatchNorm, Neuron
from spiking_standins import IFNode, Leaky, LIFNode, Linear, SeqToANNContainer, UnknownNode

T = 40
TARGETS = ("spikingjelly", "nir")


def steps(net, x):
    for module in net.modules():
        for name in ("reset", "reset_mem"):
            if callable(reset := getattr(module, name, None)):
                reset()
    with torch.no_grad():
        results = [net(step) for step in x]
    return torch.stack([y[0] if isinstance(y, tuple) else y for y in results])


def train(*shape, seed=0):
    return torch.randn(T, 3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 3


def mlp(first, second):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 9), first, Linear(9, 5), second).double()


NETS = {
    "if": lambda: mlp(IFNode(), IFNode(v_reset=None, v_threshold=0.6)),
    "lif": lambda: mlp(LIFNode(3.0, False, v_reset=-0.2), LIFNode(5.0, False, v_reset=None)),
    "leaky": lambda: mlp(Leaky(0.7, 0.5, init_hidden=True), Leaky(torch.rand(5), 0.4, init_hidden=True, output=True)),
    "own": lambda: mlp(OwnIF(torch.tensor(0.5)), OwnIF(torch.tensor(0.4), torch.tensor(0.1))),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*not by subtraction:spikec.SpikecWarning")
@pytest.mark.parametrize("name", NETS)
def test_the_graph_and_every_target_do_what_the_model_does(name):
    net, x = NETS[name](), train(6)
    expected = steps(net, x)
    assert 0.02 < expected.mean() < 0.98
    graph = spikec.load(net, x[0])
    assert graph.is_spiking
    assert torch.equal(spikec.run(graph, x), expected)
    module = spikec.compile(net, "spikingjelly", example_input=x[0], verify="each")
    assert torch.equal(steps(module, x), expected)
    for profile in ("portable", "spikingjelly"):
        if name == "leaky" and profile == "spikingjelly":
            continue
        file = spikec.compile(net, "nir", example_input=x[0], profile=profile)
        assert torch.equal(spikec.run(spikec.load(file), x), expected)


def test_a_neuron_starts_where_reset_puts_it_whatever_its_state():
    net, x = NETS["lif"](), train(6)
    expected = steps(net, x)
    assert torch.equal(spikec.run(spikec.load(net, x[0]), x), expected)
    assert net[1].v.shape == (3, 9), "the model itself is left as it was"


class OwnNode(nn.Module):
    """A user's neuron, which keeps its potential in a plain attribute."""

    v = 0.0

    def reset(self):
        self.v = 0.0

    def forward(self, x):
        v = self.v + x
        spikes = (v >= 1).to(x)
        self.v = v - spikes
        return spikes


@converter(OwnNode)
@fires
def own_node(module, call):
    return call.add(IF(np.ones((1,) * len(call.shape(call.operand)))), call.operand)


@pytest.mark.parametrize("batch", [3, 5])
def test_a_users_neuron_that_has_run_already_is_compared_from_its_reset_state(batch):
    net, x = nn.Sequential(nn.Linear(6, 9), OwnNode()).eval(), torch.rand(batch, 6)
    net(x)
    before = net[1].v.clone()
    spikec.compile(net, "spikingjelly", example_input=x[:3])
    assert torch.equal(net[1].v, before)


def test_no_library_is_imported():
    assert not {"spikingjelly", "snntorch"} & {name.split(".")[0] for name in sys.modules}


@pytest.mark.slow
def test_batch_norms_and_dropout_fold():
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), IFNode(v_threshold=0.5)),
        *(nn.AvgPool2d(2), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, 5), LIFNode(2.0, False)),
    )
    for norm in (net[1], net[5]):
        norm.running_mean.normal_()
        nn.init.uniform_(norm.weight, 0.5, 1.5)
    net = net.double().eval()
    x = train(2, 8, 8)
    expected = steps(net, x)
    for target in TARGETS:
        compilation = spikec.Compiler(target, example_input=x[0], verify="each").run(net)
        assert not compilation.graph.match(BatchNorm)
        assert torch.equal(spikec.run(compilation.graph, x) * compilation.output_scale.item(), expected)
        assert len(compilation.graph.match(Neuron)) == 2


@pytest.mark.slow
def test_all_steps_in_a_call():
    net = nn.Sequential(
        SeqToANNContainer(nn.Linear(6, 9), nn.BatchNorm1d(9)),
        IFNode(v_threshold=0.5, step_mode="m"),
        nn.Linear(9, 5),
        LIFNode(step_mode="m", v_threshold=0.1),
    )
    net, x = net.double().eval(), train(6)
    with torch.no_grad():
        expected = net(x)
    assert torch.equal(spikec.run(spikec.load(net, x), x), expected)
    compilation = spikec.Compiler("nir", example_input=x).run(net)
    assert torch.equal(spikec.run(compilation.graph, x), expected)
    with pytest.raises(spikec.InvalidModelError, match=r"takes \[T, B, ...\], example_input is \[3, 6\]"):
        spikec.load(net, x[0])


def test_a_membrane_potential_may_be_returned_and_nothing_else():
    net = NETS["leaky"]()
    module = spikec.compile(net, "spikingjelly", example_input=train(6)[0])
    spikes, membrane = module(train(6)[0])
    assert spikes.shape == (3, 5)
    assert membrane is None

    class Readout(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.lif = nn.Linear(6, 5), Leaky(0.5)

        def forward(self, x):
            spikes, mem = self.lif(self.fc(x))
            return spikes + 0.1 * mem

    assert "membrane potential of lif stays inside the layer" in refusal(Readout())


def refusal(net, x=None, error=spikec.UnsupportedOpError, target="nir", **options):
    with pytest.raises(error) as found:
        spikec.compile(net, target, example_input=torch.zeros(3, 6) if x is None else x, **options)
    return str(found.value)


class Steps(nn.Module):
    def __init__(self, neuron, way):
        super().__init__()
        self.fc, self.lif, self.way = nn.Linear(6, 6), neuron, way

    def forward(self, x):
        return self.way(self, self.fc(x))


def test_states_that_forward_handles_are_refused_with_the_line():
    def cleared(net, x):
        mem = net.lif.init_leaky()
        return net.lif(x, mem)[0]

    def twice(net, x):
        return net.lif(net.lif(x))

    text = refusal(Steps(Leaky(0.5), cleared))
    assert "forward hands the state mem over to lif" in text
    assert "test_spiking.py:" in text
    text = refusal(Steps(IFNode(), twice))
    assert "called more than once" in text
    assert "test_spiking.py:" in text


@pytest.mark.slow
def test_what_has_no_counterpart_is_refused():
    assert "LIAFNode is not supported" in refusal(mlp(IFNode(), UnknownNode()).float())
    silent = IFNode()
    silent.surrogate_function.spiking = False
    assert "spiking=False" in refusal(mlp(silent, IFNode()).float())
    assert "threshold that is not positive" in refusal(mlp(IFNode(v_threshold=0.0), IFNode()).float())
    for name, value in (("inhibition", True), ("state_quant", len), ("graded_spikes_factor", torch.tensor(2.0))):
        neuron = Leaky(0.5, init_hidden=True)
        setattr(neuron, name, value)
        assert name in refusal(mlp(neuron, IFNode()).float())
    text = refusal(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), IFNode()), error=spikec.CompileError)
    assert "replace it by a neuron" in text
    assert "\n  at  1\n" in text


def test_what_takes_the_time_axis_for_the_batch_is_refused():
    x = torch.zeros(4, 3, 2, 3)
    net = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), IFNode(step_mode="m"))
    assert 'nn.Flatten in a model in step_mode "m"' in refusal(net, x)
    mixed = nn.Sequential(nn.Linear(6, 5), IFNode(step_mode="m"), nn.Linear(5, 5), IFNode())
    assert 'some layers have step_mode "s", and some "m"' in refusal(mixed, x, spikec.InvalidModelError)


@pytest.mark.slow
def test_a_wrong_converter_is_found(monkeypatch):
    """The import is held to the model: read the threshold wrongly, the leak, the reset, and see each found."""
    right = spiking._jelly

    def wrong(**changes):
        monkeypatch.setattr(spiking, "_jelly", lambda module, call: {**right(module, call), **changes})
        with pytest.raises(spikec.VerificationError, match="differs from the spiking model at step"):
            spikec.compile(NETS["lif"](), "nir", example_input=train(6)[0])

    wrong(v_threshold=np.full((1,), 1.05))
    wrong(v_reset=np.asarray(0.05))
    wrong(v_reset=None)
    wrong(v_init=np.asarray(0.3))
    monkeypatch.setattr(spiking, "_jelly", right)
    spikec.compile(NETS["lif"](), "nir", example_input=train(6)[0])


def test_both_spellings_of_the_library_are_known():
    for name in ("neuron.IFNode", "neuron.integrate_and_fire.IFNode", "layer.Conv2d", "layer.bn.BatchNorm2d"):
        assert converter.get(f"spikingjelly.activation_based.{name}") is not None


def test_the_graph_holds_the_models_own_numbers():
    graph = spikec.load(mlp(IFNode(v_threshold=0.7), LIFNode(3.0, False)), torch.zeros(2, 6))
    (fire, *_), (leaky,) = graph.match(IF), graph.match(LIF)
    assert fire.op.v_threshold.item() == 0.7
    assert leaky.op.tau.item() == 3.0
    assert all((graph.type(name).scale == 1).all() for name in graph)
