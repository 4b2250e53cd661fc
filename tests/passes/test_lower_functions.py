"""Smooth functions as clipped ramps: the error on calibration data against torch, and whole nets over time."""

import attrs
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import build
import spikec
from spikec.calibration.ramps import fitted
from spikec.extend.loader import pass_named
from spikec.ir.ops import IF, Relu, ScalarFunction

#: functions with their constants, and the shift that brings normal numbers into their domain
FUNCTIONS = {
    **dict.fromkeys(("silu", "gelu", "gelu_tanh", "hardswish", "mish", "sigmoid", "log_sigmoid"), ((), 0.0)),
    **dict.fromkeys(("tanh", "tanhshrink", "softsign", "atan", "erf", "erfc", "ndtr", "exp", "square"), ((), 0.0)),
    **dict.fromkeys(("log", "sqrt", "rsqrt", "reciprocal"), ((), 6.0)),
    "elu": ((0.5, 1.0, 1.0), 0.0),
    "softplus": ((2.0, 20.0), 0.0),
    "pow": ((1.7,), 6.0),
    "integer_pow": ((3.0,), 0.0),
}


def lowered(function, constants=(), shift=0.0, tolerance=0.01, shape=(3, 4, 5)):
    """A graph with one function, lowered for normal data: both graphs, the data and the compilation."""
    b = build.Builder(*shape)
    graph = b.done(b.add(ScalarFunction(function, constants), b.x, name="act"))
    x = torch.randn(300, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + shift
    context = spikec.Context(graph, calibration=build.samples(x))
    after = graph.copy()
    changes = pass_named("lower-functions", tolerance=tolerance).run(after, context)
    assert changes == 1
    return graph, after, x, context


@pytest.mark.parametrize("tolerance", [0.01, 0.05])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_error_on_the_calibration_data_is_within_the_tolerance(name, tolerance):
    constants, shift = FUNCTIONS[name]
    graph, after, x, context = lowered(name, constants, shift, tolerance)
    wanted, found = spikec.run(graph, x), spikec.run(after, x)
    assert float((found - wanted).square().mean().sqrt()) <= 1.001 * tolerance * float(wanted.std())
    (note,) = context.notes
    count = after.type("act_ramps").shape[0] // 3
    assert f"{count} ramps" in note.reason
    assert f"{60 * count:,} neurons" in note.reason
    assert [node.op.cap for node in after.match(Relu)] == [1.0]


@pytest.mark.parametrize("shape", [(6,), (6, 2), (6, 2, 3), (6, 2, 3, 2)])
def test_samples_of_any_rank(shape):
    graph, after, x, _ = lowered("silu", shape=shape)
    assert float((spikec.run(after, x) - spikec.run(graph, x)).abs().max()) < 0.1


def test_a_tighter_tolerance_takes_more_ramps():
    counts = [lowered("gelu", tolerance=t)[1].type("act_ramps").shape[0] // 3 for t in (0.1, 0.02, 0.005)]
    assert counts == sorted(set(counts))


def test_beyond_what_was_seen_the_sum_goes_on_as_the_function_does():
    _, after, x, _ = lowered("silu")
    far = torch.full((1, 3, 4, 5), 6.0, dtype=torch.float64)
    assert float(x.max()) < 5
    assert float((spikec.run(after, far) - F.silu(far)).abs().max()) < 0.15
    assert float(spikec.run(after, -20 * far).abs().max()) < 0.05  # where SiLU is flat


def test_a_kink_is_found():
    """A clip is fitted by as many pieces as it has, and not by a curve."""
    values = np.sort(np.random.default_rng(0).normal(size=5000))
    ramps = fitted(lambda x: np.clip(x, -0.31, 0.42), values, 0.01, (False, False))
    slopes = ramps.height * ramps.gain
    assert len(set(slopes.round(6))) <= 5
    assert ramps.error <= 0.01


@pytest.mark.parametrize("sign", [1, -1])
def test_a_long_straight_piece_is_halved_and_the_line_stays(sign):
    """ELU of positive x as one ramp would be rounded as coarsely as ReLU; two ramps round half as much."""
    ramps = fitted(
        lambda x: np.where(sign * x > 0, x, sign * np.expm1(sign * x)), np.linspace(-3, 3, 5001), 0.01, (False, False)
    )
    straight = np.abs(ramps.height * ramps.gain - 1) < 1e-2
    assert np.abs(ramps.height[straight]) == pytest.approx([1.5, 1.5], rel=0.02)
    x = sign * np.linspace(0, 3, 31)
    assert ramps(x) == pytest.approx(x, abs=0.01)


def test_values_that_are_all_the_same_take_no_neuron():
    ramps = fitted(np.exp, np.full(10, 0.5), 0.01, (False, True))
    assert len(ramps.gain) == 0
    assert ramps(np.asarray([0.0, 0.5])) == pytest.approx(np.exp(0.5))


def test_numbers_outside_of_the_domain_are_refused_with_the_layer():
    model = nn.Sequential(nn.Linear(4, 3), Call(torch.log)).eval()
    with pytest.raises(spikec.InvalidModelError, match=r"log of values in .* is not finite(.|\n)*at  1") as caught:
        spikec.compile(model, "spikingjelly", calibration=torch.randn(64, 4), verify="off")
    assert "by a clamp" in caught.value.hint
    with pytest.raises(spikec.InvalidModelError, match="reciprocal of values"):
        spikec.compile(nn.Sequential(nn.Linear(4, 3), Call(torch.reciprocal)), "nir", calibration=torch.randn(64, 4))


class Call(nn.Module):
    def __init__(self, call):
        super().__init__()
        self.call = call

    def forward(self, x):
        return self.call(x)


NETS = {"silu": nn.SiLU, "gelu": nn.GELU, "hardswish": nn.Hardswish, "elu": nn.ELU, "sigmoid": nn.Sigmoid}


def mlp(act):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 24), act(), nn.Linear(24, 24), act(), nn.Linear(24, 4)).eval()


def cnn(act):
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), act(), nn.Conv2d(6, 8, 3, 2), act(), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(32, 4)).eval()


def errors(artifact, model, x, steps):
    """Root mean square of the difference to the ANN over its spread, after so many steps."""
    with torch.no_grad():
        wanted, found = model(x), torch.stack([artifact(x) for _ in range(max(steps))])
    artifact.reset()
    spread = float(wanted.std(0).square().mean().sqrt())
    return [float((found[:T].mean(0) - wanted).square().mean().sqrt()) / spread for T in steps]


@pytest.mark.slow
@pytest.mark.parametrize(("build_net", "shape"), [(mlp, (16,)), (cnn, (1, 8, 8))])
@pytest.mark.parametrize("name", NETS)
def test_the_error_of_a_net_falls_with_time(name, build_net, shape):
    model = build_net(NETS[name])
    x = 2 * torch.rand(256, *shape) - 1
    found = spikec.Compiler("spikingjelly", calibration=x, timesteps=64).run(model)
    early, later, last = errors(found.artifact, model, x[:64], (4, 16, 64))
    assert early > later > last
    assert last < 0.1
    neurons = sum(np.prod(found.graph.type(node.name).shape) for node in found.graph.match(IF))
    assert neurons > 0
    entries = [entry for entry in found.ledger if entry.fate == "lowered"]
    assert len(entries) == 2
    assert all("neurons" in entry.into for entry in entries)
    assert sum("ramps over" in note.reason for note in found.report.notes) == 2


@pytest.mark.slow
def test_without_calibration_every_function_says_that_it_is_needed():
    problems = spikec.check(cnn(nn.SiLU), "nir", example_input=torch.rand(1, 1, 8, 8))
    assert [problem.location for problem in problems] == ["2", "4"]
    assert all("silu becomes neurons by the values" in problem.message for problem in problems)
    assert all("calibration" in problem.hint for problem in problems)
    assert spikec.check(cnn(nn.SiLU), "nir", calibration=torch.rand(64, 1, 8, 8)) == []


@pytest.mark.slow
def test_a_saved_calibration_gives_the_same_network(tmp_path):
    model, x = mlp(nn.GELU), torch.randn(300, 16)
    first = spikec.calibrate(model, [x[:150], x[150:]])
    first.save(tmp_path / "statistics.npz")
    second = spikec.Calibration.load(tmp_path / "statistics.npz")
    options = {"timesteps": 8, "normalization": "max"}
    nets = [spikec.compile(model, "spikingjelly", calibration=each, **options) for each in (first, second)]
    with torch.no_grad():
        assert torch.equal(nets[0](x), nets[1](x))


def test_a_calibration_of_another_model_says_so():
    other = spikec.calibrate(mlp(nn.ReLU), torch.randn(64, 16))
    with pytest.raises(spikec.CalibrationError, match="the calibration given is of another model"):
        spikec.compile(mlp(nn.GELU), "spikingjelly", calibration=other)


@pytest.mark.slow
def test_a_tolerance_is_an_option_of_the_pass():
    assert str(pass_named("lower-functions", tolerance=0.05)) == "lower-functions{tolerance=0.05}"
    x = torch.randn(128, 16)
    pipeline = [
        attrs.evolve(each, tolerance=0.2) if each.name == "lower-functions" else each
        for each in spikec.Pipeline.default("spikingjelly", normalization="max")
    ]
    rough = spikec.Compiler("spikingjelly", calibration=x, pipeline=spikec.Pipeline(pipeline)).run(mlp(nn.SiLU))
    fine = spikec.Compiler("spikingjelly", calibration=x, normalization="max").run(mlp(nn.SiLU))
    counts = [sum(c.graph.type(n.name).shape[0] for n in c.graph.match(IF)) for c in (rough, fine)]
    assert counts[0] < counts[1]


@pytest.mark.slow
def test_functions_of_positive_numbers_compile():
    """Checks feed passes with numbers of both signs, of which log and sqrt give none."""
    torch.manual_seed(0)
    inner = Call(lambda x: torch.log(F.relu(x) + 0.5) + torch.sqrt(x.clamp(min=0.1)) + torch.log(1 + torch.exp(x)))
    model = nn.Sequential(nn.Linear(16, 12), inner, nn.Linear(12, 3)).eval()
    x = torch.randn(256, 16)
    found = spikec.Compiler("spikingjelly", calibration=x, timesteps=32, verify="each").run(model)
    early, last = errors(found.artifact, model, x, (4, 32))
    assert early > last
    assert last < 0.1


@pytest.mark.slow
def test_files_and_chips_take_them(tmp_path):
    """The NIR file read back runs as the ANN does, and so does the integer network."""
    model, x = cnn(nn.SiLU), torch.rand(128, 1, 8, 8)
    graph = spikec.compile(model, "nir", calibration=x, timesteps=64)
    spikec.save(graph, tmp_path / "net.nir")
    wanted = model(x).detach()
    spread = float(wanted.std(0).square().mean().sqrt())
    found = spikec.run(str(tmp_path / "net.nir"), x, 64).mean(0)
    assert float((found - wanted).square().mean().sqrt()) < 0.15 * spread
    net = spikec.compile(model, "netx", calibration=x, timesteps=64)
    assert float((net.run(x) - wanted).square().mean().sqrt()) < 0.6 * spread
