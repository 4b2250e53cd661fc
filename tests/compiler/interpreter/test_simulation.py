"""Running means, and stopping with samples whose answer has settled."""

import numpy as np
import pytest
import torch
from torch import nn

import nets
import spikec
from spikec.ir.ops import IF, Input, Linear, Output

T = 24


@pytest.fixture(scope="module")
def compilation():
    x = nets.batch("mlp", 60, dtype=torch.float64)
    return spikec.Compiler("spikingjelly", calibration=x).run(nets.build("mlp", dtype=torch.float64))


@pytest.fixture(params=["module", "graph"])
def snn(compilation, request):
    return compilation.artifact if request.param == "module" else compilation.graph


@pytest.fixture(scope="module")
def x():
    return nets.batch("mlp", 50, dtype=torch.float64)


@pytest.mark.slow
def test_means_are_those_of_the_outputs(compilation, snn, x):
    outputs = spikec.run(compilation.graph, x, T) * torch.tensor(compilation.output_scale)
    found = spikec.simulate(snn, x, T)
    wanted = outputs.cumsum(0) / torch.arange(1, T + 1)[:, None, None]
    torch.testing.assert_close(found.means, wanted, rtol=0, atol=1e-12)
    assert torch.equal(found.answer, found.means[-1])
    assert (found.saved, found.ran) == (0, T * len(x))
    assert found.steps.tolist() == [T] * len(x)


@pytest.mark.parametrize("patience", [1, 3, 30])
@pytest.mark.parametrize("over_time", [False, True])
def test_a_sample_stops_once_its_answer_was_the_same_for_some_steps(snn, x, patience, over_time):
    scale = torch.linspace(0.2, 2, T, dtype=torch.float64)[:, None, None]
    xs = (x * scale,) if over_time else (x, T)
    whole, found = spikec.simulate(snn, *xs), spikec.simulate(snn, *xs, patience=patience)
    answers = whole.means.argmax(2)
    moved = (whole.means != whole.means[0]).any(2)
    stays = (answers[1:] == answers[:-1]) & moved[1:]  # from one step to the next
    for i in range(len(x)):
        stop = next((t for t in range(patience, T) if stays[t - patience : t, i].all()), T - 1)
        assert found.steps[i] == stop + 1
        torch.testing.assert_close(found.means[: stop + 1, i], whole.means[: stop + 1, i], rtol=0, atol=1e-12)
        assert torch.equal(found.means[stop:, i], found.means[stop, i].expand(T - stop, -1))
    assert found.means.shape == whole.means.shape
    assert (found.saved == 0) == (patience > T)
    assert int(found.steps.sum()) <= found.ran <= T * len(x)
    if patience == 3 and not over_time:
        assert len(found.steps.unique()) > 2
        assert found.ran < 1.3 * int(found.steps.sum())


def test_each_step_has_its_own_inputs_however_often_samples_have_stopped():
    graph = spikec.Graph()
    spikes = graph.add(IF(np.ones(1)), graph.add(Input((2,), "float64", rate=True)))
    graph.add(Output(), spikes)
    x = torch.zeros(12, 4, 2, dtype=torch.float64)
    for sample, first in enumerate((0, 2, 4, 6)):
        x[first::2, sample, sample % 2] = 1.0  # from then on every second step says the same class
    whole, found = (spikec.simulate(graph, x, **options) for options in ({}, {"patience": 2}))
    assert len(found.steps.unique()) == 4
    for i, stop in enumerate(found.steps.tolist()):
        assert torch.equal(found.means[:stop, i], whole.means[:stop, i])


def test_a_module_is_reset_before_and_after(compilation, x):
    snn = compilation.artifact
    with torch.no_grad():
        snn(x[:7])
    first = spikec.simulate(snn, x, 5)
    assert torch.equal(spikec.simulate(snn, x, 5).means, first.means)
    assert all(part.v is None for part in snn.modules() if hasattr(part, "v"))


def test_an_output_that_stands_still_is_no_answer():
    """Before the first spikes come through, it is the bias of the last layer at each step."""
    graph = spikec.Graph()
    spikes = graph.add(IF(np.ones(1)), graph.add(Input((2,), "float64", rate=True)))
    graph.add(Output(), graph.add(Linear(8 * np.eye(2), np.array([1.0, 0.0])), spikes))
    found = spikec.simulate(graph, torch.tensor([[0.1, 0.3]], dtype=torch.float64), 20, patience=2)
    assert found.means[:3].argmax(2).tolist() == [[0]] * 3
    assert found.means[3:].argmax(2).unique().tolist() == [1]
    assert found.steps.tolist() == [6]  # the second neuron fires in the fourth step


@pytest.mark.parametrize("steps", [1, 5, 16, 40])
def test_a_module_is_run_several_steps_at_a_time_and_one_where_a_hook_looks(compilation, x, steps):
    snn, seen = compilation.artifact, []
    snn.step_mode = "s"
    wanted = spikec.simulate(compilation.graph, x, steps).means
    torch.testing.assert_close(spikec.simulate(snn, x, steps).means, wanted, rtol=0, atol=1e-12)
    over_time = spikec.simulate(snn, x.expand(steps, *x.shape)).means
    torch.testing.assert_close(over_time, wanted, rtol=0, atol=1e-12)
    hook = snn.output.register_forward_hook(lambda part, given, out: seen.append(out.shape))
    torch.testing.assert_close(spikec.simulate(snn, x, steps).means, wanted, rtol=0, atol=1e-12)
    hook.remove()
    assert seen == [wanted.shape[1:]] * steps
    assert snn.step_mode == "s"


def test_the_step_mode_of_a_module_makes_no_difference(compilation, x):
    snn = compilation.artifact
    wanted = [spikec.simulate(snn, x, T, patience=patience).means for patience in (None, 2)]
    snn.step_mode = "m"
    found = [spikec.simulate(snn, x, T, patience=patience).means for patience in (None, 2)]
    assert snn.step_mode == "m"
    snn.step_mode = "s"
    assert all(map(torch.equal, found, wanted))


class Foreign(nn.Module):
    """A spiking module of a stranger's, which cannot drop samples."""

    def reset(self):
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x[:, :3] * self.calls


@pytest.mark.slow
def test_what_does_not_fit_is_refused(compilation, x):
    assert spikec.simulate(Foreign(), x, 4).means.shape == (4, 50, 3)
    with pytest.raises(spikec.InvalidModelError, match=r"Foreign cannot go on with a part of its batch\n.*patience"):
        spikec.simulate(Foreign(), x, 4, patience=1)
    with pytest.raises(spikec.InvalidModelError, match="neither a Graph nor a spiking module"):
        spikec.simulate(nn.Linear(2, 2), x, 4)
    with pytest.raises(spikec.InvalidModelError, match=r"shapes \[50, 7\], \[3, 7\]"):
        spikec.simulate(compilation.graph, [x, x[:3]], 4)
    with pytest.raises(spikec.CompileError, match="patience is 0"):
        spikec.simulate(compilation.graph, x, 4, patience=0)
    two = nets.build("two_outputs")
    two = spikec.compile(two, "spikingjelly", calibration=[nets.batch("two_outputs")])
    with pytest.raises(spikec.InvalidModelError, match="it takes one output"):
        spikec.simulate(two, nets.batch("two_outputs"), 4)
