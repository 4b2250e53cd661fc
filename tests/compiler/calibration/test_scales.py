"""Thresholds of each channel where the next layers can carry them, and one for all where they cannot."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import spikec
from spikec.interpreter.results import outputs
from spikec.ir.ops import Relu


class Rows(nn.Module):
    """A Linear over the last axis of maps [3, 2, 7], and something behind its ReLU."""

    def __init__(self, behind):
        super().__init__()
        self.linear, self.other, self.behind = nn.Linear(7, 4), nn.Linear(7, 4), behind
        self.conv, self.up, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.ConvTranspose2d(3, 2, 3), nn.LazyLinear(2)

    def forward(self, x):
        return self.head(self.behind(self, torch.relu(self.linear(x)), x).flatten(1))


ALONE = [
    lambda m, y, x: m.conv(y),
    lambda m, y, x: m.up(y),
    lambda m, y, x: F.avg_pool2d(y, 2),
    lambda m, y, x: y.mean(3),
    lambda m, y, x: m.conv(y.transpose(2, 3)),
]
JOINED = [
    lambda m, y, x: F.max_pool2d(y, 2),
    lambda m, y, x: y + torch.relu(m.other(x)),
    lambda m, y, x: m.conv(torch.cat([y, torch.relu(m.other(x))], 3)),
    lambda m, y, x: m.conv(F.leaky_relu(m.linear(x), 0.2)),
]
CARRIED = [
    lambda m, y, x: y,
    lambda m, y, x: y[:, :, 1:],
    lambda m, y, x: torch.relu(nn.functional.linear(y, m.other.weight.T)),
]


def compiled(behind, target):
    torch.manual_seed(0)
    model, x = Rows(behind).eval(), torch.randn(48, 3, 2, 7)
    with torch.no_grad():
        wanted = model(x)
    run = spikec.Compiler(target, calibration=x, timesteps=32).run(model)
    error = float((outputs(run.graph, [x], 256)[0] - wanted).abs().mean() / wanted.std())
    calibrated = next(stage.graph for stage in run.stages if stage.name == "normalize")
    return run, error, calibrated.match(Relu)[0].op.scale


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "behind"),
    [("spikingjelly", each) for each in (*ALONE, *JOINED)] + [("netx", each) for each in ALONE],
)
def test_one_threshold_where_channels_cannot_carry_theirs(target, behind):
    with pytest.warns(spikec.SpikecWarning, match="has one threshold for all of its channels"):
        run, error, scale = compiled(behind, target)
    assert scale.size == 1
    assert error < 0.03
    assert "one threshold for all of its channels" in str(run.report)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["spikingjelly", "netx"])
@pytest.mark.parametrize("behind", CARRIED)
def test_a_threshold_for_each_channel_where_they_can(target, behind):
    _, error, scale = compiled(behind, target)
    assert scale.shape == (1, 1, 4)
    assert error < 0.03


@pytest.mark.slow
def test_a_scale_on_the_last_axis_is_read_out_by_netx():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 6), nn.ReLU()).eval(), torch.randn(48, 5, 6)
    run = spikec.Compiler("netx", calibration=x, timesteps=32).run(model)
    with torch.no_grad():
        wanted = model(x)
    assert float((outputs(run.graph, [x], 256)[0] - wanted).abs().mean() / wanted.std()) < 0.03


@pytest.mark.filterwarnings("ignore::spikec.SpikecWarning")
@pytest.mark.parametrize("calibration", [True, False])
@pytest.mark.parametrize("silent", [True, False])
@pytest.mark.parametrize("shrink", [0.0, 0.25, 1.0])
def test_scales_drawn_towards_that_of_their_layer_are_geometric_means(shrink, silent, calibration):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)).eval(), torch.rand(64, 8)
    with torch.no_grad():
        model[0].bias += 2
        model[0].bias[0] -= 99 * silent  # a silent one takes the layer's
        bound = model[0].weight.clamp(min=0).sum(1) + model[0].bias
        most = (model[0](x).amax(0) if calibration else bound).relu()
    wanted = torch.where(most > 0, most, most.max()) ** (1 - shrink) * most.max() ** shrink
    options = {"calibration": x} if calibration else {"example_input": x}
    normalization = spikec.Normalization(method="max" if calibration else "model", shrink=shrink)
    run = spikec.Compiler("spikingjelly", normalization=normalization, **options).run(model)
    scale = next(stage.graph for stage in run.stages if stage.name == "normalize").match(Relu)[0].op.scale
    torch.testing.assert_close(torch.tensor(scale), wanted.double(), rtol=1e-5, atol=0)
