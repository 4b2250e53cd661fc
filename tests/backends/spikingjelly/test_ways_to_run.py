"""Every way to run a network gives the same spikes, and none writes into what the user holds."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import nets
import spikec
from spikec.backends.spikingjelly import IFNode, network
from spikec.ir.ops import IF, Add, AvgPool, Conv, Flatten, Input, Linear, Output, Stream, SumPool

T = 9
RNG = np.random.default_rng(3)


def random(*shape):
    return RNG.normal(size=shape) * 0.6


def graph_of(seed):
    """A random network of convolutions, pools, skips and neurons with thresholds of any shape."""
    rng = np.random.default_rng(seed)
    graph = spikec.Graph(f"random{seed}")
    x = graph.add(Input((2, 8, 6), "float64", rate=True), name="input")

    def neurons(x):
        channels = graph.type(x).shape[0]
        threshold = rng.uniform(0.3, 1.2, (channels, 1, 1)) if rng.random() < 0.5 else np.ones((1, 1, 1))
        reset = None if rng.random() < 0.7 else np.zeros(())
        options = {"v_init": np.full((), 0.3), "strict": bool(rng.integers(2)), "out_scale": np.ones((1, 1, 1))}
        return graph.add(IF(threshold, v_reset=reset, **options), x)

    def conv(x, outputs=4):
        weight = rng.normal(size=(outputs, graph.type(x).shape[0], 3, 3)) * 0.5
        windows = {"stride": (1, 1), "padding": [(1, 1), (1, 1)], "dilation": (1, 1)}
        windows["in_scale"] = graph.type(x).scale.reshape(-1)
        return graph.add(Conv(weight, rng.normal(size=outputs) * 0.3, groups=1, **windows), x)

    h = neurons(conv(x))
    for _ in range(3):
        kind = rng.integers(4)
        if kind == 0 and graph.type(h).shape[1] >= 4:
            h = graph.add(SumPool((2, 2), (2, 2), [(0, 0), (0, 0)]), h)
        elif kind == 1:
            h = neurons(graph.add(Add(), conv(h), h))
        elif kind == 2:
            h = neurons(graph.add(Stream(rng.normal(size=(3, 4, 1, 1)) * 0.1), conv(h)))
        h = neurons(conv(h))
    flat = graph.add(Flatten(), h)
    graph.add(Output(), graph.add(Linear(rng.normal(size=(3, int(np.prod(graph.type(h).shape))))), flat))
    return graph


def emitted(graph):
    return spikec.compile(graph, "spikingjelly", pipeline=[], verify="off")


def stepwise(net, xs):
    net.reset()
    net.step_mode = "s"
    with torch.no_grad():
        return torch.stack([net(x) for x in xs])


def at_once(net, xs):
    net.reset()
    net.step_mode = "m"
    with torch.no_grad():
        return net(xs)


def inputs(constant, samples=5):
    x = torch.rand(T, samples, 2, 8, 6, dtype=torch.float64)
    return x[:1].expand(T, samples, 2, 8, 6) if constant else x


@pytest.mark.parametrize("constant", [True, False], ids=["constant", "over time"])
@pytest.mark.parametrize("seed", range(6))
def test_all_ways_give_the_same_spikes(seed, constant, monkeypatch):
    graph = graph_of(seed)
    net, xs = emitted(graph), inputs(constant)
    wanted = spikec.run(graph, xs[0], T) if constant else spikec.run(graph, xs)
    assert torch.equal(spikec.run(graph, xs), wanted)
    with torch.enable_grad():  # as it is done for training: no step leaves anything out or writes over anything
        trained = torch.stack([net(x).detach() for x in xs])
    states = {name: part.v.clone() for name, part in net.named_modules() if isinstance(part, IFNode)}
    ways = [stepwise(net, xs), at_once(net, xs), at_once(net, xs.contiguous())]
    for steps in (1, 2, 4):  # bytes for so many steps of the largest map, [5, 4, 8, 6]
        monkeypatch.setattr(network, "CHUNK", steps * 5 * 4 * 8 * 6 * 8)
        ways.append(at_once(net, xs))
        assert all(torch.equal(net.get_submodule(name).v, state) for name, state in states.items())
    assert wanted.std() > 0
    assert all(torch.equal(way, wanted) for way in (trained, *ways))


def test_nothing_that_the_user_holds_is_written_to():
    net, xs = emitted(graph_of(1)), inputs(False)
    neurons = [part for part in net.modules() if isinstance(part, IFNode)]
    held = []
    with torch.no_grad():
        for mode in ("s", "m"):
            net.step_mode = mode
            for x in xs if mode == "s" else xs.split(3):
                out = net(x)
                held += [(each, each.clone()) for each in (x, out, *net.state_dict().values(), *(n.v for n in neurons))]
    assert len(held) > 100
    assert all(torch.equal(now, then) for now, then in held)


def test_what_a_hook_keeps_is_not_written_to_and_hooks_see_every_call(monkeypatch):
    monkeypatch.setattr(network, "CHUNK", 1)
    net, xs = emitted(graph_of(1)), inputs(True)
    kept = {}
    for name, part in net.named_children():
        part.register_forward_hook(
            lambda part, given, out, name=name: kept.setdefault(name, []).append(
                [(x, x.clone()) for x in (*given, out)]
            )
        )
    stepwise(net, xs)
    assert {len(calls) for calls in kept.values()} == {T}
    whole = at_once(net, xs)
    assert {len(calls) for calls in kept.values()} == {T + 1}
    assert len(kept["output"][-1][-1][0]) == whole[..., 0].numel(), "all steps at once"
    assert all(torch.equal(now, then) for calls in kept.values() for call in calls for now, then in call)


def test_a_hook_that_comes_late_sees_every_call_too():
    net, xs = emitted(graph_of(1)), inputs(True)
    calls = []
    stepwise(net, xs)
    net.conv.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        for x in xs:
            net(x)
    assert len(calls) == T


def test_what_a_hook_on_neurons_alone_keeps_is_not_written_to():
    net, kept = emitted(graph_of(1)), []
    for part in net.modules():
        if isinstance(part, IFNode):
            part.register_forward_pre_hook(lambda part, given: kept.append((given[0], given[0].clone())))
    stepwise(net, inputs(False))
    assert len(kept) > T
    assert all(torch.equal(now, then) for now, then in kept)


def test_a_neuron_on_its_own_keeps_what_was_handed_out():
    node = IFNode(torch.ones(1))
    with torch.no_grad():
        x = torch.full((3, 1), 0.6)
        spikes, before = node(x), node.v
        node(x)
    assert before.unique() == x.unique() == torch.tensor(0.6)
    assert not spikes.any()


def test_an_output_may_be_added_to():
    """A network whose output no neuron changes gives memory of the user's own at each step."""
    graph = spikec.Graph("linear")
    x = graph.add(Input((3,), "float64", rate=True))
    graph.add(Output(), graph.add(Linear(random(2, 3)), x))
    net, x = emitted(graph), torch.rand(4, 3, dtype=torch.float64)
    with torch.no_grad():
        total = net(x)
        once = total.clone()
        total += net(x)
        assert torch.equal(total, 2 * once)
        first, second = net(x), net(x)
        first += 1
        assert torch.equal(second, once)


def changed_by_numpy(net, x):
    x.numpy()[:] *= 0.5  # torch does not see it


def changed_in_place(net, x):
    x *= 0.5


def changed_weight(net, x):
    net.conv.weight *= 0.5


def another_weight(net, x):
    net.conv.weight = nn.Parameter(net.conv.weight * 0.5)


def another_part(net, x):
    net.conv = nn.Sequential(copy.deepcopy(net.conv), nn.Conv2d(4, 4, 1, dtype=torch.float64))


def single(net, x):
    net.float().double()


@pytest.mark.parametrize(
    "change", [changed_by_numpy, changed_in_place, changed_weight, another_weight, another_part, single]
)
def test_what_is_constant_is_computed_again_once_it_is_not(change):
    start = torch.rand(5, 2, 8, 6, dtype=torch.float64)

    def outputs(change, grad):
        net, x = emitted(graph_of(2)), start.clone()
        with torch.set_grad_enabled(grad):  # what is differentiated is never left out
            first = [net(x) for _ in range(3)]
            with torch.no_grad():
                torch.manual_seed(0)
                change(net, x)
            return torch.stack([*first, net(x), net(x)]).detach()

    wanted = outputs(change, True)
    assert torch.equal(outputs(change, False), wanted)
    assert not torch.equal(outputs(lambda net, x: None, False), wanted)


def test_the_first_layer_runs_once_for_a_constant_input(monkeypatch):
    net, x = emitted(graph_of(2)), inputs(True)
    calls = []
    forward = nn.Conv2d.forward
    monkeypatch.setattr(nn.Conv2d, "forward", lambda self, x: calls.append(self is net.conv) or forward(self, x))
    stepwise(net, x)
    assert sum(calls) == 1
    at_once(net, x)
    assert sum(calls) == 2
    stepwise(net, inputs(False))
    assert sum(calls) == 2 + T


def test_a_part_that_hands_its_operand_on_does_not_lose_it():
    """A user's own part in the place of a layer: its result is not memory that may be written over."""
    graph = spikec.Graph("skip")
    spikes = graph.add(IF(np.ones(1)), graph.add(Input((3,), "float64", rate=True)))
    later = graph.add(IF(np.ones(1)), graph.add(Linear(np.eye(3)), spikes, name="layer"))
    graph.add(Output(), graph.add(Add(), later, spikes))
    net, xs = emitted(graph), torch.rand(T, 4, 3, dtype=torch.float64)
    wanted = stepwise(net, xs)
    net.layer = nn.Identity()
    assert wanted.any()
    assert torch.equal(stepwise(net, xs), wanted)
    assert torch.equal(at_once(net, xs), wanted)


def test_a_network_goes_on_with_a_part_of_its_batch():
    net, xs = emitted(graph_of(4)), inputs(True)
    wanted = stepwise(net, xs)
    net.reset()
    rows = torch.tensor([True, False, True, True, False])
    with torch.no_grad():
        for x in xs[:3]:
            net(x)
        net.keep(rows)
        found = torch.stack([net(x[rows]) for x in xs[3:]])
    torch.testing.assert_close(found, wanted[3:, rows], rtol=0, atol=1e-12)


def test_copies_do_not_hold_what_is_constant(tmp_path):
    net, xs = emitted(graph_of(1)), inputs(True)
    wanted = stepwise(net, xs)
    spikec.save(net, tmp_path / "net.pt")
    other = torch.load(tmp_path / "net.pt", weights_only=False)
    assert net._constants is not None
    assert other._constants is None
    assert torch.equal(stepwise(other, xs), wanted)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_steps(monkeypatch):
    """In step mode m a layer is called with as many steps as fit, whatever T is."""
    monkeypatch.setattr(network, "CHUNK", 3 * 5 * 4 * 8 * 6 * 8)
    net, sizes = emitted(graph_of(1)), []
    forward = nn.Conv2d.forward
    monkeypatch.setattr(nn.Conv2d, "forward", lambda self, x: sizes.append(len(x)) or forward(self, x))
    at_once(net, inputs(False).repeat(20, 1, 1, 1, 1))
    assert max(sizes) == 3 * 5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "mode", "backend"),
    [  # inductor runs a C++ compiler for half a minute; the others take the same graph, and leave that out
        ("mlp", "m", "inductor"),
        ("mlp", "s", "aot_eager"),
        *((name, mode, "aot_eager") for name in ("cnn", "resnet") for mode in "sm"),
    ],
)
def test_a_compiled_network_is_one_graph_with_the_same_outputs(name, mode, backend):
    x = nets.batch(name, dtype=torch.float64)
    net = spikec.compile(nets.build(name, dtype=torch.float64), "spikingjelly", calibration=[x])
    xs = x if mode == "s" else torch.rand(3, *x.shape, dtype=torch.float64)
    net.step_mode = mode
    torch._dynamo.reset()
    fast = torch.compile(net, fullgraph=True, backend=backend)
    with torch.no_grad():
        found = torch.stack([fast(xs) for _ in range(4)])
        net.reset()
        wanted = torch.stack([net(xs) for _ in range(4)])
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


def test_average_pools_of_the_module_are_torchs():
    graph = spikec.Graph("pool")
    x = graph.add(Input((2, 5, 5), "float64", rate=True))
    graph.add(Output(), graph.add(AvgPool((2, 2), (2, 2), (0, 0), ceil_mode=True), x))
    assert any(isinstance(part, nn.AvgPool2d) for part in emitted(graph).modules())


def test_a_network_runs_while_another_thread_exports(monkeypatch):
    """torch says of the whole process that something is exported."""
    graph, xs = graph_of(3), inputs(constant=False)
    wanted = at_once(emitted(graph), xs)
    net = emitted(graph)
    net.step_mode = "m"
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    with torch.no_grad():
        first, second = net(xs[:3]), net(xs[3:])
    assert torch.equal(torch.cat([first, second]), wanted)
