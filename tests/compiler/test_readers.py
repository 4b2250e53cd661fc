"""compile, diagnose and repair for a reader, whose equations stand here."""

import functools
import re
import warnings

import nir
import numpy as np
import pytest
import torch
from torch import nn

import nets
import spikec
from nir_numpy import at_threshold, run_chain, subtracted, to_zero
from spikec.backends.nir.backend import Nir

T = 32


@functools.cache
def model():
    return nets.randomize(nn.Sequential(nn.Linear(12, 40), nn.ReLU(), nn.Linear(40, 24), nn.ReLU(), nn.Linear(24, 5)))


@functools.cache
def data():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(64, 12, generator=generator), torch.rand(100, 12, generator=generator)


def compiled(**options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made = spikec.Compiler("nir", calibration=data()[0], timesteps=T, **options).run(model())
    return made, [str(each.message) for each in caught]


def hard(graph, x):
    return run_chain(graph, x, T, at_threshold, to_zero)


def sinabs(graph, x):
    several = lambda v, th: np.maximum(np.floor(v / th), 0)  # noqa: E731
    return run_chain(graph, x, T, several, lambda v, s, th: np.maximum(subtracted(v, s, th), -th))


def answers(y):
    return y.argmax(-1)


@pytest.mark.slow
def test_compile_warns_once_with_what_the_reader_makes_of_it():
    made, caught = compiled(profile="spikingjelly")
    (message,) = caught
    assert "SpikingJelly 2.0.0: a spike resets the potential to v_reset, and not by subtraction" in message
    assert "reset='hard'" in message
    said = re.search(r"there ([\d.]+) % of the answers are the ANN's, and here ([\d.]+) % \((\d+) calibration", message)
    x = data()[0][: int(said[3])]
    wanted = answers(model()(x).detach().numpy())
    there = 100 * (answers(hard(made.artifact, x.numpy().astype(float))[-1]) == wanted).mean()
    assert abs(float(said[1]) - there) <= 100 / len(x)
    assert any(message in str(note) for note in made.report.notes)


@pytest.mark.slow
def test_what_the_reader_runs_as_it_is_meant_is_not_warned_of():
    assert compiled(profile="spikingjelly", reset="hard")[1] == []
    assert compiled()[1] == []  # portable: nobody's


def test_the_code_that_mends_a_file_has_its_dt():
    """The length of a step that the file says, which the tool holds its gains to."""
    graph = nir.NIRGraph.from_list(nir.Affine(np.eye(3), np.zeros(3)), nir.IF(*[np.ones(3)] * 2, np.zeros(3)))
    graph.metadata |= {"dt": 1.2345678e-3, "reset": "subtract"}
    with pytest.warns(spikec.SpikecWarning) as caught:
        written = spikec.compile(graph, "nir", profile="spikingjelly")
    (said,) = [str(each.message) for each in caught if "load the file as" in str(each.message)]
    dt = float(re.search(r"dt=([\d.e-]+)\)", said)[1])
    (neuron,) = [node for node in written.nodes.values() if isinstance(node, nir.IF)]
    assert np.allclose(neuron.r, 1 / dt, rtol=1e-6, atol=1e-12)  # as SpikingJelly compares them


@pytest.mark.slow
def test_without_samples_there_is_a_warning_without_figures():
    soft = spikec.Compiler("nir", calibration=data()[0], timesteps=T).run(model()).graph
    with pytest.warns(spikec.SpikecWarning, match="by subtraction") as caught:
        spikec.compile(soft, "nir", profile="spikingjelly")
    assert len(caught) == 1
    assert "answers" not in str(caught[0].message)


@pytest.mark.slow
@pytest.mark.parametrize(("reader", "equations"), [("sinabs", sinabs), ("norse", hard), ("spikingjelly", hard)])
def test_diagnose_foretells_what_a_reader_answers(reader, equations, tmp_path):
    made, _ = compiled(profile="spikingjelly")
    spikec.save(made.artifact, tmp_path / "net.nir")
    x = data()[1]
    wanted = answers(model()(x).detach().numpy())
    found = spikec.diagnose(model(), tmp_path / "net.nir", x, torch.from_numpy(wanted), reader=reader)
    expected = (answers(equations(made.artifact, x.numpy().astype(float))) == wanted).mean(1)
    assert found.timesteps == T  # as the file says
    assert found.samples == len(x)
    assert np.abs(found.agreement - expected).max() <= 0.01  # float32 and float64 may differ on a tie
    assert np.array_equal(found.accuracy, found.agreement)
    assert found.ann_accuracy == 1
    assert found.problems
    assert f"as {reader} runs it" in str(found)


@pytest.mark.slow
def test_diagnose_of_a_file_without_steps_asks_for_them():
    made, _ = compiled()
    del made.artifact.metadata["timesteps"]
    with pytest.raises(spikec.CompileError, match="how many steps") as error:
        spikec.diagnose(model(), made.artifact, data()[1], reader="norse")
    assert "timesteps=32" in error.value.hint
    assert spikec.diagnose(model(), made.artifact, data()[1], reader="norse", timesteps=4).timesteps == 4
    with pytest.raises(spikec.InvalidModelError, match="is not a Compilation"):
        spikec.diagnose(model(), data()[1], 4)


@pytest.mark.slow
def test_repair_writes_for_another_reader_the_same_network(tmp_path):
    made, _ = compiled(reset="hard")
    spikec.save(made.artifact, tmp_path / "portable.nir")
    before = spikec.check(tmp_path / "portable.nir", profile="spikingjelly")
    assert any("r != 1/dt" in problem.message for problem in before)
    found = spikec.repair(tmp_path / "portable.nir", "spikingjelly")
    assert {problem.message for problem in found.mended} == {problem.message for problem in before}
    assert found.left == ()
    assert "mended" in str(found)
    found.save(tmp_path / "sj.nir")
    assert spikec.check(tmp_path / "sj.nir", profile="spikingjelly") == []
    one, other = (spikec.load(tmp_path / name) for name in ("portable.nir", "sj.nir"))
    x = data()[1][:20]
    assert torch.equal(spikec.run(one, x, T), spikec.run(other, x, T))
    assert np.array_equal(one.type("output").scale, other.type("output").scale)
    assert one.imported.dt == other.imported.dt


@pytest.mark.slow
def test_what_no_form_of_a_file_mends_is_left(tmp_path):
    made, _ = compiled()  # neurons that subtract
    found = spikec.repair(made.artifact, "spikingjelly")
    assert [problem.message for problem in found.mended] == ["SpikingJelly refuses IF with r != 1/dt (dt = 0.0001)"] * 2
    assert {problem.message.split(": ")[1] for problem in found.left} == {
        "a spike resets the potential to v_reset, and not by subtraction"
    }
    assert str(spikec.repair(found.artifact, "portable")).startswith("note: ")


@pytest.mark.slow
def test_a_file_that_its_reader_does_not_run_is_warned_of():
    """A backend's own profile may promise too much."""

    class Hopeful(Nir):
        reader = "norse"  # which leaves out a Threshold, as the profile full writes them

    with pytest.warns(spikec.SpikecWarning, match="norse .*: it does not run the file") as caught:
        spikec.compile(model(), Hopeful(profile="full"), calibration=data()[0], timesteps=T)
    assert "answers" not in str(caught[0].message)
