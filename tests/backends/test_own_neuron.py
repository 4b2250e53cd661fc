"""A neuron of a user's own, all in this file: read from torch, run, trained, and written to every target."""

import math

import attrs
import numpy as np
import pytest
import torch
from torch import nn

import spikec
from spikec.backends.netx import LayerNeurons
from spikec.backends.netx import converter as netx_converter
from spikec.backends.nir import converter as nir_converter
from spikec.backends.spikingjelly.neurons import NeuronNode
from spikec.extend.loader import backend_named
from spikec.frontends.torch import converter, fires
from spikec.ir.op import array, tensor
from spikec.ir.ops import IF, LIF, Input, Linear, Neuron, Output

T = 30


@attrs.frozen(eq=False)
class Eager(Neuron):
    """An IF that fires at a share of its threshold already, and of which a spike takes the whole threshold."""

    kind = "eager"
    share: np.ndarray = array(default=np.ones(()), kw_only=True)

    def charge(self, state, *xs):
        return state + xs[0]

    def spikes(self, v):
        return super().spikes(v + (1 - tensor(self.share, v)) * tensor(self.v_threshold, v))


class EagerNode(nn.Module):
    """The same, as a torch library would have it."""

    def __init__(self, threshold, share):
        super().__init__()
        self.threshold, self.share, self.v = threshold, share, 0.0

    def reset(self):
        self.v = 0.0

    def forward(self, x):
        v = self.v + x
        spikes = (v >= self.share * self.threshold).to(x)
        self.v = v - self.threshold * spikes
        return spikes


@converter(EagerNode)
@fires
def read(module, call):
    one = np.ones((1,) * len(call.shape(call.operand)))
    op = Eager(module.threshold * one, share=np.asarray(module.share), out_scale=one)
    return call.add(op, call.operand)


@nir_converter(Eager)
@netx_converter(Eager)
def as_if(op, operand, result):
    """An IF whose potential lies that much higher from the start."""
    ahead = (1 - op.share) * op.v_threshold
    reset = None if op.v_reset is None else op.v_reset + ahead
    return IF(op.v_threshold, reset, op.v_init + ahead, strict=op.strict)


def model(dtype=torch.float64):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 9), EagerNode(0.75, 0.5), nn.Linear(9, 5), EagerNode(0.5, 0.5), nn.Linear(5, 3))
    return net.to(dtype)


def train(dtype=torch.float64):
    return torch.rand(T, 4, 6, generator=torch.Generator().manual_seed(1), dtype=dtype) * 2


def stepped(net, x):
    with torch.no_grad():
        return torch.stack([net(step) for step in x])


def fired(graph, x, kind=Neuron, steps=None):
    """The spikes [T, B, ...] of all neurons of a graph, by name."""
    names = {node.name for node in graph.match(kind)}
    spikes = {}
    spikec.run(graph, x, steps, tap=lambda name, value, *_: spikes.setdefault(name, []).append(value), nodes=names)
    return {name: torch.stack(values) for name, values in spikes.items()}


def test_it_is_read_and_run():
    net, x = model(), train()
    graph = spikec.load(net, x[0])
    assert [node.op.share.item() for node in graph.match(Eager)] == [0.5, 0.5]
    assert torch.equal(spikec.run(graph, x), stepped(net, x))
    assert all(0.02 < spikes.mean() < 0.98 for spikes in fired(graph, x).values())


@pytest.mark.slow
def test_it_is_a_torch_module_and_comes_back():
    net, x = model(), train()
    compilation = spikec.Compiler("spikingjelly", example_input=x[0], verify="each").run(net)
    assert torch.equal(stepped(compilation.artifact, x), spikec.run(compilation.graph, x))
    assert "NeuronNode(eager, v_threshold=0.75, v_reset=None, v_init=0, step_mode='s', share=0.5)" in str(
        compilation.artifact
    )
    assert str(spikec.load(compilation.artifact)) == str(compilation.graph)
    (node, _) = (part for part in compilation.artifact.children() if isinstance(part, NeuronNode))
    again = spikec.load(nn.Sequential(nn.Linear(6, 9).double(), node), x[0])
    assert again.match(Eager)[0].op.share.item() == 0.5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:SpikingJelly 2.0.0. a spike resets")  # neurons that subtract
def test_it_is_nir_and_comes_back(tmp_path):
    net, x = model(), train()
    expected = fired(spikec.load(net, x[0]), x)
    for profile in ("portable", "spikingjelly"):
        file = spikec.compile(net, "nir", example_input=x[0], profile=profile)
        spikec.save(file, tmp_path / "net.nir")
        found = fired(spikec.load(tmp_path / "net.nir"), x, IF)
        assert all(map(torch.equal, found.values(), expected.values()))


@pytest.mark.slow
def test_it_is_netx():
    net, x = model(torch.float32), train(torch.float32)[0]
    found = spikec.Compiler("netx", calibration=x, timesteps=T, reset="soft").run(net)
    trace = found.artifact.simulate(x, T)
    spikes = fired(found.graph, x.double(), Eager, T)
    assert len(trace.spikes) == 2
    for name, expected in spikes.items():
        assert 0 < expected.mean() < 1
        assert np.array_equal(trace.spikes[name], expected.numpy().astype(bool))
    mean = stepped(net, x.expand(T, *x.shape)).mean(0).double()
    assert float((found.artifact.run(x, T) - mean).abs().max()) < 0.2 * float(mean.std())


def test_netx_refuses_what_its_converter_makes_of_a_hard_reset():
    problems = spikec.check(model(torch.float32), "netx", calibration=train(torch.float32)[0], reset="hard")
    assert [(problem.message, problem.location) for problem in problems] == [
        ("hard reset in netx is to zero", "1"),
        ("hard reset in netx is to zero", "3"),
    ]


def test_netx_wants_to_know_the_potential():
    class Silent(Eager):
        charge = Neuron.charge

        def step(self, state, *xs):
            return self.fire(state + xs[0])

    graph, x = spikec.load(model(torch.float32), train(torch.float32)[0]), train(torch.float32)[0]
    for node in graph.match(Eager):
        graph.set_op(node.name, Silent(**node.op.parameters(), origin=node.op.origin))
    with pytest.raises(spikec.UnsupportedOpError, match="does not say what potential") as error:
        spikec.compile(graph, "netx", calibration=x, timesteps=T, reset="soft")
    assert error.value.location == "1"


def test_gradients_pass_and_are_those_of_the_arctangent():
    graph = spikec.Graph("eager")
    x = graph.add(Input((5,), "float64", rate=True), name="x")
    graph.add(Output(), graph.add(Eager(np.full(1, 0.5), share=np.asarray(0.25)), x, name="n"), name="y")
    module = spikec.compile(graph, "spikingjelly")
    x = torch.rand(4, 5, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(module(x).sum(), x)
    expected = 0.5 / (1 + (math.pi * (x - 0.125)) ** 2)  # times the readout's scale of 0.5
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)
    module.reset()
    module(x)
    (later,) = torch.autograd.grad(module(torch.zeros_like(x)).sum(), x)
    assert later.abs().min() > 0, "what came before is seen through the potential"


@attrs.frozen(eq=False)
class Leak(Neuron):
    """Loihi's own leak: the potential loses ``decay`` of 4096 in a step, rounded towards zero to 1/64."""

    kind = "leak"
    decay: int = attrs.field(default=0, kw_only=True)

    def charge(self, state, *xs):
        return torch.trunc(state * 64 * (4096 - self.decay) / 4096) / 64 + xs[0]


@netx_converter(Leak)
def as_cuba(op, operand, result):
    return LayerNeurons(op.v_threshold.item(), soft=op.v_reset is None, strict=op.strict, decay=op.decay)


def leaking(reset):
    rng = np.random.default_rng(0)
    graph = spikec.Graph("leaking")
    x = graph.add(Input((6,), "float64", rate=True), name="x")
    x = graph.add(IF(np.ones(1), out_scale=np.ones(1)), x, name="encoder")
    for i, width in enumerate((8, 7)):
        size = graph.type(x).shape[0]
        x = graph.add(Linear(2 * rng.integers(-40, 60, (width, size)), 2 * rng.integers(0, 9, width)), x)
        x = graph.add(Leak(np.full(1, 130.0), reset, strict=True, decay=700, out_scale=np.ones(1)), x, name=f"leak{i}")
    x = graph.add(Linear(2 * rng.integers(-40, 60, (3, 7)), None), x)
    graph.add(Output(), x, name="y")
    return graph


def test_a_neuron_of_netx_may_leak():
    graph = leaking(np.zeros(()))
    netx = backend_named("netx")(reset="hard")
    model = netx.emit(graph, spikec.Context(graph, timesteps=T))
    assert not netx.check(graph)
    x = torch.rand(5, 6, dtype=torch.float64)
    trace = model.simulate(x, T)
    for name, expected in fired(graph, x, Leak, T).items():
        assert 0.02 < expected.mean() < 0.98
        assert np.array_equal(trace.spikes[name], expected.numpy().astype(bool))
    assert "a spike clears it" in netx.check(leaking(None))[0].message


@attrs.frozen(eq=False)
class Doubled(IF):
    """An IF that fires at twice its threshold: nothing that knows an IF may take it for one."""

    kind = "doubled"

    def spikes(self, v):
        return super().spikes(v / 2)


@pytest.mark.parametrize("target", ["nir", "netx"])
def test_what_is_derived_from_a_neuron_and_differs_is_not_written_as_that_neuron(target):
    graph = leaking(np.zeros(()))
    for node in graph.match(Leak):
        graph.set_op(node.name, Doubled(node.op.v_threshold, node.op.v_reset, strict=True, out_scale=np.ones(1)))
    backend = backend_named(target)()
    assert "no doubled" in "\n".join(str(problem) for problem in backend.check(graph))
    module = spikec.compile(graph, "spikingjelly")
    x = torch.rand(T, 5, 6, dtype=torch.float64)
    assert torch.equal(stepped(module, x), spikec.run(graph, x))


def test_what_a_converter_gives_for_a_neuron_must_suit_the_reader():
    class Odd(Eager):
        share = None

    graph = leaking(None)
    for node in graph.match(Leak):
        graph.set_op(node.name, Odd(node.op.v_threshold, out_scale=np.ones(1)))
    made = {"strict": True}
    nir_converter(Odd)(lambda op, *_: LIF(op.v_threshold, tau=np.asarray(2.0), gain=np.asarray(0.5), **made))

    def problems(profile):
        return "\n".join(map(str, backend_named("nir")(profile=profile).check(graph)))

    assert "fire at it" in problems("spikingjelly")
    made["strict"] = False
    assert "does not read a lif with a gain of 0.5" in problems("spikingjelly")


@attrs.frozen(eq=False)
class Clash(IF):
    """A field that its torch module cannot have."""

    kind = "clash"
    half: float = attrs.field(default=0.5, kw_only=True)


def test_a_field_that_a_torch_module_cannot_have_is_refused():
    graph = leaking(None)
    graph.set_op("leak0", Clash(np.ones(1), out_scale=np.ones(1)))
    with pytest.raises(spikec.CompileError, match=r"Clash has a field half.*\n.*rename the field"):
        spikec.compile(graph, "spikingjelly")


def test_a_neuron_that_gives_no_equation_says_so():
    @attrs.frozen(eq=False)
    class Empty(Neuron):
        kind = "empty"

    with pytest.raises(NotImplementedError, match="Empty gives neither charge nor step"):
        Empty(np.ones(1)).step(torch.zeros(1, 1), torch.zeros(1, 1))
