"""Ops with a state that are no neurons: streamed currents, and the max-pool that counts."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import build
import nets
import spikec
from spikec import Compiler, Graph, TypeMismatchError, run
from spikec.ir.op import Role
from spikec.ir.ops import IF, CountingMaxPool, Input, MaxPool, Output, Rescale, Stream


def wired(op, shape):
    """x -> op -> y, rate-coded, float64."""
    g = Graph("wired")
    x = g.add(Input(shape, "float64", rate=True, origin=build.source("x")), name="x")
    g.add(Output(), g.add(op, x, name="op"), name="y")
    return g


# --------------------------------------------------------------------- stream


def test_a_stream_adds_the_current_of_its_step_and_holds_the_last():
    currents = np.arange(6.0).reshape(3, 2, 1)
    x = torch.rand(5, 4, 2, 7, dtype=torch.float64)
    y = run(wired(Stream(currents), (2, 7)), x)
    for t in range(5):
        assert torch.equal(y[t], x[t] + torch.tensor(currents[min(t, 2)]))


@pytest.mark.parametrize("shape", [(3, 2), (3, 3, 1), (3, 1, 1, 1)])
def test_currents_that_do_not_fit_are_refused(shape):
    with pytest.raises(TypeMismatchError, match="currents of shape"):
        wired(Stream(np.zeros(shape)), (2, 7)).type("y")


# ------------------------------------------------------------------- counting

POOLS = [
    MaxPool((2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1)),
    MaxPool((3, 2), (1, 2), ((1, 1), (0, 0)), (1, 1)),
    MaxPool((2, 2), (2, 2), ((0, 0), (0, 0)), (1, 2), ceil_mode=True),
]


@pytest.mark.parametrize("pool", POOLS)
def test_the_counting_pool_has_the_largest_count_of_its_window_at_every_step(pool):
    torch.manual_seed(0)
    spikes = (torch.rand(20, 4, 3, 7, 6) < 0.4).double()
    y = run(wired(CountingMaxPool(pool), (3, 7, 6)), spikes)
    padding = tuple(before for before, _ in pool.padding)
    wanted = [
        F.max_pool2d(count, pool.kernel, pool.stride, padding, pool.dilation, pool.ceil_mode)
        for count in spikes.cumsum(0)
    ]
    assert torch.equal(y.cumsum(0), torch.stack(wanted))
    assert set(y.unique().tolist()) == {0.0, 1.0}
    instantaneous = torch.stack([pool.eval(s) for s in spikes])
    assert not torch.equal(y.mean(0), instantaneous.mean(0))


class SignedPool(nn.Module):
    """A padded max-pool of numbers of either sign, which no sum of ReLUs stands for."""

    def __init__(self):
        super().__init__()
        self.conv, self.pool, self.fc = nn.Conv2d(2, 3, 3), nn.MaxPool2d(3, 2, 1), nn.Linear(27, 4)
        self.hidden = nn.Linear(4, 3)

    def forward(self, x):
        return self.hidden(torch.relu(self.fc(self.pool(self.conv(x)).flatten(1))))


@pytest.mark.slow
@pytest.mark.parametrize("signed", [False, True])
def test_a_net_with_counting_pools_converges(signed):
    torch.manual_seed(1)
    model = (nets.randomize(SignedPool()) if signed else nets.build("maxpool")).double()
    x = nets.batch("maxpool", 40, dtype=torch.float64)
    options = {"calibration": [x], "normalization": "max", "counters": True, "verify": "each"}
    c = Compiler("spikingjelly", **options).run(model)
    assert len(c.graph.match(CountingMaxPool)) == len([m for m in model.modules() if isinstance(m, nn.MaxPool2d)])
    assert not c.graph.match(Rescale)
    assert not c.graph.with_role(Role.ACTIVATION)
    with torch.no_grad():
        wanted = model(x)
        errors = []
        for t in (16, 64, 256):
            c.artifact.reset()
            mean = sum(c.artifact(x) for _ in range(t)) / t
            errors.append(float((mean - wanted).abs().mean() / (wanted - wanted.mean(0)).abs().mean()))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.03


@pytest.mark.slow
def test_modules_run_it_as_the_interpreter_does_in_both_step_modes():
    x = nets.batch("maxpool", 10, dtype=torch.float64)
    c = Compiler("spikingjelly", calibration=[x], timesteps=8, counters=True).run(nets.build("maxpool").double())
    wanted = run(c.graph, x, 8) * torch.tensor(c.output_scale)
    with torch.no_grad():
        single = torch.stack([c.artifact(x) for _ in range(8)])
        c.artifact.reset()
        c.artifact.step_mode = "m"
        multi = c.artifact(x.expand(8, *x.shape))
    torch.testing.assert_close(single, wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(multi, wanted, rtol=0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["nir", "netx"])
def test_it_is_the_default_where_it_can_be_and_elsewhere_the_hint_works(target):
    x = nets.batch("maxpool", 10)
    model = nets.build("maxpool")
    counting = Compiler("spikingjelly", calibration=[x], normalization="max").run(model)
    assert counting.graph.match(CountingMaxPool)
    with pytest.raises(spikec.CompileError, match=r"max-?pool") as refused:
        spikec.compile(counting.artifact, target)
    assert "counters=False" in refused.value.hint
    assert all(problem.location for problem in refused.value.problems)
    plain = Compiler("spikingjelly", calibration=[x], normalization="max", counters=False).run(model)
    assert not plain.graph.match(CountingMaxPool)
    assert len(counting.graph.match(IF)) < len(plain.graph.match(IF))
    if target == "nir":
        spikec.compile(plain.artifact, target)
