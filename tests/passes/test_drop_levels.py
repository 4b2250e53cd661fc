"""Activations that were trained with levels (QCFS) become ramps of as many time-steps, and learned bounds caps."""

import io

import attrs
import onnx
import pytest
import torch
from torch import nn

import spikec
from spikec.extend.levels import Levels
from spikec.ir.ops import Floor, Relu


class Rounded(torch.autograd.Function):
    """As published: the gradient goes straight through."""

    @staticmethod
    def forward(ctx, x):
        return x.floor()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class QCFS(nn.Module):
    """Bu et al. 2022, eq. 9, as in the authors' code."""

    def __init__(self, up=1.7, levels=8, shift=0.5):
        super().__init__()
        self.up = nn.Parameter(torch.tensor([up]))
        self.levels, self.shift = levels, shift

    def forward(self, x):
        x = torch.clamp(x / self.up, 0, 1)
        return Rounded.apply(x * self.levels + self.shift) / self.levels * self.up


class TCL(nn.Module):
    """A bound that is learned (Ho and Chang 2021)."""

    def __init__(self):
        super().__init__()
        self.up = nn.Parameter(torch.tensor([0.7]))

    def forward(self, x):
        return torch.min(torch.relu(x), self.up)


def net(act, **options):
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), act(**options), nn.Flatten(), nn.Linear(64, 5)
    return nn.Sequential(*layers).eval()


IMAGES = 3 * torch.rand(40, 1, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("levels", [4, 8, 15])
def test_as_many_steps_as_levels_give_the_ann_back(levels):
    """One layer of neurons has a constant current, so nothing but rounding is left."""
    model = net(QCFS, levels=levels)
    compilation = spikec.Compiler("spikingjelly", calibration=IMAGES, normalization="99.9%").run(model)
    with torch.no_grad():
        found = sum(compilation.artifact(IMAGES) for _ in range(levels)) / levels
        wanted = model(IMAGES)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    (neuron,) = compilation.graph.with_role(spikec.Role.NEURON)
    (relu,) = (node.op for stage in compilation.stages if stage.name == "normalize" for node in stage.graph.match(Relu))
    assert (relu.scale == relu.cap).all()
    assert relu.levels == levels
    assert (neuron.op.v_init == neuron.op.v_threshold / 2).all()
    assert len(compilation.graph) == 6  # all scales are folded


@pytest.mark.slow
@pytest.mark.parametrize("steps", [8, 16])
def test_tuning_does_not_move_the_bound(steps):
    model = net(QCFS, levels=8)
    snn = spikec.compile(model, "spikingjelly", calibration=IMAGES, timesteps=steps)
    with torch.no_grad():
        found, wanted = sum(snn(IMAGES) for _ in range(steps)) / steps, model(IMAGES)
    assert (found - wanted).abs().max() < (1e-4 if steps == 8 else 0.1) * wanted.abs().max()


def exported(model):
    return torch.export.export(model, (IMAGES[:3],), dynamic_shapes=({0: torch.export.Dim("batch")},))


def written(model):
    file = io.BytesIO()
    options = {"dynamo": False, "dynamic_axes": {"x": [0]}, "input_names": ["x"]}
    torch.onnx.export(model, (IMAGES[:3],), file, **options)
    return onnx.load_model_from_string(file.getvalue())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", [lambda model: model, exported, written], ids=["fx", "export", "onnx"])
def test_it_is_read_as_it_is(form):
    model = net(QCFS)
    graph = spikec.load(form(model), IMAGES[:2])
    (floor,) = graph.match(Floor)
    assert Levels.of(graph, graph.operands(floor.name)[0]).count == 8
    torch.testing.assert_close(spikec.run(graph, IMAGES), model(IMAGES).detach(), rtol=1e-4, atol=1e-4)


class Floored(nn.Module):
    def __init__(self, call):
        super().__init__()
        self.call = call

    def forward(self, x):
        return torch.floor(self.call(x))


OTHERS = {
    "plain": lambda x: x,
    "without a half": lambda x: 4 * x.clamp(0, 1),
    "a part of a level": lambda x: 4.5 * x.clamp(0, 1) + 0.5,
    "below zero": lambda x: 4 * x.clamp(-1, 1) + 0.5,
    "no bound": lambda x: 4 * x.relu() + 0.5,
    "of several bounds": lambda x: x.clamp(0, 1) * torch.arange(1.0, 5.0).view(4, 1, 1) + 0.5,
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_floors_are_refused(name):
    model = net(Floored, call=OTHERS[name])
    with pytest.raises(spikec.UnsupportedOpError, match=r"torch.floor is not supported: it jumps") as error:
        spikec.load(model, IMAGES[:2])
    assert "test_drop_levels.py" in error.value.location


@pytest.mark.slow
def test_a_learned_bound_takes_one_neuron_for_each_number():
    model = net(TCL)
    compilation = spikec.Compiler("nir", calibration=IMAGES, timesteps=32).run(model)
    (relu,) = (node.op for stage in compilation.stages if stage.name == "normalize" for node in stage.graph.match(Relu))
    assert relu.cap == pytest.approx(0.7)
    assert compilation.ledger.neurons == 64
    assert attrs.evolve(relu, scale=None).levels is None
