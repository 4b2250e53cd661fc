"""Fields and metadata of a NIR graph that make no sense, each alone in a graph that is right otherwise."""

import h5py
import nir
import numpy as np
import pytest
import torch

import spikec

DT = 1e-4


def small():
    nodes = {
        "input": nir.Input(np.array([2, 6])),
        "conv": nir.Conv1d(6, np.ones((2, 2, 3)), 1, 1, 1, 1, np.zeros(2)),
        "n": nir.IF(np.ones((2, 6)), np.ones((2, 6))),
        "output": nir.Output(np.array([2, 6])),
    }
    edges = [("input", "conv"), ("conv", "n"), ("n", "output")]
    return nir.NIRGraph(nodes, edges, metadata={"reset": "subtract"}, type_check=False)


@pytest.mark.parametrize(
    ("node", "field", "value", "message"),
    [
        ("conv", "groups", np.array([1, 1]), r"its groups are \[1, 1\], and must be one number"),
        ("n", "metadata", "soft", "its metadata are no table of names and values"),
        ("", "dt", np.array([DT, DT]), "its metadata dt is no single number"),
        ("", "reset", "half", "its metadata reset is 'half'"),
        ("", "reset", 1.0, "its metadata reset is 1"),
        ("n", "fire", ">>", "its metadata fire is '>>'"),
        ("", "integrator", "heun", "its metadata integrator is 'heun'"),
    ],
)
def test_a_field_that_makes_no_sense(node, field, value, message):
    source = small()
    spikec.load(source)
    if node and hasattr(source.nodes[node], field):
        setattr(source.nodes[node], field, value)
    else:
        (source.nodes[node] if node else source).metadata[field] = value
    with pytest.raises(spikec.InvalidModelError, match=message) as error:
        spikec.load(source)
    assert [problem.location for problem in error.value.problems] == [node]


@pytest.mark.slow
@pytest.mark.parametrize("edges", [np.arange(4).reshape(2, 2), np.array([["input", "conv", "n"]], dtype="S")])
def test_edges_of_a_file_that_are_no_pairs_of_names(edges, tmp_path):
    nir.write(tmp_path / "x.nir", small())
    spikec.load(tmp_path / "x.nir")
    with h5py.File(tmp_path / "x.nir", "r+") as file:
        del file["node/edges"]
        file["node/edges"] = edges
    with pytest.raises(spikec.InvalidModelError, match="node/edges are no pairs of names"):
        spikec.load(tmp_path / "x.nir")


def test_a_signal_on_the_way_back_whose_shape_nothing_says():
    """It is there at step 0, before its source has given anything: the source's parameters must say it."""
    source = small()
    source.nodes["back"] = nir.Conv1d(6, np.ones((2, 2, 3)) / 8, 1, 1, 1, 1, np.zeros(2))
    source.edges += [("n", "back"), ("back", "n")]
    spikec.load(source)
    source.nodes["n"] = nir.IF(np.ones(()), np.ones(()), np.zeros(()))
    with pytest.raises(spikec.UnsupportedOpError, match="the shape of a signal on the way back is not known") as error:
        spikec.load(source)
    assert error.value.location == "n"
    assert "one number for each neuron" in error.value.hint


N = 4


def full(**values):
    return {name: np.full(N, value) for name, value in values.items()}


def lone(neuron):
    nodes = {"input": nir.Input(np.array([N])), "n": neuron, "output": nir.Output(np.array([N]))}
    return nir.NIRGraph(nodes, [("input", "n"), ("n", "output")], type_check=False)


def neuron(kind, dt):
    """One that every tool takes that has it: r dt of an IF is 1, the gains of a CubaLIF too."""
    ends = full(v_threshold=0.5, v_reset=0.0)
    rest = full(v_leak=0.0)
    timed = full(tau_syn=3 * dt, tau_mem=5 * dt, r=5.0, w_in=3.0)
    return {
        "I": lambda: nir.I(**full(r=1.0)),
        "IF": lambda: nir.IF(**full(r=1 / dt), **ends),
        "LI": lambda: nir.LI(**full(tau=4 * dt, r=4.0), **rest),
        "LIF": lambda: nir.LIF(**full(tau=4 * dt, r=4.0), **rest, **ends),
        "CubaLI": lambda: nir.CubaLI(**timed, **rest),
        "CubaLIF": lambda: nir.CubaLIF(**timed, **rest, **ends),
    }[kind]()


#: what a tool takes one number of, by (tool, node, dt), as it says itself when it is given several
ONE_NUMBER = {
    ("spikingjelly", "IF", DT): "r v_threshold v_reset",
    ("spikingjelly", "LIF", DT): "tau r v_threshold v_reset v_leak",
    ("spikingjelly", "CubaLIF", DT): "tau_syn tau_mem r w_in v_threshold v_reset v_leak",
    ("snntorch", "IF", 1.0): "r v_threshold",
    ("snntorch", "LIF", DT): "v_threshold",
    ("snntorch", "CubaLIF", DT): "v_threshold",
    ("snn-mlir", "I", 1.0): "r",
    ("snn-mlir", "IF", 1.0): "r v_threshold v_reset",
    ("snn-mlir", "LI", 1.0): "tau r",
    ("snn-mlir", "LIF", 1.0): "tau r v_threshold v_reset",
    ("snn-mlir", "CubaLI", 1.0): "tau_syn tau_mem r",
    ("snn-mlir", "CubaLIF", 1.0): "tau_syn tau_mem r v_threshold",
}


@pytest.mark.parametrize(
    ("reader", "kind", "dt", "field"), [(*key, field) for key, fields in ONE_NUMBER.items() for field in fields.split()]
)
def test_a_parameter_of_which_a_tool_takes_one_number(reader, kind, dt, field):
    spikec.load(lone(neuron(kind, dt)), reader=reader)
    several = neuron(kind, dt)
    getattr(several, field)[1] += dt
    with pytest.raises(spikec.UnsupportedOpError, match=f"{kind} whose {field} differs from neuron to neuron") as error:
        spikec.load(lone(several), reader=reader)
    assert error.value.location == "n"


def test_a_gain_of_one_neuron_is_a_threshold_of_its_own_in_snntorch():
    several = neuron("CubaLIF", DT)
    several.w_in[1] *= 2
    with pytest.raises(spikec.UnsupportedOpError, match="CubaLIF whose v_threshold differs from neuron to neuron"):
        spikec.load(lone(several), reader="snntorch")


def test_a_reset_by_subtraction_that_the_user_states_is_one_whatever_v_reset_is():
    stored = lone(nir.LIF(**full(tau=4e-4, r=4.0, v_leak=0.0, v_threshold=0.5, v_reset=-0.25)))
    assert spikec.load(stored, dt=DT, reset="value")["n"].v_reset.item() == -0.25
    soft = spikec.load(stored, dt=DT, reset="subtract")["n"]
    assert (soft.v_reset, soft.reset_at) == (None, "spike")
    late = spikec.load(stored, reset="subtract", reader="snntorch")["n"]
    assert (late.v_reset, late.reset_at) == (None, "next")  # its Leaky(reset_delay=True), the default


@pytest.mark.parametrize(
    ("behind", "shape"),
    [
        ([nir.IF(**full(r=1.0, v_threshold=1.0)), nir.Affine(np.eye(N), np.zeros(N))], (N,)),
        ([nir.Flatten({"input": np.array([1, 1, N])}, 0, -1), nir.Affine(np.eye(N), np.zeros(N))], (1, 1, N)),
    ],
    ids=["neurons keep axes", "a Flatten takes any"],
)
def test_axes_for_the_batch_are_known_by_the_first_node_that_takes_only_so_many(behind, shape):
    source = nir.NIRGraph.from_list(
        nir.Input(np.array([1, 1, N])), *behind, nir.Output(np.array([N])), type_check=False
    )
    loaded = spikec.load(source, reset="value")
    assert loaded.type(loaded.inputs[0]).shape == shape
    assert loaded.type(loaded.outputs[0]).shape == (N,)


@pytest.mark.parametrize("reader", ["sinabs", "snn-mlir"])
def test_a_tool_that_counts_steps_does_so_whatever_they_last(reader):
    """The seconds of a step are kept for what is written of the graph then."""
    stored = lone(nir.LIF(**full(tau=4.0, r=4.0, v_leak=0.0, v_threshold=0.5, v_reset=0.0)))
    counted, timed = (spikec.load(stored, reader=reader, **options) for options in ({}, {"dt": DT}))
    x = np.random.default_rng(0).random((30, 2, N))
    spikes = [spikec.run(each, torch.tensor(x)) for each in (counted, timed)]
    assert spikes[0].any()
    assert torch.equal(*spikes)
    assert (counted.imported.dt, timed.imported.dt) == (None, DT)
