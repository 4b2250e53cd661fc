"""The torch modules against the interpreter on their own final graph."""

import copy
import functools

import attrs
import numpy as np
import pytest
import torch
from torch import nn

import build
import nets
import spikec
from spikec.backends.spikingjelly import CubaLIFNode, IFNode, LIFNode, SpikingNetwork, converter
from spikec.backends.spikingjelly.backend import SpikingJelly
from spikec.backends.spikingjelly.converters import module_for
from spikec.backends.spikingjelly.modules import OpModule
from spikec.backends.spikingjelly.neurons import NeuronNode
from spikec.ir.op import Op, Role, StatefulOp, array, tensor
from spikec.ir.ops import IF, LIF, Add, ConvTranspose, Delay, Input, Linear, Output, Rescale, Upsample
from spikec.ir.types import Rate, Type

T = 64
ZOO = ["mlp_batchnorm", "cnn", "resnet", "grouped", "conv1d", "conv3d", "concat", "functional", "two_inputs"]


@functools.cache
def compilation(name, dtype):
    return spikec.Compiler("spikingjelly", calibration=[nets.batch(name, dtype=dtype)]).run(
        nets.build(name, dtype=dtype)
    )


def compiled(name, dtype=torch.float64):
    """A compilation whose module is the caller's own, and inputs over time."""
    run, x = compilation(name, dtype), nets.batch(name, dtype=dtype)
    xs = x if isinstance(x, tuple) else (x,)
    own = attrs.evolve(run, artifact=copy.deepcopy(run.artifact))
    return own, tuple(torch.rand(T, *each.shape, dtype=dtype) for each in xs)


def interpreted(graph, xs):
    """Output and every neuron's spikes by name."""
    spikes = {node.name: [] for node in graph.match(IF)}
    y = spikec.run(graph, xs, tap=lambda name, value, *_: spikes[name].append(value) if name in spikes else None)
    return y, {name: torch.stack(steps) for name, steps in spikes.items()}


def recorded(net, xs):
    """The same of a module, in its step mode."""
    spikes = {name: [] for name, part in net.named_modules() if isinstance(part, IFNode)}
    hooks = [
        net.get_submodule(name).register_forward_hook(lambda m, i, out, keep=keep: keep.append(out))
        for name, keep in spikes.items()
    ]
    with torch.no_grad():
        y = net(*xs) if net.step_mode == "m" else torch.stack([net(*step) for step in zip(*xs, strict=True)])
    for hook in hooks:
        hook.remove()
    stack = torch.stack if net.step_mode == "s" else (lambda steps: steps[0])
    return y, {name: stack(steps) for name, steps in spikes.items()}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch.jit, which is old, and looks at every comparison of sizes
def test_a_network_of_two_inputs_goes_through_torchscript():
    run, xs = compiled("two_inputs")
    net = run.artifact
    net.step_mode = "m"
    with torch.no_grad():
        traced = torch.jit.trace(net, xs, check_trace=False)
        net.reset()
        expected = net(*xs)
        net.reset()
        assert torch.equal(traced(*xs), expected)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["s", "m"])
@pytest.mark.parametrize("name", ZOO)
def test_module_equals_the_interpreter_spike_for_spike(name, mode):
    run, xs = compiled(name)
    net = run.artifact
    net.step_mode = mode
    y, spikes = recorded(net, xs)
    expected, expected_spikes = interpreted(run.graph, xs)
    assert spikes.keys() == expected_spikes.keys()
    assert sum(float(s.sum()) for s in spikes.values()) > 100
    for node, found in spikes.items():
        assert torch.equal(found, expected_spikes[node]), node
    assert torch.equal(y, expected * torch.tensor(run.output_scale))


@pytest.mark.parametrize("name", ["cnn", "resnet", "concat"])
def test_a_rate_is_the_mean_current_less_what_is_left_in_the_potential(name):
    """theta N / T = mean z - (v(T) - v(0)) / T for every neuron (Rueckauer et al. 2017, eq. 4), whatever it is fed."""
    run, xs = compiled(name)
    net = run.artifact
    fed = {part: [] for part in net.modules() if isinstance(part, IFNode)}
    for part, keep in fed.items():
        part.register_forward_hook(lambda m, i, out, keep=keep: keep.append((i[0], out)))
    with torch.no_grad():
        for step in zip(*xs, strict=True):
            net(*step)
    assert len(fed) > 1
    for part, steps in fed.items():
        current, spikes = (torch.stack(series) for series in zip(*steps, strict=True))
        rate = part.v_threshold * spikes.mean(0)
        left = (part.v - part.v_init) / T
        assert float((rate - (current.mean(0) - left)).abs().max()) < 1e-9
        assert float(left.abs().max()) > 1e-3  # without it the two would not agree


@pytest.mark.slow
def test_a_wrong_weight_is_noticed():
    run, xs = compiled("cnn")
    next(run.artifact.parameters()).data[0] *= 1.01
    _, spikes = recorded(run.artifact, xs)
    _, expected = interpreted(run.graph, xs)
    assert any(not torch.equal(spikes[node], expected[node]) for node in spikes)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet"])
def test_float32(name):
    run, xs = compiled(name, torch.float32)
    y, _ = recorded(run.artifact, xs)
    expected, _ = interpreted(run.graph, xs)
    assert y.dtype == torch.float32
    assert torch.allclose(y, expected * torch.tensor(run.output_scale, dtype=torch.float32), atol=1e-5)


@pytest.mark.slow
def test_double_of_a_float32_module_is_the_interpreter_in_float64():
    run, xs = compiled("cnn", torch.float32)
    wide = tuple(x.double() for x in xs)
    y, spikes = recorded(run.artifact.double(), wide)
    expected, expected_spikes = interpreted(run.graph, wide)
    assert all(torch.equal(spikes[node], expected_spikes[node]) for node in spikes)
    assert torch.equal(y, expected)


ENDS = {
    "affine": ((6,), lambda: [nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)]),
    "neuron": ((6,), lambda: [nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4), nn.ReLU()]),
    "pool": ((2, 8), lambda: [nn.Conv1d(2, 4, 3), nn.ReLU(), nn.AvgPool1d(2)]),
}


@pytest.mark.slow
@pytest.mark.parametrize("end", ENDS)
def test_output_is_in_ann_units(end):
    shape, layers = ENDS[end]
    net = nn.Sequential(*layers()).eval()
    x = torch.rand(20, *shape)
    snn = spikec.compile(net, "spikingjelly", calibration=x, normalization="max")
    with torch.no_grad():
        ann = net(x)
        rate = torch.stack([snn(x) for _ in range(512)]).mean(0)
    assert rate.shape == ann.shape
    assert float((rate - ann).abs().max()) < 0.02 * float(ann.abs().max())


@pytest.mark.parametrize("mode", ["s", "m"])
def test_the_models_own_container(mode):
    x = nets.batch("two_outputs")
    model = nets.build("two_outputs")
    snn = spikec.compile(model, "spikingjelly", calibration=[x], normalization="max")
    snn.step_mode = mode
    with torch.no_grad():
        found = snn(x if mode == "s" else x.expand(256, *x.shape))
        ann = model(x)
    assert found.keys() == ann.keys()
    if mode == "m":
        assert all(float((found[k].mean(0) - ann[k]).abs().max()) < 0.05 for k in ann)


def test_named_tuples_and_lists_are_filled():
    graph = small()
    graph.imported.structure = [0, {"a": (0,)}]
    found = emitted(graph)(torch.rand(2, 3, dtype=torch.float64))
    assert isinstance(found, list)
    assert torch.equal(found[0], found[1]["a"][0])


# ------------------------------------------------------------------ habits


def small(**neuron):
    rng = np.random.default_rng(0)
    graph = spikec.Graph("small")
    x = graph.add(Input((3,), "float64", rate=True), name="input")
    h = graph.add(Linear(rng.normal(size=(5, 3)), rng.normal(size=5)), x, name="fc1")
    h = graph.add(IF(np.full((1,), 0.7), **{"v_init": np.array(0.35), **neuron}), h, name="relu1")
    h = graph.add(Linear(rng.normal(size=(2, 5)), rng.normal(size=2), in_scale=[0.7]), h, name="fc2")
    graph.add(Output(), h, name="output")
    return graph


def emitted(graph):
    return SpikingJelly().emit(graph, spikec.Context(graph))


@pytest.mark.parametrize(
    "neuron",
    [{"strict": True}, {"v_reset": np.zeros((1,))}, {"v_reset": np.full((1,), -0.2), "strict": True}],
    ids=["strict", "hard", "hard to -0.2"],
)
def test_other_neurons(neuron):
    graph = small(**neuron)
    x = torch.rand(T, 4, 3, dtype=torch.float64)
    y, _ = recorded(emitted(graph), (x,))
    assert torch.equal(y, spikec.run(graph, x))
    assert not torch.equal(y, spikec.run(small(), x)) or neuron == {"strict": True}


def test_a_tie_fires_unless_strict():
    at = torch.tensor([[0.5, 0.25]], dtype=torch.float64)
    for strict, expected in ((False, [[1, 0]]), (True, [[0, 0]])):
        assert IFNode(torch.tensor([0.5], dtype=torch.float64), strict=strict)(at).tolist() == expected


def test_attributes_of_a_neuron_may_be_changed():
    node = IFNode(torch.tensor([0.5]))

    def after_a_step(x, **attributes):
        node.reset()
        for name, value in attributes.items():
            setattr(node, name, value)
        return node(torch.tensor([[x]])).item(), node.v.item()

    assert after_a_step(0.75) == (1, 0.25)
    assert after_a_step(0.75, v_reset=torch.tensor(0.125)) == (1, 0.125)
    assert after_a_step(0.75, v_reset=None, v_threshold=torch.tensor([0.625])) == (1, 0.125)
    assert after_a_step(0.625, strict=True) == (0, 0.625)


def test_fields_that_are_not_given_are_those_of_the_op():
    one = torch.ones(1, dtype=torch.float64)
    assert (
        str(LIFNode(one, tau=one)) == "LIFNode(v_threshold=1, v_reset=None, v_init=0, step_mode='s', v_leak=0, tau=1)"
    )
    assert CubaLIFNode(one, decay_syn=one, decay=one).gain.dtype == torch.float64
    with pytest.raises(TypeError, match="LIFNode of LIF has no slope"):
        LIFNode(one, tau=one, slope=one)
    with pytest.raises(TypeError, match="NeuronNode of LIF needs tau"):
        NeuronNode(LIF, v_threshold=one)


def test_step_mode_reaches_all_parts_and_reset_forgets():
    net = emitted(small())
    net.step_mode = "m"
    assert net.relu1.step_mode == "m"
    x = torch.rand(T, 4, 3, dtype=torch.float64)
    with torch.no_grad():
        first, second = net(x), net(x)
        net.reset()
        assert net.relu1.v is None
        assert torch.equal(net(x), first)
    assert not torch.equal(first, second), "the state goes on from call to call"


def test_bad_calls_say_what_to_do():
    net = emitted(small())
    net(torch.rand(4, 3, dtype=torch.float64))
    with pytest.raises(spikec.InvalidModelError, match=r"batch of 4, the input is a batch of 2\n.*call reset\(\)"):
        net(torch.rand(2, 3, dtype=torch.float64))
    net.reset()
    net(torch.rand(2, 3, dtype=torch.float64))
    with pytest.raises(spikec.InvalidModelError, match=r"is \[B, 3\], got \[4, 5\]"):
        net(torch.rand(4, 5, dtype=torch.float64))
    with pytest.raises(spikec.InvalidModelError, match=r"1 input\(s\), got 2\n +try call it as net\(input\)"):
        net(torch.rand(4, 3), torch.rand(4, 3))
    with pytest.raises(spikec.CompileError, match="step_mode is 'x'"):
        net.step_mode = "x"
    with pytest.raises(spikec.CompileError, match="step_mode is 'x'"):
        net.relu1.step_mode = "x"
    net.step_mode = "m"
    with pytest.raises(spikec.InvalidModelError, match="at least one step"):
        net(torch.rand(0, 4, 3, dtype=torch.float64))
    with pytest.raises(spikec.InvalidModelError, match="at least one step"):
        net(torch.rand(4, dtype=torch.float64))


def test_state_is_in_the_state_dict():
    net, x = emitted(small()), torch.rand(6, 4, 3, dtype=torch.float64)
    for step in x[:3]:
        net(step)
    other = emitted(small())
    other.load_state_dict(net.state_dict())
    assert torch.equal(net.relu1.v, other.relu1.v)
    assert torch.equal(net(x[3]), other(x[3]))
    fresh = emitted(small())
    fresh(x[3])
    assert not torch.equal(net.relu1.v, fresh.relu1.v)
    net.load_state_dict(emitted(small()).state_dict())
    assert net.relu1.v is None
    assert {"fc1.weight", "fc1.bias", "relu1.v_threshold", "relu1.v_init"} <= fresh.state_dict().keys()


@pytest.mark.parametrize("clone", ["deepcopy", "save"])
def test_copies_keep_the_state(clone, tmp_path):
    net, x = emitted(small()), torch.rand(6, 4, 3, dtype=torch.float64)
    assert net(x[0]).requires_grad
    if clone == "deepcopy":
        other = copy.deepcopy(net)
    else:
        spikec.save(net, tmp_path / "net.pt")
        other = torch.load(tmp_path / "net.pt", weights_only=False)
    assert torch.equal(net(x[1]), other(x[1]))
    assert str(net) == str(other)


def test_everything_moves():
    net = emitted(small())
    net(torch.rand(4, 3, dtype=torch.float64))
    net.float()
    assert {t.dtype for t in net.state_dict().values()} == {torch.float32}
    net(torch.rand(4, 3))
    net.to("meta")
    assert {t.device.type for t in net.state_dict().values()} == {"meta"}
    assert net(torch.rand(4, 3, device="meta")).shape == (4, 2)


@pytest.mark.slow
def test_gradients_reach_the_first_layer_and_train():
    net = nets.build("cnn")
    x = nets.batch("cnn", 8)
    snn = spikec.compile(net, "spikingjelly", calibration=[x])
    labels = torch.arange(8) % 10
    optimizer = torch.optim.Adam(snn.parameters(), 1e-2)
    losses = []
    for _ in range(5):
        snn.reset()
        loss = nn.functional.cross_entropy(torch.stack([snn(x) for _ in range(4)]).mean(0), labels)
        optimizer.zero_grad()
        loss.backward()
        assert float(next(snn.parameters()).grad.abs().sum()) > 0
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


def test_surrogate_is_the_derivative_of_the_arctangent():
    v = torch.linspace(-2, 3, 41, dtype=torch.float64, requires_grad=True)
    node = IFNode(torch.tensor([0.8], dtype=torch.float64))
    spikes = node(v[None])
    (found,) = torch.autograd.grad(spikes.sum(), v)
    u = (v - 0.8).detach().requires_grad_()
    (expected,) = torch.autograd.grad((torch.atan(torch.pi * u) / torch.pi + 0.5).sum(), u)
    assert torch.allclose(found, expected)


def test_names_follow_the_graph_and_repr_reads():
    graph = spikec.Graph("names")
    x = graph.add(Input((3,), "float64", rate=True), name="type")
    h = graph.add(Linear(np.eye(3)), x, name="layer1_fc")
    h = graph.add(IF(np.array([0.5, 1.0, 2.0])), h, name="reset")
    graph.add(Output(), h, name="output")
    net = emitted(graph)
    assert [name for name, _ in net.named_children()] == ["type_", "layer1_fc", "reset_", "output"]
    text = str(net)
    assert "(layer1_fc): Linear(in_features=3, out_features=3, bias=False)" in text
    assert "IFNode(v_threshold=0.5..2 [3], v_reset=None, v_init=0, step_mode='s')" in text
    assert "Readout(scale=0.5..2 [3])" in text
    assert "names, step_mode='s'" in text


# ------------------------------------------------------------------ own ops


@attrs.frozen(eq=False)
class Gain(Op):
    kind = "gain"
    role = Role.LINEAR
    gain: np.ndarray = array()

    def infer(self, *operands):
        return operands[0]

    def eval(self, *xs):
        return xs[0] * tensor(self.gain, xs[0])


@attrs.frozen(eq=False)
class Leaky(StatefulOp):
    kind = "leaky"
    role = Role.NEURON
    decay: np.ndarray = array()

    def infer(self, *operands):
        return operands[0]

    def initial(self, *xs):
        return torch.zeros_like(xs[0])

    def step(self, state, *xs):
        v = state * tensor(self.decay, xs[0]) + xs[0]
        return v, v


def chain(*ops):
    graph = spikec.Graph("chain")
    x = graph.add(Input((3,), "float64", rate=True), name="input")
    for op in ops:
        x = graph.add(op, x)
    graph.add(Output(), x, name="output")
    return graph


@pytest.mark.parametrize("mode", ["s", "m"])
@pytest.mark.parametrize("op", [Gain(np.array([0.5, 2.0, 3.0])), Leaky(np.array([0.5, 0.9, 0.1]))], ids=str)
def test_an_own_op_needs_no_emitter(op, mode):
    graph = chain(op, IF(np.ones((1,))))
    net = emitted(graph)
    net.step_mode = mode
    x = torch.rand(T, 4, 3, dtype=torch.float64)
    y, _ = recorded(net, (x,))
    assert torch.equal(y, spikec.run(graph, x))
    name = "gain" if isinstance(op, Gain) else "decay"
    assert f"{op.kind}.{name}" in net.state_dict()
    net.load_state_dict({**net.state_dict(), f"{op.kind}.{name}": torch.zeros(3, dtype=torch.float64)})
    net.reset()
    changed, _ = recorded(net, (x,))
    assert not torch.equal(changed, y), "the buffers stand in for the op's arrays"
    assert f"{op.kind}, {name}=0" in str(net)


def test_an_emitter_overrides():
    @attrs.frozen(eq=False)
    class Own(Gain):
        pass

    assert isinstance(emitted(chain(Own(np.ones(3)))).gain, OpModule)
    converter(Own)(lambda op, result: nn.Tanh())
    assert isinstance(emitted(chain(Own(np.ones(3)))).gain, nn.Tanh)


@pytest.mark.parametrize("mode", ["s", "m"])
def test_recurrence_through_a_delay(mode):
    graph = spikec.Graph("loop")
    x = graph.add(Input((3,), "float64", rate=True), name="input")
    late = graph.add(Delay(Type((3,), "float64", Rate(np.ones(1)))), x, name="late")
    back = graph.add(Linear(np.eye(3)[::-1] * -0.5, np.array([0.1, 0.2, 0.3])), late, name="back")
    total = graph.add(Add(), x, back, name="total")
    spikes = graph.add(IF(np.ones((1,))), total, name="relu")
    graph.set_operands("late", spikes)
    graph.add(Output(), spikes, name="output")
    net = emitted(graph)
    net.step_mode = mode
    x = torch.rand(T, 4, 3, dtype=torch.float64)
    y, _ = recorded(net, (x,))
    assert float(y.sum()) > 10
    assert torch.equal(y if mode == "s" else net.output(y), spikec.run(graph, x))
    assert net.step_mode == mode == net.relu.step_mode


def test_a_graph_that_is_not_final_is_refused():
    graph = chain(Rescale(np.full((1,), 2.0)))
    (problem,) = SpikingJelly().check(graph)
    assert "rescale" in problem.message
    assert "fold-rescale" in problem.hint
    (problem, *_) = SpikingJelly().check(build.mlp())
    assert "real" in problem.message


def test_owns_its_modules_only():
    assert SpikingJelly().owns(emitted(small()))
    assert not SpikingJelly().owns(nn.Linear(2, 3))
    assert isinstance(emitted(small()), SpikingNetwork)


TRANSPOSED = {
    "plain": ((6, 2, 3, 2), {"stride": (2, 1), "padding": ((1, 0), (1, 1)), "groups": 2}, True),
    "dilated": ((3, 4, 2, 3), {"stride": (1, 1), "padding": ((0, -1), (2, 0)), "dilation": (2, 3)}, True),
    "1d": ((3, 4, 4), {"stride": (3,), "padding": ((1, -1),)}, True),
    "3d": ((2, 2, 1, 2, 2), {"stride": (1, 2, 2), "padding": ((0, 0), (0, 0), (1, 0)), "groups": 2}, True),
    "cut behind more than before": ((3, 4, 3, 3), {"stride": (2, 2), "padding": ((0, 1), (0, 0))}, False),
}


@pytest.mark.parametrize("name", TRANSPOSED)
def test_a_transposed_convolution_is_torchs_own_layer_where_that_has_its_padding(name):
    shape, options, plain = TRANSPOSED[name]
    rng = np.random.default_rng(0)
    rank = len(shape) - 2
    op = ConvTranspose(rng.normal(size=shape), rng.normal(size=shape[0]), **{"dilation": (1,) * rank, **options})
    x = torch.randn(2, op.in_features, *(5, 4, 3)[:rank], dtype=torch.float64)
    made = module_for(op, op.infer(Type(tuple(x.shape[1:]), "float64")))
    assert type(made).__name__ == (f"ConvTranspose{rank}d" if plain else "OpModule")
    torch.testing.assert_close(made(x), op.eval(x), rtol=0, atol=1e-13)


@pytest.mark.parametrize("size", [(7,), (9, 4), (13, 11), (3, 4, 5)])
def test_an_upsampling_is_torchs_own_layer(size):
    x = torch.randn(2, 3, *(3, 4, 5)[: len(size)], dtype=torch.float64)
    op = Upsample(size)
    made = module_for(op, op.infer(Type(tuple(x.shape[1:]), "float64")))
    assert isinstance(made, nn.Upsample)
    assert torch.equal(made(x), op.eval(x))
