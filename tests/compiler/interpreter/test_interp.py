import numpy as np
import pytest
import torch

import build
from spikec import CompileError, Compiler, Graph, InvalidModelError, TypeMismatchError, run
from spikec.interpreter.results import as_tuple
from spikec.ir.ops import IF, Add, Delay, Flatten, Input, Linear, Output, Relu, Rescale, Reshape


def neuron(op, shape=(3,)):
    g = Graph()
    x = g.add(Input(shape, "float64", rate=True))
    g.add(Output(), g.add(op, x, name="if"))
    return g


def loop(currents, threshold, reset, v, strict):
    """The equations of integrate-and-fire, one neuron at a time."""
    trains = []
    for current in currents.reshape(len(currents), -1).T:
        potential, train = v, []
        for z in current:
            potential += z
            fired = potential > threshold if strict else potential >= threshold
            if fired:
                potential = potential - threshold if reset is None else reset
            train.append(float(fired))
        trains.append(train)
    return np.array(trains).T.reshape(currents.shape)


@pytest.mark.parametrize("reset", [None, 0.0, -0.25])
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("v_init", [0.0, 0.5, -1.0])
def test_if_is_its_equation(reset, strict, v_init):
    rng = np.random.default_rng(1)
    currents = rng.integers(-2, 4, size=(40, 2, 3)) / 4  # quarters: ties happen
    op = IF(np.ones(1), v_init=np.array(v_init), v_reset=None if reset is None else np.array(reset), strict=strict)
    found = run(neuron(op), torch.tensor(currents)).numpy()
    np.testing.assert_array_equal(found, loop(currents, 1.0, reset, v_init, strict))
    assert 0.05 < found.mean() < 0.6


def test_the_rate_under_constant_current_is_the_closed_form():
    """N(T) = clip(floor((T z + v_init) / threshold), 0, T), Bu et al. 2022, eq. 5."""
    z = torch.linspace(-0.5, 2.5, 301, dtype=torch.float64)[:, None] + 1e-4 * np.pi
    steps, threshold, v_init = 13, 0.75, 0.31
    op = IF(np.array([threshold]), v_init=np.array([v_init]))
    count = run(neuron(op, (1,)), z, steps).sum(0)
    assert torch.equal(count, ((steps * z + v_init) / threshold).floor().clamp(0, steps))


def test_membrane_identity_holds_for_any_input():
    """rate = mean input - (v(T) - v(0)) / T."""
    currents = torch.rand(50, 4, 3, dtype=torch.float64) * 2 - 0.5
    states = []
    g = neuron(IF(np.ones(1), v_init=np.array([0.5])))

    def tap(name, value, state, operands):
        if name == "if":
            states.append(state + operands[0] - value)

    out = run(g, currents, tap=tap)
    torch.testing.assert_close(out.mean(0), currents.mean(0) - (states[-1] - 0.5) / 50, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_constant_and_time_major_input_agree():
    c = Compiler(build.GraphTarget(), calibration=torch.rand(40, 2, 8, 6)).run(build.residual())
    x = torch.rand(3, 2, 8, 6, dtype=torch.float64)
    constant = run(c.graph, x, 9)
    assert torch.equal(constant, run(c.graph, x.expand(9, *x.shape)))
    assert constant.shape == (9, 3, 5)


def delayed(shape=(3,)):
    """x behind a register."""
    g = Graph()
    x = g.add(Input(shape, "float64", rate=True))
    g.add(Output(), g.add(Delay(g.type(x)), x, name="register"))
    return g


@pytest.mark.parametrize("constant", [False, True])
def test_a_register_gives_what_it_was_fed_one_step_before(constant):
    x = torch.rand(6, 2, 3, dtype=torch.float64)
    found = run(delayed(), x[0], 6) if constant else run(delayed(), x)
    fed = x[:1].expand(6, 2, 3) if constant else x
    assert torch.equal(found, torch.cat([torch.zeros(1, 2, 3), fed[:-1]]))


@pytest.mark.parametrize("constant", [False, True])
def test_a_loop_through_a_register_is_its_equation(constant):
    """A neuron that is fed half of its own last spike, the register being read before it is written."""
    g = Graph()
    x = g.add(Input((3,), "float64", rate=True))
    register = g.add(Delay(g.type(x)), x)
    total = g.add(Add(), x, g.add(Linear(0.5 * np.eye(3)), register))
    spikes = g.add(IF(np.ones(1)), total)
    g.set_operands(register, spikes)
    g.add(Output(), spikes)
    currents = torch.rand(12, 4, 3, dtype=torch.float64)
    found = run(g, currents[0], 12) if constant else run(g, currents)
    potential, last, wanted = np.zeros((4, 3)), np.zeros((4, 3)), []
    for t in range(12):
        potential = potential + currents[0 if constant else t].numpy() + 0.5 * last
        last = (potential >= 1).astype(float)
        potential = potential - last
        wanted.append(last)
    np.testing.assert_array_equal(found.numpy(), np.array(wanted))
    assert 0.3 < np.mean(wanted) < 0.95


def two_inputs():
    g = Graph()
    g.add(Output(), g.add(Add(), g.add(Input((3,))), g.add(Input((3,)))))
    return g


def test_wrong_calls():
    ann, snn = build.mlp(), neuron(IF(np.ones(1)))
    with pytest.raises(InvalidModelError, match="timesteps"):
        run(ann, torch.rand(2, 6, dtype=torch.float64), 3)
    for wrong in (0, -1, 2.5, True):
        with pytest.raises(CompileError, match="timesteps is"):
            run(snn, torch.rand(2, 3, dtype=torch.float64), wrong)
    with pytest.raises(InvalidModelError, match="int64"):
        run(snn, torch.ones(2, 3, dtype=torch.int64), 4)
    with pytest.raises(InvalidModelError, match="not a Graph"):
        run(torch.nn.Linear(2, 2), torch.rand(2, 2))
    with pytest.raises(InvalidModelError, match="dict"):
        run(ann, {"x": torch.rand(2, 6)})
    with pytest.raises(InvalidModelError, match="differ in batch size"):
        run(two_inputs(), [torch.rand(2, 3), torch.rand(4, 3)])
    with pytest.raises(InvalidModelError, match="1 input"):
        run(ann, [torch.rand(2, 6)] * 2)
    with pytest.raises(TypeMismatchError, match=r"the input is \[B, 6\], got \[2, 7\]"):
        run(ann, torch.rand(2, 7))
    with pytest.raises(TypeMismatchError, match="the input is"):
        run(snn, torch.rand(2, 3), None)


def test_values_are_let_go_of_and_overwritten_only_where_nobody_sees_it():
    graph, x = build.residual(), torch.rand(4, 2, 8, 6, dtype=torch.float64)
    every, some = {}, {}
    plain = run(graph, x, tap=lambda name, value, *_: every.setdefault(name, value.clone()))
    given = x.clone()
    watched = ["conv1", "relu3", "add"]
    again = run(graph, x, tap=lambda name, value, *_: some.setdefault(name, value), nodes=watched)
    assert torch.equal(plain, again)
    assert torch.equal(x, given)
    assert sorted(some) == sorted(watched)
    assert all(torch.equal(some[name], every[name]) for name in watched)


@pytest.mark.parametrize("op", [IF(np.ones(1)), Rescale(np.full(1, 2.0))], ids=lambda op: op.kind)
def test_a_current_that_another_node_has_a_view_of_is_not_overwritten(op):
    """The neuron, or the cast, comes in between: it is the last to read the current, and the view is read later."""
    g, weight = Graph(), np.random.default_rng(0).normal(size=(4, 4))
    x = g.add(Input((4,), "float64", rate=True))
    current = g.add(Linear(weight), x)
    view = g.add(Reshape((2, 2)), current)
    g.add(Output(), g.add(op, current))
    g.add(Output(), g.add(Flatten(0, -1), view))
    xs = torch.rand(5, 3, 4, dtype=torch.float64)
    assert np.allclose(run(g, xs)[1].numpy(), xs.numpy() @ weight.T, rtol=1e-12, atol=0)


def test_nodes_of_a_spiking_graph():
    b = build.Builder(3)
    spikes = b.add(IF(np.ones(1)), b.x, name="if")
    seen = []
    run(b.done(spikes), torch.rand(2, 3, dtype=torch.float64), 3, tap=lambda name, *_: seen.append(name), nodes=["if"])
    assert seen == ["if"] * 3


def branching(b, kind):
    """conv -> ReLU, and perhaps the conv's result is read by something else too, or through a view."""
    y = b.conv(b.x, 2, "y", kernel=(3, 3), padding=(1, 1))
    view = b.add(Flatten(), y, name="view") if kind == "view" else None
    r = b.relu(y, "r")
    if kind == "sum":
        r = b.add(Add(), r, y, name="sum")
    last = b.linear(b.add(Flatten(), r, name="flat"), 3, "last")
    return b.done(last, *([view] if view else []))


@pytest.mark.parametrize("kind", ["chain", "sum", "view"])
@pytest.mark.parametrize("watched", [[], ["r"], ["y"], ["flat", "view"]])
def test_a_relu_overwrites_a_value_only_where_nobody_else_sees_it(kind, watched, monkeypatch):
    graph = branching(build.Builder(2, 4, 4), kind)
    watched = [name for name in watched if name in graph]
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    plain = {}
    wanted = run(graph, x, tap=lambda name, value, *_: plain.setdefault(name, value))
    assert torch.equal(plain["r"], plain["y"].clamp(min=0))
    assert not torch.equal(plain["r"], plain["y"])
    over, seen = [], {}
    monkeypatch.setattr(Relu, "eval_over", lambda op, x: over.append(0) or x.clamp_(min=0))
    found = run(graph, x, tap=lambda name, value, *_: seen.setdefault(name, value), nodes=watched)
    assert bool(over) == (kind == "chain" and "y" not in watched)
    assert seen.keys() == set(watched)
    for a, b in zip([*as_tuple(found), *seen.values()], [*as_tuple(wanted), *(plain[x] for x in seen)], strict=True):
        assert torch.equal(a, b)


def test_an_input_that_is_not_finite_is_refused():
    for wrong in (float("nan"), float("inf")):
        with pytest.raises(InvalidModelError, match="NaN or infinity"):
            run(build.mlp(), torch.full((2, 6), wrong))
