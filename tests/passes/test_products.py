"""Products, norms and softmax: written in squares without loss, in neurons within a tolerance, or carried."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import build
import spikec
from spikec.extend.loader import pass_named
from spikec.extend.passbase import Context
from spikec.interpreter.contract import check_exact
from spikec.interpreter.interp import run as spikec_run
from spikec.interpreter.probe import probe
from spikec.ir.ops import Carried, Head, Mask, MatMul, MaxPool, Multiply, RunningDifference, Standardize
from spikec.ir.stages import IMPORTED
from spikec.ir.verify import verify


class Net(nn.Module):
    """A convolution, something, and a convolution behind it."""

    def __init__(self, call, channels=4):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(channels, 3, 1)
        self.call = call
        self.double().eval()

    def forward(self, x):
        return self.last(self.call(self.first(x)))


def images(count=32):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, 2, 5, 6, generator=generator, dtype=torch.float64)


def lowered(graph, *names):
    after = graph.copy()
    for name in names:
        before = after.copy()
        chosen = pass_named(name)
        assert chosen.run(after, Context(graph, calibration=build.samples(images()))) > 0
        verify(after, IMPORTED, graph.sources)
        check_exact(before, after, probe(graph, None, 0))
    return after


GATES = {
    "gate of a channel": lambda y: y * F.hardsigmoid(y.mean((2, 3), keepdim=True)),
    "gate of a place": lambda y: y * y.amax(1, keepdim=True),
    "of one size": lambda y: y * y.flip(1),
    "outer": lambda y: y.mean(2, keepdim=True) * y.mean(3, keepdim=True),
    "a signal that is always the same": lambda y: y * (0 * y + 3),
}
MATRICES = {
    "matrices": lambda y: y @ y.mT @ y,
    "matrices of a vector of samples": lambda y: (y.flatten(2) @ y.flatten(2).mT @ y.flatten(2)).unflatten(2, (5, 6)),
    "one matrix for all": lambda y: y @ (y.mean(1, keepdim=True).mT @ y),
}


@pytest.mark.parametrize("name", GATES | MATRICES)
def test_a_product_is_squares_without_loss(name):
    graph = spikec.load(Net((GATES | MATRICES)[name]), images(2))
    after = lowered(graph, "lower-products")
    assert not after.match(Multiply)
    assert not after.match(MatMul)


def test_a_product_with_itself_is_one_square():
    after = lowered(spikec.load(Net(lambda y: y * y), images(2)), "lower-products")
    assert [op.function for op in (node.op for node in after.match(spikec.ir.ops.ScalarFunction))] == ["square"]


NORMS = {
    "layer norm": lambda y: F.layer_norm(y, (6,)),
    "layer norm of all": lambda y: F.layer_norm(y, (4, 5, 6)),
    "layer norm of channels": lambda y: F.layer_norm(y.permute(0, 2, 3, 1), (4,)).permute(0, 3, 1, 2),
    "of five axes": lambda y: F.layer_norm(y.unflatten(1, (2, 1, 2)), (2, 5, 6)).flatten(1, 3),
    "group norm": lambda y: F.group_norm(y, 2),
    "instance norm": F.instance_norm,
    "rms norm": lambda y: F.rms_norm(y, (6,), eps=1e-4),
    "normalize": F.normalize,
    "normalize with a bound": lambda y: F.normalize(y, eps=0.5),
    "softmax": lambda y: torch.softmax(y, 1),
    "softmax of five axes": lambda y: torch.softmax(y.unflatten(1, (2, 1, 2)), 3).flatten(1, 3),
    "softmin": lambda y: F.softmin(y, 2),
    "log_softmax": lambda y: torch.log_softmax(y, 3),
    "masked": lambda y: torch.softmax(y.masked_fill(torch.ones(5, 6).triu(2).bool(), -torch.inf), -1),
}


FIVE_AXES = {"of five axes", "softmax of five axes"}


@pytest.mark.parametrize("name", NORMS)
def test_a_norm_is_means_and_functions_without_loss(name):
    graph = spikec.load(Net(NORMS[name]), images(2))
    after = lowered(graph, "lower-norms")
    assert not any(after.match(kind) for kind in (Standardize, Head, Mask))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted((NORMS | GATES | MATRICES).keys() - FIVE_AXES))
def test_neurons_are_near_to_it_and_nearer_with_more_steps(name):
    model, x = Net((NORMS | GATES | MATRICES)[name]).float(), images().float()
    snn = spikec.compile(model, "spikingjelly", calibration=x, normalization="max")
    with torch.no_grad():
        wanted = model(x)
        total, found = torch.zeros_like(wanted), {}
        for step in range(1, 257):
            total += snn(x)
            found[step] = float((total / step - wanted).norm() / (wanted - wanted.mean(0)).norm())
    assert found[256] < found[32] < found[4]
    assert found[256] < 0.1


@pytest.mark.parametrize("counters", [True, False])
@pytest.mark.parametrize("name", ["softmax", "softmin", "masked"])
def test_ramps_are_near_a_softmax_of_large_numbers_too(name, counters):
    """Whose exponentials range over 20 decades, so that a quotient of them has no use of ramps."""
    model, x = Net(lambda y: NORMS[name](30 * y)), images()
    compilation = spikec.Compiler("spikingjelly", calibration=x, normalization="max", counters=counters).run(model)
    (lowered,) = (stage.graph for stage in compilation.stages if stage.name == "lower-functions")
    with torch.no_grad():
        found, wanted = spikec.run(lowered, x), model(x)
    assert (found - wanted).norm() < 0.03 * (wanted - wanted.mean(0)).norm()


def test_softmax_without_pools_that_count_is_held_against_levels():
    """No tournament, whose errors add up; the levels are from the least to the largest maximum, and a step above."""
    model, x = Net(lambda y: torch.softmax(30 * y, -1)), images()
    graph = lowered(spikec.load(model, x), "lower-norms")
    assert not graph.match(MaxPool)
    with torch.no_grad():
        largest = (30 * model.first(x)).amax(-1)
    (bound,) = (name for name in graph if name.endswith("_bound"))
    found: list[torch.Tensor] = []
    spikec_run(graph, [x], tap=lambda name, value, *_: found.append(value), nodes={bound})
    over = found[0][..., 0] - largest
    assert over.min() > -1e-9
    assert over.max() <= 1


def test_softmax_by_levels_keeps_to_shares_beyond_the_calibration_data():
    model, x = Net(lambda y: torch.softmax(10 * y, -1)), images()
    normal = spikec.Normalization(v_init=0.5)
    snn = spikec.compile(model, "spikingjelly", calibration=x, normalization=normal, counters=False)
    with torch.no_grad():
        near, far = (torch.stack([snn(k * x) for _ in range(64)]).mean(0) for k in (1.2, 8))
        spread = (model(1.2 * x) - model(1.2 * x).mean(0)).norm()
        assert (near - model(1.2 * x)).norm() < 0.1 * spread
        weights = model.last.weight[:, :, 0, 0]
        low, high = (part.sum(1)[:, None, None] for part in (weights.clamp(max=0), weights.clamp(min=0)))
        shares = far - model.last.bias[:, None, None]
    assert (shares <= 1.05 * high + 0.05).all()
    assert (shares >= 1.05 * low - 0.05).all()


@pytest.mark.parametrize(
    "call", [lambda y: torch.softmax(9 * y, 1), GATES["gate of a channel"]], ids=["levels", "products"]
)
def test_a_saved_calibration_of_several_batches_gives_the_same_network(call, tmp_path):
    """The samples that it keeps are others than those of the first batch, which are all that was seen of them."""
    model, path = Net(call), tmp_path / "statistics.npz"
    given = {"target": "nir", "normalization": "max"}
    run = spikec.Compiler(calibration=[k * images(8) for k in (1, 2, 3)], **given).run(model)
    run.calibration.save(path)
    again = spikec.Compiler(calibration=spikec.Calibration.load(path), **given).run(model)
    assert str(again.graph) == str(run.graph)


def test_a_calibration_of_other_products_is_refused():
    wide, narrow = (nn.Sequential(nn.Linear(4, n), nn.GLU(), nn.Linear(n // 2, 2)).eval() for n in (6, 4))
    seen = spikec.calibrate(wide, torch.randn(16, 4))
    with pytest.raises(spikec.CalibrationError, match=r"of another model(.|\n)*at  1"):
        spikec.compile(narrow, "spikingjelly", calibration=seen)


def test_each_product_is_held_to_what_it_may_cost():
    model, x = Net(MATRICES["matrices"]), images()
    with pytest.raises(
        spikec.UnsupportedOpError, match="600 squares, about 9,600 neurons, and 4,000 are allowed"
    ) as it:
        spikec.compile(model, "spikingjelly", calibration=x, neuron_budget=4000)
    assert "neuron_budget=9600" in it.value.hint
    assert "accumulate=True" in it.value.hint
    assert "test_products.py" in it.value.location
    assert not spikec.check(model, "spikingjelly", calibration=x, neuron_budget=9600)


@pytest.mark.parametrize("target", ["nir", "netx"])
def test_a_target_without_the_shapes_says_so_before_it_looks_at_data(target):
    """With the place and the number of neurons, in `check` as in `compile`."""
    model, x = Net(MATRICES["matrices"]), images()
    with pytest.raises(spikec.UnsupportedOpError, match="600 squares, about 9,600 neurons, in shapes that") as it:
        spikec.compile(model, target, calibration=x)
    assert "profile='full' of the target \"nir\"" in it.value.hint
    assert 'target "spikingjelly"' in it.value.hint
    for options in ({"calibration": x}, {"example_input": x}):
        assert spikec.check(model, target, **options) == list(it.value.problems)


@pytest.mark.parametrize(("call", "what"), [(GATES["of one size"], "multiply"), (NORMS["softmax"], "softmax")])
def test_ranges_need_data(call, what):
    with pytest.raises(spikec.CompileError, match=f"{what} becomes neurons by the values .*no calibration data"):
        spikec.compile(Net(call), "spikingjelly", example_input=images(2))


# --------------------------------------------------------------------- carried


NO_NEURONS = NORMS | MATRICES | {"of one size": GATES["of one size"], "outer": GATES["outer"]}


@pytest.mark.parametrize("name", NO_NEURONS)
def test_what_is_carried_is_exact_for_inputs_that_stay(name):
    model, x = Net(NO_NEURONS[name]), images()
    with pytest.warns(spikec.SpikecWarning, match="no spikes"):
        compilation = spikec.Compiler("spikingjelly", calibration=x, accumulate=True, verify="each").run(model)
    assert compilation.graph.match(RunningDifference)
    assert "runningdifference" in str(compilation.ledger)
    snn, wanted = compilation.artifact, model(x)
    with torch.no_grad():
        for _ in range(3):
            torch.testing.assert_close(snn(x), wanted, rtol=1e-9, atol=1e-9)
        snn.reset()
        snn.step_mode = "m"
        steps = snn(x.expand(3, *x.shape))
    torch.testing.assert_close(steps, wanted.expand(3, *wanted.shape), rtol=1e-9, atol=1e-9)


def test_a_running_difference_is_the_function_of_the_means():
    """Against the equation, computed in numpy."""
    op = RunningDifference(Carried((MatMul(),)))
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(5, 2, 3, 4)), rng.normal(size=(5, 2, 4, 2))
    _, found = op.steps(op.initial(torch.tensor(a[0]), torch.tensor(b[0])), torch.tensor(a), torch.tensor(b))
    for t in range(1, 6):
        np.testing.assert_allclose(found[:t].mean(0), a[:t].mean(0) @ b[:t].mean(0), rtol=1e-12)


def test_behind_spikes_it_comes_nearer_with_more_steps():
    """Of a ReLU, and of a bound within what it gives, whose scales are not 1."""
    model, x = Net(lambda y: F.layer_norm(y.relu(), (6,)) * F.hardsigmoid(y.mean((2, 3), keepdim=True))), images()
    with pytest.warns(spikec.SpikecWarning, match="no spikes"):
        snn = spikec.compile(model, "spikingjelly", calibration=x, accumulate=True)
    with torch.no_grad():
        outputs = torch.stack([snn(x) for _ in range(256)])
        errors = [float((outputs[:t].mean(0) - model(x)).norm()) for t in (8, 64, 256)]
    assert errors[2] < errors[1] < errors[0]
    assert errors[2] < 0.05 * float(model(x).detach().norm())


def test_nothing_but_a_simulation_takes_it():
    model, x = Net(NORMS["softmax"]), images()
    with pytest.raises(spikec.CompileError, match="accumulate"):
        spikec.compile(model, "nir", calibration=x, accumulate=True)


IN_NIR = {name: (NORMS | GATES)[name] for name in ("layer norm of channels", "group norm", "instance norm")}
IN_NIR |= {"gate of a channel": GATES["gate of a channel"], "softmax": NORMS["softmax"]}


@pytest.mark.parametrize("name", IN_NIR)
def test_what_goes_to_nir_is_read_back_as_it_was(name):
    model, x = Net(IN_NIR[name]).float(), images(8).float()
    compilation = spikec.Compiler("nir", calibration=x, timesteps=16, normalization="max", profile="full").run(model)
    read = spikec.load(compilation.artifact)
    found, wanted = (spikec.run(graph, x, 16) for graph in (read, compilation.graph))
    torch.testing.assert_close(found.mean(0), wanted.mean(0), rtol=1e-4, atol=1e-4)
