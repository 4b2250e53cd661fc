"""Wrong passes, planted one by one: whatever they get wrong, at a place that data shows or at one that it does not.

Every test counts how many it planted and names those that went unseen; ``pytest -s`` on this file prints the counts.
"""

import itertools
import weakref
from collections.abc import Callable, Iterator

import attrs
import numpy as np
import pytest
import torch

import build
import spikec
from spikec import CompileError, Compiler, Graph, Pass, Pipeline
from spikec.extend.loader import pass_named
from spikec.interpreter import probe as probes
from spikec.interpreter.contract import check_exact
from spikec.interpreter.likeness import PART, STEPS, agree
from spikec.interpreter.parts import Cut, check_parts
from spikec.interpreter.probe import probe
from spikec.ir.ops import (
    IF,
    LIF,
    Add,
    AvgPool,
    BatchNorm,
    Clamp,
    Concat,
    Conv,
    CountingMaxPool,
    CubaLIF,
    Delay,
    Flatten,
    Input,
    LeakyRelu,
    MaxPool,
    Multiply,
    Neuron,
    Pad,
    Permute,
    Relu,
    Rescale,
    ScalarFunction,
    Stream,
    SumPool,
    Weighted,
)
from spikec.ir.stages import IMPORTED, RECEIVED, SPIKING
from spikec.ir.types import Rate, Type
from spikec.ir.verify import verify

Wrong = tuple[str, Graph]

#: non-negative, and silent at the border: what a camera that sees a digit gives
X = torch.rand(40, 2, 8, 6, generator=torch.Generator().manual_seed(0))
X[:, :, :2], X[:, :, :, :1], X[:, :, :, 5:] = 0, 0, 0


def cnn():
    """Convolutions, pools, a skip, a concat and a dead channel."""
    b = build.Builder(2, 8, 6)
    first = b.relu(b.batchnorm(b.conv(b.x, 4, "conv1"), "bn1"), "relu1")
    total = b.add(Add(), b.conv(first, 4, "conv2", groups=2), first, name="add")
    second = b.relu(total, "relu2", cap=6.0)
    pool = b.add(AvgPool((2, 2), (2, 2), (0, 0)), second, name="pool")
    largest = b.add(MaxPool((2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1)), second, name="largest")
    both = b.add(Concat(), pool, largest, name="both")
    third = b.relu(b.conv(b.add(Pad(((1, 0), (0, 1))), both, name="pad"), 3, "conv3", (3, 3), (0, 0)), "relu3")
    hidden = b.relu(b.linear(b.add(Flatten(), third, name="flatten"), 6, "fc1"), "relu4")
    return b.done(b.linear(hidden, 5, "fc2"), b.linear(hidden, 5, "fc3"))


def functions():
    """Activations of every kind, and maps as long as they are wide."""
    b = build.Builder(3, 4, 4)
    x = b.add(LeakyRelu(np.full((3, 1, 1), 0.1)), b.conv(b.x, 3, "conv1", (3, 3), (1, 1)), name="leaky")
    x = b.add(Clamp(-1.0, 1.5), b.conv(x, 3, "conv2", (3, 3), (1, 1)), name="clamp")
    x = b.add(Permute((0, 2, 1)), x, name="turn")
    return b.done(b.linear(b.add(Flatten(), b.relu(b.conv(x, 2, "conv3"), "relu"), name="flatten"), 4, "fc"))


def roots():
    """Functions that have no value for half of all numbers, in front of a clamp and behind it."""
    b = build.Builder(5)
    x = b.linear(b.x, 6, "fc1")
    power = b.linear(b.add(Multiply(), x, x, name="squares"), 4, "fc2")
    size = b.add(Clamp(0.5, None), b.add(ScalarFunction("sqrt"), power, name="sqrt"), name="clamp")
    inverse = b.add(ScalarFunction("rsqrt"), b.linear(size, 6, "fc3"), name="rsqrt")
    graph = b.done(b.linear(b.add(Multiply(), x, inverse, name="product"), 3, "fc4"))
    for name in ("fc2", "fc3"):
        op = graph[name]
        graph.set_op(name, attrs.evolve(op, weight=np.abs(op.weight), bias=np.abs(op.bias)))
    return graph


def leaky():
    """Neurons of every kind, a delay on a loop, streamed currents and a counting pool."""
    b = build.Builder(2, 4, 4)
    b.graph.set_op("x", Input((2, 4, 4), "float64", rate=True, origin=build.source("x")))
    one = np.ones((1, 1, 1))
    current = b.conv(b.x, 3, "conv1", (3, 3), (1, 1))
    current = b.add(Stream(np.linspace(0.1, 0.4, 3).reshape(3, 1, 1, 1)), current, name="stream")
    x = b.add(LIF(one, v_reset=np.zeros(()), v_init=0.2 * one, tau=np.array(4.0)), current, name="lif")
    x = b.add(CountingMaxPool(MaxPool((2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1))), x, name="counts")
    x = b.linear(b.add(Flatten(), x, name="flatten"), 5, "fc1")
    late = b.add(Delay(Type((5,), "float64", Rate(np.ones(1)))), name="late")
    total = b.add(Add(), x, b.linear(late, 5, "back"), name="total")
    cuba = CubaLIF(np.ones(1), v_leak=np.full(1, 0.1), decay_syn=np.array(0.7), decay=np.array(0.8))
    spikes = b.add(cuba, total, name="cuba")
    b.graph.set_operands("late", spikes)
    return b.done(b.add(IF(np.ones(1)), b.linear(spikes, 4, "fc2"), name="if"))


def spiking():
    return Compiler(build.GraphTarget(), calibration=X).run(cnn()).graph


def wide():
    """Maps that are compared at a quarter of their sides, and one behind them that is not."""
    b = build.Builder(2, 16, 20)
    first = b.relu(b.batchnorm(b.conv(b.x, 4, "conv1"), "bn1"), "relu1")
    total = b.add(Add(), b.conv(b.relu(b.conv(first, 4, "conv2"), "relu2"), 4, "conv3", groups=2), first, name="add")
    second = b.relu(total, "relu3", cap=6.0)
    pool = b.add(AvgPool((2, 2), (2, 2), (0, 0)), b.conv(second, 3, "conv4"), name="pool")
    return b.done(b.linear(b.add(Flatten(), b.relu(pool, "relu4"), name="flatten"), 4, "fc"))


def wide_spiking():
    """The same with neurons, of which those of the last map start cell by cell."""
    x = torch.rand(8, 2, 16, 20, generator=torch.Generator().manual_seed(0))
    b = build.Builder(2, 16, 20)
    first = b.relu(b.conv(b.x, 4, "conv1"), "relu1")
    total = b.add(Add(), b.conv(first, 4, "conv2"), first, name="add")
    second = b.relu(b.conv(b.relu(total, "relu2"), 3, "conv3"), "relu3")
    net = b.done(b.linear(b.add(Flatten(), second, name="flatten"), 4, "fc"))
    graph = Compiler(build.GraphTarget(), calibration=x).run(net).graph
    potentials = np.linspace(0, 0.5, 16 * 20).reshape(1, 16, 20)
    return with_op(graph, "relu3", attrs.evolve(graph["relu3"], v_init=potentials))


def with_op(graph: Graph, name: str, op) -> Graph:
    other = graph.copy()
    other.set_op(name, op)
    return other


def places(shape) -> list[tuple[int, ...]]:
    """Every corner of an array, and some cells between."""
    corners = set(itertools.product(*({0, size - 1} for size in shape)))
    some = np.random.default_rng(0).integers(0, shape, (6, len(shape)))
    return sorted(corners | {tuple(map(int, each)) for each in some})


def changed(graph: Graph, field: str, change: Callable, kind=object) -> Iterator[Wrong]:
    """A field of an op, changed at one place after the other, or as a whole where the change gives another shape."""
    for node in graph.match(kind):
        value = getattr(node.op, field, None)
        if isinstance(value, np.ndarray):
            for place in places(value.shape):
                array = value.copy()
                array[place] = change(array[place])
                if array[place] != value[place]:
                    op = attrs.evolve(node.op, **{field: array})
                    yield f"{node.name}.{field}{list(place)}", with_op(graph, node.name, op)


def evolved(graph: Graph, kind, **fields: Callable) -> Iterator[Wrong]:
    """Fields of ops, each made of the op by a function."""
    for node in graph.match(kind):
        for field, make in fields.items():
            try:
                op = attrs.evolve(node.op, **{field: make(node.op)})
            except (CompileError, ZeroDivisionError):
                continue
            if field == "bias" and node.op.bias is None:
                continue  # nothing is wrong then
            yield f"{node.name}.{field}", with_op(graph, node.name, op)


def weights(graph: Graph) -> Iterator[Wrong]:
    yield from changed(graph, "weight", lambda w: w * (1 + 1e-6), Weighted)
    yield from changed(graph, "weight", lambda w: 0.0, Weighted)
    yield from changed(graph, "weight", np.negative, Weighted)
    yield from changed(graph, "weight", lambda w: np.nan, Weighted)


def biases(graph: Graph) -> Iterator[Wrong]:
    yield from changed(graph, "bias", lambda b: b * (1 + 1e-6), Weighted)
    yield from changed(graph, "bias", lambda b: b + 1e-8, Weighted)
    yield from evolved(graph, Weighted, bias=lambda op: None)
    yield from evolved(graph, Weighted, bias=lambda op: np.full(op.out_features, np.nan))


def channels(graph: Graph) -> Iterator[Wrong]:
    """Dead ones, two in each other's place, and weights in another dtype."""

    def rows(op, order):
        return op.weight[order + list(range(len(order), len(op.weight)))]

    def dead(op):
        weight = op.weight.copy()
        weight[-1] = 0
        return weight

    for node in graph.match(Weighted):
        made = {
            "dead": dead(node.op),
            "swapped": rows(node.op, [1, 0]),
            "float32": node.op.weight.astype(np.float32).astype(np.float64),
            "float16": node.op.weight.astype(np.float16),
            "mirrored": node.op.weight[..., ::-1],
        }
        for label, weight in made.items():
            if not np.array_equal(weight, node.op.weight):
                yield f"{node.name} {label}", with_op(graph, node.name, attrs.evolve(node.op, weight=weight))


def norms(graph: Graph) -> Iterator[Wrong]:
    for field in ("weight", "bias", "mean", "var"):
        yield from changed(graph, field, lambda value: value * (1 + 1e-6), BatchNorm)
    yield from evolved(graph, BatchNorm, eps=lambda op: 0.0)


def windows(graph: Graph) -> Iterator[Wrong]:
    """At the border only, by one cell, or with another divisor."""

    def moved(op):
        return [(a + 1, b - 1) for a, b in op.padding]

    yield from evolved(graph, Conv, padding=moved, dilation=lambda op: [2 if k > 1 else 1 / 0 for k in op.kernel])
    yield from evolved(graph, (AvgPool, SumPool), kernel=lambda op: [op.kernel[0], op.kernel[1] - 1])
    yield from evolved(graph, Pad, mode=lambda op: "replicate", padding=lambda op: [pair[::-1] for pair in op.padding])
    yield from evolved(graph, MaxPool, kernel=lambda op: [1, 2], dilation=lambda op: [1, 3])
    for node in graph.match(CountingMaxPool):
        pool = attrs.evolve(node.op.pool, kernel=(1, 2))
        yield f"{node.name}.kernel", with_op(graph, node.name, attrs.evolve(node.op, pool=pool))
    for node in graph.match((AvgPool, SumPool)):
        for slot in range(len(graph.users(node.name))):
            other = graph.copy()
            user, place = other.users(node.name)[slot]
            other.insert_before(user, place, Pad(((1, -1), (0, 0))), new="off_by_one")
            yield f"{node.name} off by one for {user}", other


def activations(graph: Graph) -> Iterator[Wrong]:
    yield from evolved(graph, Relu, cap=lambda op: (op.cap or 1.0) * (1 + 1e-6))
    yield from changed(graph, "slope", lambda slope: slope * (1 + 1e-6), LeakyRelu)
    yield from evolved(graph, Clamp, low=lambda op: op.low - 1e-6, high=lambda op: None)
    for node in [*graph.match(Input), *graph.match(Weighted), *graph.match(BatchNorm), *graph.match(Add)]:
        if not graph.is_spiking:
            other = graph.copy()
            other.insert_after(node.name, Relu(), new="added")
            readers = [other[user] for user, _ in graph.users(node.name)]
            if not all(isinstance(op, (Relu, BatchNorm)) for op in readers):  # which may hide it for good
                yield f"relu added behind {node.name}", other
    for node in graph.match((Relu, LeakyRelu, Clamp)):
        other = graph.copy()
        other.bypass(node.name, "wrong")
        yield f"{node.name} dropped", other


def neurons(graph: Graph) -> Iterator[Wrong]:
    for field in ("v_threshold", "tau", "decay", "decay_syn", "gain"):
        yield from changed(graph, field, lambda value: value * (1 + 1e-6), Neuron)
    yield from evolved(
        graph,
        Neuron,
        v_init=lambda op: op.v_init + 1e-6,
        v_reset=lambda op: np.zeros(()) if op.v_reset is None else None,
        strict=lambda op: not op.strict,
    )
    yield from evolved(graph, (LIF, CubaLIF), reset_at=lambda op: "next", v_leak=lambda op: op.v_leak + 1e-6)
    yield from changed(graph, "currents", lambda value: value + 1e-6, Stream)
    yield from changed(graph, "factor", lambda value: value * (1 + 1e-6), Rescale)
    for node in graph.match(Neuron):
        v_threshold = node.op.v_threshold * np.ones(graph.type(node.name).shape)
        for place in places(v_threshold.shape):
            one = v_threshold.copy()
            one[place] *= 1 + 1e-6
            yield (
                f"{node.name}.v_threshold at {place}",
                with_op(graph, node.name, attrs.evolve(node.op, v_threshold=one)),
            )


def wiring(graph: Graph) -> Iterator[Wrong]:
    for node in [*graph.match(Add), *graph.match(Concat)]:
        operands = graph.operands(node.name)
        orders = [operands[:-1], operands[:1] * len(operands)]
        if isinstance(node.op, Concat):
            orders.append(operands[::-1])
        for order in orders:
            other = graph.copy()
            other.set_operands(node.name, *order)
            yield f"{node.name} of {', '.join(order)}", other
    for node in graph.match(Flatten):
        shape = graph.type(graph.operands(node.name)[0]).shape
        if len(shape) == 3:
            other = graph.copy()
            other.insert_before(node.name, 0, Permute((0, 2, 1)), new="turned")
            yield f"{node.name} of other axes", other
    for node in graph.match(Permute):
        other = graph.copy()
        other.bypass(node.name, "wrong")
        yield f"{node.name} dropped", other
    if len(graph.outputs) > 1:
        other = graph.copy()
        (a,), (b,) = (other.operands(name) for name in other.outputs)
        other.set_operands(other.outputs[0], b)
        other.set_operands(other.outputs[1], a)
        yield "outputs swapped", other
    for node in graph.match(Input):
        dtype = "float32" if node.op.dtype == "float64" else "float64"
        yield "another dtype", with_op(graph, node.name, attrs.evolve(node.op, dtype=dtype))


GRAPHS = {
    "cnn": (cnn, IMPORTED),
    "functions": (functions, IMPORTED),
    "spiking": (spiking, SPIKING),
    "leaky": (leaky, RECEIVED),
}
#: of which only parts are run, as if they were larger yet
LARGE = {name: GRAPHS[name] for name in ("functions", "spiking", "leaky")} | {
    "wide": (wide, IMPORTED),
    "wide_spiking": (wide_spiking, SPIKING),
}
KINDS = (weights, biases, channels, norms, windows, activations, neurons, wiring)


def caught(before: Graph, after: Graph, xs, stage) -> bool:
    """Whether the verifier or the contract check refuses it, which is what follows a pass, in that order."""
    try:
        verify(after, stage, before=before)
        check_exact(before, after, xs)
    except CompileError:
        return True
    return False


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=[pytest.mark.slow] * (name != "functions")) for name in GRAPHS],
)
def planted_in(request):
    make, stage = GRAPHS[request.param]
    graph = make()
    xs = probe(graph, [X] if graph.type(graph.inputs[0]).shape == X.shape[1:] else None, 0)
    return graph, xs, stage


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_wrong_pass_is_caught(planted_in, kind):
    graph, xs, stage = planted_in
    assert not caught(graph, graph.copy(), xs, stage)
    results = [(label, caught(graph, other, xs, stage)) for label, other in kind(graph)]
    print(f"{kind.__name__}: {sum(seen for _, seen in results)} of {len(results)} caught")
    assert [label for label, seen in results if not seen] == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LARGE)
def test_a_large_graph_of_which_only_parts_are_run_hides_none(name, kind, monkeypatch):
    make, stage = LARGE[name]
    graph = make()
    monkeypatch.setattr(probes, "WORK", 1)
    assert check_exact(graph, graph.copy(), probe(graph, None, 0)) == PART
    missed = [label for label, other in kind(graph) if not caught(graph, other, probe(graph, None, 0), stage)]
    assert missed == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["conv1", "conv3", "fc1", "fc2"])
@pytest.mark.parametrize("verify_as", ["each", "end"])
def test_a_rate_pass_that_changes_a_weight_is_caught(name, verify_as):
    """Its neurons are right, and the network's error is larger than what is wrong; so the parts between them tell."""
    spoilt = name

    @attrs.frozen
    class Careless(Pass):
        name = "careless"
        contract = "rate"
        needs = (SPIKING,)

        def run(self, graph, context):
            op = graph[spoilt]
            weight = op.weight.copy()
            weight.flat[0] *= 1 + 1e-6
            graph.set_op(spoilt, attrs.evolve(op, weight=weight))
            return 1

    order = Pipeline.default(build.GraphTarget()).insert_after("relu-to-if", Careless())
    with pytest.raises(spikec.VerificationError, match="is given other numbers than before"):
        Compiler(build.GraphTarget(), calibration=X, pipeline=order, verify=verify_as).run(cnn())


def test_a_rewrite_that_is_right_passes():
    """Axes of a square map in another order, one activation for two that are the same, one behind another dropped."""
    b = build.Builder(2, 5, 5)
    turned = b.relu(b.add(Permute((0, 2, 1)), b.x, name="turn"), "relu1")
    again = b.add(LeakyRelu(np.full((1, 1, 1), 0.3)), turned, name="leaky")
    back = b.conv(b.add(Permute((0, 2, 1)), again, name="back"), 3, "conv")
    twins = [b.relu(back, "relu2"), b.relu(b.relu(back, "twin"), "same")]
    before = b.done(b.linear(b.add(Flatten(), b.add(Concat(), *twins, name="cat"), name="flatten"), 3, "fc"))
    after = before.copy()
    after.bypass("turn", "turned back")
    after.bypass("back", "turned back")
    after.bypass("same", "the same")
    after.replace_uses("twin", "relu2")
    after.remove("twin", "the same")
    assert check_exact(before, after, probe(before, None, 0)) < 1e-12
    after.set_op("conv", attrs.evolve(before["conv"], weight=before["conv"].weight[:, ::-1]))
    with pytest.raises(CompileError):
        check_parts(before, after, probe(before, None, 0))


@pytest.mark.slow
@pytest.mark.parametrize("samples", [1, 4])
def test_what_has_no_value_is_no_difference(samples, monkeypatch):
    """A root of a random number may be NaN, in both graphs: that is no fault, and no cover for one around it."""
    before = roots()
    xs = probe(before, None, 0)
    monkeypatch.setattr("spikec.interpreter.parts.affordable", lambda graph: samples * STEPS)
    after = before.copy()
    pass_named("canonicalize-activations").run(after, spikec.Context(after))
    check_parts(before, after, xs)
    for kind in (weights, biases, channels):
        missed = [label for label, other in kind(after) if not caught(before, other, xs, IMPORTED)]
        assert missed == []


def test_parts_that_a_pass_has_not_touched_are_not_run(monkeypatch):
    before = cnn()
    after = with_op(before, "fc2", attrs.evolve(before["fc2"], weight=before["fc2"].weight.copy()))
    xs, ran = probe(before, [X], 0), []
    monkeypatch.setattr(Conv, "eval", lambda self, x: ran.append(self))
    check_parts(before, after, xs)
    assert not ran


def test_maps_of_a_large_graph_are_compared_at_a_quarter_of_their_sides(monkeypatch):
    before = wide_spiking()
    after = before.copy()
    for name in ("conv2", "conv3"):
        after.set_op(name, attrs.evolve(before[name], weight=before[name].weight.copy()))
    xs, shapes = probe(before, None, 0), []
    run = Conv.eval
    monkeypatch.setattr(probes, "WORK", 1)
    monkeypatch.setattr(Conv, "eval", lambda self, x: shapes.append(tuple(x.shape)) or run(self, x))
    check_parts(before, after, xs)
    # of both graphs; what neurons are given that differ from cell to cell is compared on maps of their own size
    assert shapes == [(1, 4, 4, 5)] * 2 + [(1, 4, 16, 20)] * 2


def test_an_op_that_takes_maps_of_one_size_only_is_compared_on_those(monkeypatch):
    class OneSize(spikec.Op):
        role = spikec.Role.LINEAR

        def infer(self, *operands):
            if operands[0].shape[1:] != (16, 16):
                raise RuntimeError("another size")
            return operands[0]

        def eval(self, x):
            return 2 * x

    b = build.Builder(1, 16, 16)
    scaled = b.add(OneSize(), b.conv(b.relu(b.x, "relu1"), 2, "conv", (3, 3), (1, 1)), name="scaled")
    before = b.done(b.relu(scaled, "relu2"))
    monkeypatch.setattr(probes, "WORK", 1)
    same, wrong = (
        with_op(before, "conv", attrs.evolve(before["conv"], weight=before["conv"].weight * gain)) for gain in (1, 1.01)
    )
    check_parts(before, same, probe(before, None, 0))
    with pytest.raises(CompileError):
        check_parts(before, wrong, probe(before, None, 0))


def test_a_rewrite_that_is_right_only_for_a_map_of_its_size_passes(monkeypatch):
    """With 20 columns no window of stride 2 reaches the padding behind them; with 5 columns one does."""
    b = build.Builder(1, 20, 20)
    before = b.done(b.relu(b.conv(b.relu(b.x, "relu1"), 2, "conv", (3, 3), (1, 1), stride=(2, 2)), "relu2"))
    after = with_op(before, "conv", attrs.evolve(before["conv"], padding=((1, 0), (1, 0))))
    monkeypatch.setattr(probes, "WORK", 1)
    check_parts(before, after, probe(before, None, 0))


def test_parts_are_compared_one_after_the_other_and_let_go_of(monkeypatch):
    b = build.Builder(2, 5, 5)
    x = b.x
    for i in range(20):
        x = b.relu(b.conv(x, 2, f"conv{i}"), f"relu{i}")
    before = b.done(x)
    after = before.copy()
    for i in range(20):
        after.set_op(f"conv{i}", attrs.evolve(before[f"conv{i}"], weight=before[f"conv{i}"].weight.copy()))
    xs, alive, computed = probe(before, None, 0), [], []
    value = Cut.value

    def watched(self, *args):
        found = value(self, *args)
        computed.append(weakref.ref(found))
        alive.append(sum(each() is not None for each in computed))
        return found

    monkeypatch.setattr(Cut, "value", watched)
    check_parts(before, after, xs)
    assert len(computed) >= 80
    assert max(alive) <= 8


def test_what_is_not_finite_is_not_the_same():
    one = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    assert agree(one, one.clone())
    for odd in (float("nan"), float("inf")):
        assert not agree(one.clamp(max=1) + torch.tensor([[0.0, odd]]), one.clamp(max=1) + torch.tensor([[0.0, odd]]))
