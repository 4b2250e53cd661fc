"""What a NIR graph does not say is said where it is read: which step and reset were used, and whether it matters."""

import itertools
import warnings

import h5py
import nir
import numpy as np
import pytest

import spikec

ONE = np.ones(3)


def chain(metadata=None, **nodes):
    nodes = {"input": nir.Input(np.array([3])), **nodes, "output": nir.Output(np.array([3]))}
    return nir.NIRGraph(nodes, list(itertools.pairwise(nodes)), metadata=metadata or {}, type_check=False)


def integrate(r=1.0, reset=0.0, threshold=1.0):
    return nir.IF(r=r * ONE, v_threshold=threshold * ONE, v_reset=reset * ONE)


def lif(r=1.0):
    return nir.LIF(tau=1e-2 * ONE, r=r * ONE, v_leak=0 * ONE, v_threshold=ONE, v_reset=0 * ONE)


def notes(graph, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", spikec.SpikecWarning)
        return spikec.load(graph, **options).imported.notes


@pytest.mark.parametrize(
    ("graph", "options", "expected"),
    [
        (chain(n=integrate()), {}, "the length of a step does not matter: nothing in this graph counts seconds"),
        (chain({"dt": 1e-3}, n=lif()), {}, "dt = 0.001 s a step, as the graph's metadata say"),
        (chain(n=lif()), {"dt": 1e-3}, "dt = 0.001 s a step, as you say"),
        (chain(n=lif(r=100.0)), {}, "dt = 0.0001 is what its gains imply; if so, say dt=0.0001"),
        (chain(n=lif()), {"reader": "norse"}, "dt = 0.001 s a step, as norse 1.1.0 has it"),
        (chain(n=lif()), {"reader": "norse"}, "read as norse 1.1.0 runs it"),
        (chain({"reset": "subtract"}, n=integrate()), {}, "reset by subtraction, as the metadata say"),
        (chain(n=integrate()), {"reset": "value"}, "reset to v_reset, as you say"),
        (chain(n=integrate(reset=-0.5)), {}, "reset to v_reset, which is not 0"),
        (chain(n=integrate(reset=-0.5), m=integrate()), {}, "reset of n to v_reset, which is not 0"),
        (chain(n=integrate()), {}, "the NIR graph stores v_reset = 0 and no reset mode: it is read as a reset to zero"),
        (chain(n=integrate(), m=lif()), {"dt": 1e-3}, "n with r = 1 counts steps, m seconds"),
        (chain(n=integrate(), m=integrate(1e4)), {}, "n and 0 more with r = 1 add up their input once a step, m and"),
    ],
)
def test_what_is_used_and_who_says_so(graph, options, expected):
    found = notes(graph, **options)
    assert any(expected in note for note in found), found


def test_the_notes_stand_in_print_and_in_the_report():
    graph = chain(n=integrate())
    note = "; the length of a step does not matter: nothing in this graph counts seconds"
    assert note in str(spikec.load(graph, reset="value"))
    assert note[2:] in str(spikec.Compiler("spikingjelly", reset="value").run(graph).report)


def test_a_doubt_about_the_reset_is_measured():
    """A net whose spikes leave nothing over resets the same way in both rules, and nobody is warned."""
    with pytest.warns(spikec.SpikecWarning, match=r"\d+% of the outputs differ in a run of 24 random steps"):
        spikec.load(chain(fc=nir.Affine(np.eye(3), 0 * ONE), n=integrate()))
    silent = chain(fc=nir.Affine(-np.eye(3), 0 * ONE), n=integrate())
    with pytest.warns(spikec.SpikecWarning, match=r"read as a reset to zero; one by subtraction is reset='subtract'$"):
        spikec.load(silent)
    exact = chain(fc=nir.Affine(np.zeros((3, 3)), 0.75 * ONE), n=integrate(threshold=0.7499999999))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = spikec.load(exact).imported.notes
    assert "in a run of 24 random steps subtraction gives the same outputs" in found[-1]


@pytest.mark.slow
def test_a_file_without_v_reset_says_who_wrote_it(tmp_path):
    nir.write(tmp_path / "x.nir", chain(n=integrate()))
    with h5py.File(tmp_path / "x.nir", "r+") as file:
        del file["node/nodes/n/v_reset"]
        del file["version"]
        file["version"] = "0.2.0"
    said = "nir 0.2.0 wrote it: nir before 1.0.6 called a reset one by subtraction: it is read as one by subtraction; "
    said = f"the NIR file has no v_reset, and {said}a reset to zero is"
    with pytest.warns(spikec.SpikecWarning, match=said) as caught:
        assert spikec.load(tmp_path / "x.nir")["n"].v_reset is None
    assert "reset='value'" in str(caught[0].message)
    assert spikec.load(tmp_path / "x.nir", reset="value")["n"].v_reset is not None
    with h5py.File(tmp_path / "x.nir", "r+") as file:
        file["version"][()] = "1.0.6"
    with pytest.warns(spikec.SpikecWarning, match="wrote it: .* it is read as a reset to zero; one by subtraction is"):
        assert spikec.load(tmp_path / "x.nir")["n"].v_reset is not None


@pytest.mark.slow
def test_what_the_metadata_say_is_meant_whoever_wrote_the_file(tmp_path):
    nir.write(tmp_path / "x.nir", chain({"reset": "value"}, n=integrate()))
    with h5py.File(tmp_path / "x.nir", "r+") as file:
        del file["node/nodes/n/v_reset"]
        file["version"][()] = "1.0.4"
    assert spikec.load(tmp_path / "x.nir")["n"].v_reset is not None


def test_gains_that_disagree_are_named():
    with pytest.raises(spikec.UnsupportedOpError, match=r"of 0.0001 s \(a\) to 0.0002 s \(b\)") as error:
        spikec.load(chain(a=lif(r=100.0), b=lif(r=50.0)))
    assert error.value.location == "a"
    assert "dt=0.0001" in error.value.hint
    assert spikec.load(chain(a=lif(r=100.0), b=lif(r=50.0)), dt=1e-4, reset="value").imported.dt == 1e-4


# ------------------------------------------------------------------ broken graphs


def broken():
    weight = np.ones((4, 3))
    return chain(
        fc=nir.Affine(weight, np.zeros(4)),
        n=integrate(),
        fc2=nir.Affine(np.ones((3, 5)), np.zeros(3)),
        last=integrate(),
    )


def test_all_wrong_shapes_come_at_once():
    graph = broken()
    for found in (spikec.check(graph, "nir"), refused(graph)):
        assert [problem.location for problem in found] == ["n", "fc2"]
        assert all(problem.hint for problem in found)


def test_all_wrong_edges_come_at_once():
    graph = broken()
    graph.edges += [("fcc", "n"), ("n", "lst"), ("fc", "n"), ("zzz", "qqq")]
    found = {problem.message: problem.hint for problem in refused(graph)}
    assert found == {
        "edge 'fcc' -> 'n' starts at 'fcc', which is not in the graph": "name 'fc' or 'fc2'",
        "edge 'n' -> 'lst' ends at 'lst', which is not in the graph": "name 'last'",
        "edge 'fc' -> 'n' stands twice in the graph": "leave one out: several edges into a node are summed",
        "edge 'zzz' -> 'qqq' starts at 'zzz', which is not in the graph": "add the node, or leave the edge out",
        "edge 'zzz' -> 'qqq' ends at 'qqq', which is not in the graph": "add the node, or leave the edge out",
    }


def refused(graph):
    with pytest.raises(spikec.CompileError) as error:
        spikec.load(graph)
    return error.value.problems


@pytest.mark.slow
def test_fields_are_named_in_the_files_own_terms(tmp_path):
    conv = nir.Conv2d((4, 4), np.ones((6, 2, 3, 3)), 1, 0, 1, 4, np.zeros(6))
    graph = chain(a=lif(), b=integrate(), c=conv, d=integrate(), e=integrate())
    graph.nodes["a"].tau = -2e-3 * ONE
    nir.write(tmp_path / "x.nir", graph)
    with h5py.File(tmp_path / "x.nir", "r+") as file:
        del file["node/nodes/b/v_threshold"]
        del file["node/nodes/d/type"]
        file["node/nodes/e/type"][()] = "LIFF"
    found = {problem.location: problem for problem in refused(tmp_path / "x.nir")}
    assert {name: problem.message for name, problem in found.items()} == {
        "a": "its tau is -0.002, and must be positive numbers",
        "b": "it has no v_threshold",
        "c": "its 6 output channels do not divide into 4 groups",
        "d": "its type is None, which NIR has not",
        "e": "its type is 'LIFF', which NIR has not",
    }
    assert found["b"].hint == "a nir.IF needs r, v_threshold"
    assert "nir.LIF" in found["e"].hint
    assert spikec.check(tmp_path / "x.nir", "nir") == list(found.values())


def test_metadata_that_order_other_axes_or_are_no_table():
    graph = chain(n=integrate())
    graph.nodes["input"].metadata = {"axes": np.array([1, 0]), "model_shape": np.array([3])}
    (problem,) = refused(graph)
    assert problem.message == "its metadata order axes (1, 0) of a sample that has 1"
    assert problem.location == "input"
    (problem,) = refused(chain({"ports": {"input": 3}}, n=integrate()))
    assert "its metadata ports are" in problem.message
    assert problem.hint == "give a table of each input and output"


def test_weights_with_other_axes():
    found = refused(chain(fc=nir.Affine(np.ones((3, 3, 1)), np.zeros(3))))
    assert "weight of shape (3, 3, 1), bias of shape (3,): a weight has 2 axes" in found[0].message
    found = refused(chain(fc=nir.Affine(np.ones((3, 3)), np.zeros(2))))
    assert "bias of shape (2,): a weight has 2 axes, and a bias one number for each of the first" in found[0].message


def test_graphs_that_lie_too_deep():
    inner = chain(n=integrate())
    for _ in range(20):
        inner = chain(g=inner)
    (problem,) = refused(inner)
    assert problem.message == "graphs lie in more than 16 others"


def test_a_signal_that_is_larger_than_is_allowed():
    conv = nir.Conv2d((4, 4), np.ones((2, 1, 1, 1)), 1, 100, 1, 1, np.zeros(2))
    nodes = {"input": nir.Input(np.array([1, 4, 4])), "c": conv, "output": nir.Output(None)}
    graph = nir.NIRGraph(nodes, list(itertools.pairwise(nodes)), type_check=False)
    with pytest.raises(spikec.InvalidModelError) as error:
        spikec.load(graph, max_bytes=100_000)
    size = 2 * 204 * 204 * 8
    assert error.value.problems[0].message == f"its result has shape (2, 204, 204), {size:,} bytes a sample"
    assert f"max_bytes={size}" in error.value.hint
    assert spikec.load(graph, max_bytes=size)
