"""What no node of NIR says, or a reader of it has not: each limit by an op that nothing but this limit refuses."""

import attrs
import nir
import numpy as np
import pytest

import spikec
from spikec.backends.nir.backend import Nir
from spikec.ir.ops import IF, LIF, CubaLIF, Delay, Input, Integrator, Linear, Output

ONE, ZERO, HALF = np.ones(1), np.zeros(1), np.full(1, 0.5)
SOME = np.array([1.0, 0.5, 0.5])


def graph(*ops):
    g = spikec.Graph("limits")
    x = g.add(Input((3,), "float64", rate=True), name="x")
    for i, op in enumerate(ops):
        x = g.add(op, g.add(Linear(np.eye(3), np.zeros(3)), x), name=f"n{i}")
    g.add(Output(), x, name="output")
    return g


def above(op):
    """The op as the readers of these profiles have it: it fires above its threshold, and not at it."""
    return attrs.evolve(op, strict=True) if hasattr(op, "strict") else op


@pytest.mark.parametrize(
    ("profile", "op", "message"),
    [
        ("portable", LIF(ONE, ZERO, tau=np.array([np.inf, 3, 3]), gain=ONE), "some neurons of a layer leak"),
        ("portable", CubaLIF(ONE, ZERO, decay=ONE, decay_syn=HALF), "does not decay"),
        ("portable", CubaLIF(ONE, ZERO, decay=HALF, decay_syn=ONE), "does not decay"),
        ("full", Integrator(SOME), "some neurons of a layer leak"),
        ("norse", IF(ONE, HALF), "a if that resets to 0.5, where the reader's resets to 0"),
        ("snntorch", LIF(ONE, HALF, tau=np.full(1, 3.0), gain=ONE), "a lif that resets to 0.5"),
        ("norse", LIF(ONE, ZERO, tau=np.full(1, 3.0), gain=HALF), "a lif whose gain is not its leak"),
    ],
)
def test_an_op_that_a_file_for_a_reader_cannot_say(profile, op, message):
    problems = Nir(profile=profile).check(graph(above(op)))
    assert [message in problem.message for problem in problems] == [True]
    assert problems[0].op.startswith("%n0")
    assert problems[0].hint


def recurrent(bias):
    """A LIF whose spikes come back through weights, a step late behind them."""
    g = spikec.Graph("recurrent")
    x = g.add(Linear(np.eye(3), np.zeros(3)), g.add(Input((3,), "float64", rate=True), name="x"))
    lif = LIF(ONE, ZERO, tau=np.full(1, 3.0), strict=True)
    back = Linear(np.full((3, 3), 0.25), np.full(3, bias))
    late = g.add(Delay(back.infer(lif.infer(g.type(x)))), name="late")
    n = g.add(lif, g.add(spikec.ir.ops.Add(), x, late), name="n")
    g.set_operands(late, g.add(back, n, name="back"))
    g.add(Output(), n, name="output")
    return g


def test_only_spikes_on_their_way_back_may_be_late():
    """Readers take that step by themselves, and no other; what comes of a bias then they disagree about."""
    assert Nir().check(recurrent(0.0)) == []
    (problem,) = Nir().check(recurrent(0.5))
    assert "a delay that does not lead spikes of neurons back to them" in problem.message
    ahead = spikec.Graph("ahead")
    n = ahead.add(IF(ONE, ZERO, strict=True), ahead.add(Input((3,), "float64", rate=True), name="x"))
    late = ahead.add(Delay(ahead.type(n)), n, name="late")
    ahead.add(Output(), ahead.add(Linear(np.eye(3), np.zeros(3)), late), name="output")
    (problem,) = Nir().check(ahead)
    assert "a delay that does not lead spikes of neurons back to them" in problem.message


def test_a_reader_without_recurrence_is_written_none():
    for profile in ("snntorch", "sinabs", "rockpool"):
        said = [problem.message for problem in Nir(profile=profile).check(recurrent(0.0))]
        assert f"{profile} does not read a recurrent layer" in said
    assert Nir(profile="norse").check(recurrent(0.0)) == []
    assert isinstance(spikec.compile(recurrent(0.0), "nir", profile="norse"), nir.NIRGraph)
