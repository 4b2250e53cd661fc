"""What a reader does otherwise than a file says: everything at once, in the file's own terms."""

import itertools
import warnings

import nir
import numpy as np
import pytest
import torch

import spikec
from spikec.ir.ops import IF, LIF, CubaLIF, Input, Linear, Output

DT = 1e-4
ONE = np.ones(1)


def full(size, **values):
    return {name: np.full(size, float(value)) for name, value in values.items()}


def integrate(size=4, r=1.0, threshold=1.0, reset=0.0):
    return nir.IF(**full(size, r=r, v_threshold=threshold, v_reset=reset))


def leaky(size=4, r=1.0, tau=1e-3, leak=0.0):
    return nir.LIF(**full(size, r=r, tau=tau, v_leak=leak, v_threshold=1, v_reset=0))


def chain(*nodes, shape=(4,), out=(4,), **metadata):
    named = {"input": nir.Input(np.array(shape)), **{f"n{i}": node for i, node in enumerate(nodes)}}
    named["output"] = nir.Output(np.array(out))
    names = list(named)
    edges = list(itertools.pairwise(names))
    return nir.NIRGraph(named, edges, metadata=metadata, type_check=False)


def affine(inputs=4, outputs=4):
    return nir.Affine(np.eye(outputs, inputs), np.zeros(outputs))


def found(graph, profile, **options):
    return {
        (problem.location, problem.message.split(": ", 1)[-1])
        for problem in spikec.check(graph, profile=profile, **options)
    }


def test_a_file_that_its_reader_runs_as_it_says_has_no_problem():
    assert (
        spikec.check(chain(affine(), integrate(r=1e4), reset="value", fire=">=", dt=DT), profile="spikingjelly") == []
    )
    assert spikec.check(chain(affine(), integrate(), reset="value", fire=">", dt=1.0), profile="norse") == []


def test_firing_and_reset():
    graph = chain(affine(), integrate(r=1e4), reset="subtract", fire=">", dt=DT)
    assert found(graph, "spikingjelly") == {
        ("n1", "it fires at v >= v_threshold, and not at v > v_threshold"),
        ("n1", "a spike resets the potential to v_reset, and not by subtraction"),
    }
    assert found(chain(affine(), integrate(), reset="value", fire=">=", dt=1.0), "sinabs") == {
        ("n1", "a spike resets the potential by subtraction, and not to v_reset"),
        ("n1", "a neuron fires as often in a step as its threshold goes into its potential, and not once"),
    }


def test_a_gain_that_is_ignored():
    (problem,) = spikec.check(chain(affine(), leaky(r=5.0), reset="value", fire=">", dt=DT), profile="norse")
    assert problem.location == "n1"
    assert "the gain of the input (r, w_in) is 0.1, and not 0.5" in problem.message


def test_a_time_constant_in_steps():
    graph = chain(affine(), leaky(r=1.0, tau=20.0), reset="subtract", fire=">=", dt=1.0)
    messages = [message for _, message in found(graph, "sinabs")]  # exp(-1/20) for 1 - 1/20, and a gain of 1
    assert any("0.951229, and not 0.95" in message for message in messages), messages
    assert any("(r, w_in) is 1, and not 0.05" in message for message in messages), messages


def test_all_that_is_refused_and_dropped_and_what_is_run_otherwise():
    conv = nir.Conv2d((6, 6), np.ones((2, 1, 3, 3)), 1, 0, 1, 1, np.zeros(2))
    pool = nir.AvgPool2d(kernel_size=np.array([2, 2]), stride=np.array([2, 2]), padding=np.array([0, 0]))
    flat = nir.Flatten({"input": np.array([2, 2, 2])}, 0, -1)
    graph = chain(
        conv, integrate((2, 4, 4)), pool, flat, affine(8), integrate(), shape=(1, 6, 6), reset="subtract", dt=1.0
    )
    problems = found(graph, "norse")
    where = [location for location, _ in problems]
    assert sorted(where) == ["n1", "n2", "n3", "n5"]
    assert any("leaves out a nir.AvgPool2d" in message for _, message in problems)
    assert any("takes the batch for that axis" in message for _, message in problems)


def test_a_graph_that_is_refused_as_a_whole_is_looked_at_all_the_same():
    nodes = {"a": nir.Input(np.array([4])), "b": nir.Input(np.array([4])), "n": affine(), "s": integrate()}
    nodes["output"] = nir.Output(np.array([4]))
    edges = [("a", "n"), ("b", "n"), ("n", "s"), ("s", "output")]
    graph = nir.NIRGraph(nodes, edges, metadata={"reset": "subtract", "fire": ">", "dt": DT}, type_check=False)
    messages = [message for _, message in found(graph, "spikingjelly")]
    assert any("refuses them" in message for message in messages)
    assert any("r != 1/dt" in message for message in messages)


def test_a_stranger_says_neither_dt_nor_reset_nor_how_it_fires():
    graph = chain(affine(), leaky(r=1.0))  # as norse writes it
    assert found(graph, "norse", dt=DT) == set()
    assert ("n1", "it fires at v >= v_threshold, and not at v > v_threshold") in found(graph, "spikingjelly")


def test_a_broken_file_is_told_as_such():
    graph = chain(affine(), integrate())
    graph.edges.append(("n1", "nowhere"))
    (problem,) = spikec.check(graph, profile="norse")
    assert "nowhere" in problem.message


def test_an_unknown_reader_is_refused():
    with pytest.raises(spikec.CompileError, match="there is no reader 'brian'") as error:
        spikec.check(chain(affine(), integrate()), profile="brian")
    assert "sinabs" in error.value.hint
    with pytest.raises(spikec.CompileError, match="nothing to check") as error:
        spikec.check(chain(affine(), integrate()))
    assert "profile" in error.value.hint


SEVERAL = "a neuron fires as often in a step as its threshold goes into its potential, and not once"


@pytest.mark.slow
@pytest.mark.parametrize(("profile", "op"), [
    ("rockpool", IF(ONE)), ("rockpool", LIF(ONE, tau=np.asarray(4.0), gain=ONE)),
    ("rockpool", CubaLIF(ONE, decay=ONE / 2, decay_syn=ONE / 3)), ("sinabs", LIF(ONE, tau=np.asarray(4.0), gain=ONE)),
])  # fmt: skip
def test_what_is_written_in_exponentials_is_read_so(profile, op):
    """The decays that these tools take are not Euler's; the file says so, and is no other network by itself."""
    g = spikec.Graph("net")
    x = g.add(Input((4,), "float64", rate=True), name="input")
    weights = g.add(Linear(np.diag([0.3, 0.6, 0.9, 0.2])), x)
    g.add(Output(), g.add(op, weights), name="output")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", spikec.SpikecWarning)
        written = spikec.compile(g, "nir", profile=profile)
        assert {message for _, message in found(written, profile)} <= {SEVERAL}
        train = torch.rand(40, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        ours, theirs = spikec.run(g, train), spikec.run(written, train)
    assert 0.05 < ours.mean() < 0.95
    assert torch.equal(ours, theirs)
    note = "what leaks decays exponentially, as the metadata say"
    assert note in spikec.load(written).imported.notes
