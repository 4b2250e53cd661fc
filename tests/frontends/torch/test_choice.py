"""What is chosen by a comparison: read as torch computes it, and one function of what is compared, or refused."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import build
import spikec
from spikec.extend.loader import pass_named
from spikec.interpreter.contract import check_exact
from spikec.ir.choice import Choice
from spikec.ir.errors import CompileError, UnsupportedOpError
from spikec.ir.ops import Compare, ComposedFunction, LeakyRelu, Multiply, Relu, Where

SLOPES = torch.tensor([0.5, -0.25, 0.0, 2.0]).reshape(4, 1, 1)
ZEROS = torch.zeros(4, 6, 6)

#: functions of y, [B, 4, 6, 6], and what they become
STRAIGHT = {
    "where": (lambda y: torch.where(y > 0, y, 0.0), Relu),
    "where of zeros": (lambda y: torch.where(y > 0, y, torch.zeros_like(y)), Relu),
    "where of a constant": (lambda y: torch.where(y >= 0, y, ZEROS[:, :1]), Relu),
    "method": (lambda y: y.where(y > 0, 0.0), Relu),
    "turned": (lambda y: torch.where(torch.lt(torch.tensor(0.0), y), y, 0.0), Relu),
    "less": (lambda y: torch.where(y < 0, 0.0, y), Relu),
    "at most": (lambda y: torch.where(torch.less_equal(y, torch.tensor([0.0])), 0.0, y), Relu),
    "not": (lambda y: torch.where(~(y <= 0), y, 0.0), Relu),
    "product": (lambda y: y * (y > 0), Relu),
    "product of floats": (lambda y: (y.gt(0)).float() * y, Relu),
    "masked_fill": (lambda y: y.masked_fill(y < 0, 0.0), Relu),
    "masked_fill not": (lambda y: y.masked_fill(torch.logical_not(y.ge(0)), 0), Relu),
    "leaky": (lambda y: torch.where(y > 0, y, 0.1 * y), LeakyRelu),
    "prelu": (lambda y: torch.where(y > 0, y, SLOPES * y), LeakyRelu),
    "bound": (lambda y: torch.where(y > 0.3, y, 0.3), Relu),
    "threshold": (lambda y: torch.where(y > 0.3, y - 0.3, 0.0), Relu),
    "lines": (lambda y: torch.where(y < 0.5, 2 * y - 1, SLOPES * y - SLOPES / 2), Relu),
    "lines of sums": (lambda y: torch.where(y > 1, y + (y - 1), 3 * y - 2), Relu),
    "rounded lines": (lambda y: torch.where(y > 0.3, 1.7 * y, y + 0.21), Relu),
    "meet above zero": (lambda y: torch.where(y > 0, y + 1, 0.5 * y + 1), Relu),
    "meet at zero": (lambda y: torch.where(y > 1, y - 1, 0.5 * y - 0.5), Relu),
    "copied": (lambda y: torch.where((y > 0).contiguous(), y, 0.0), Relu),
    "negative product": (lambda y: y * (y < 0), Relu),
    "constant": (lambda y: y + torch.where(y > 0.5, 1.5, 1.5), type(None)),
}
CURVED = {
    "softplus": lambda y: torch.where(y > 20, y, torch.log1p(torch.exp(y))),
    "selu": lambda y: 1.05 * torch.where(y > 0, y, 1.67 * torch.expm1(y)),
    "mish": lambda y: y * torch.tanh(torch.where(y > 20, y, torch.log(1 + torch.exp(y)))),
    "of a line": lambda y: torch.where(1 - 2 * y < -9, 2 * y, F.softplus(2 * y)),
    "parallel but for rounding": lambda y: torch.where(y > 0.5, y + 1, y + 1.000001),
    "two bounds": lambda y: torch.where(y > 2, y + 2, torch.where(y < -2, -y + 2, y * y)),
}


class Net(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.same = nn.Conv2d(4, 4, 1, bias=False)
        self.same.weight.data = torch.eye(4).reshape(4, 4, 1, 1)
        self.function = function

    def forward(self, x):
        return self.function(self.same(x))


def numbers():
    """Random numbers, and the bounds themselves."""
    x = 3 * torch.randn(6, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    x[:, :, 0] = torch.tensor([0.0, -0.0, 0.3, 0.5, 1.0, 2.0])
    return x


def read(net, model=None):
    """The graph, which computes what torch does, and the graph of joined functions, which does too."""
    x = numbers()
    graph = spikec.load(net if model is None else model, x[:2])
    torch.testing.assert_close(spikec.run(graph, x), net(x), rtol=1e-6, atol=1e-6)
    after = graph.copy()
    for name in ("eliminate-identity", "join-functions"):
        pass_named(name).run(after, spikec.Context(graph))
    check_exact(graph, after, [x.double()])
    assert set(after.sources) == set(graph.sources)
    assert not any(after.match(kind) for kind in (Compare, Where, Multiply))
    return after


@pytest.mark.parametrize("name", STRAIGHT)
def test_lines_that_meet_are_relus(name):
    function, kind = STRAIGHT[name]
    after = read(Net(function))
    found = {type(node.op) for each in (Relu, LeakyRelu, ComposedFunction) for node in after.match(each)}
    assert found == {kind} - {type(None)}


@pytest.mark.parametrize("relation", ["gt", "ge", "lt", "le"])
def test_at_the_bound_it_is_what_torch_says(relation):
    """A network may jump where it is only read and run."""
    x = numbers()
    for net in (
        Net(lambda y: getattr(torch, relation)(y, 0.5) * y),
        Net(lambda y: torch.where(~getattr(torch, relation)(y, 0.5), y, -y)),
        Net(lambda y: torch.where(getattr(torch, relation)(torch.tensor(0.5), y), y, 2.0)),
    ):
        assert torch.equal(spikec.run(spikec.load(net, x[:2]), x), net(x))


def test_a_condition_that_is_no_comparison_chooses_no_line():
    b = build.Builder(3)
    graph = b.done(b.add(Where(), b.x, b.add(Compare("gt", 0.0), b.x, name="above"), b.x, name="act"))
    assert Choice.of(graph, "act") is None


def test_samples_of_one_number():
    net = Net(lambda y: (s := y.mean((1, 2, 3))) * (s > 0))
    read(net)


@pytest.mark.parametrize("name", CURVED)
def test_what_goes_on_as_another_curve_is_one_function(name):
    assert len(read(Net(CURVED[name])).match(ComposedFunction)) == 1


def test_a_layer_that_is_written_so_compiles_to_the_same_spikes():
    """As with torch's own ReLU and PReLU."""
    x, leak = numbers(), nn.PReLU(4)
    leak.weight.data = SLOPES.reshape(4)
    pairs = ((nn.ReLU(), STRAIGHT["product"][0]), (leak, STRAIGHT["prelu"][0]))
    for layer, function in pairs:
        own, written = (spikec.compile(Net(f), "spikingjelly", calibration=x, timesteps=8) for f in (layer, function))
        assert torch.equal(spikec.simulate(own, x, timesteps=8).answer, spikec.simulate(written, x, timesteps=8).answer)


LAYERS = {
    "PReLU": (nn.PReLU(4, 0.3), LeakyRelu),
    "CELU": (nn.CELU(0.7), ComposedFunction),
    "Softplus": (nn.Softplus(2.0, 10.0), ComposedFunction),
    "Mish": (nn.Mish(), ComposedFunction),
    "Threshold": (nn.Threshold(0.0, 0.0), Relu),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", LAYERS)
def test_programs_of_core_operators(name):
    layer, kind = LAYERS[name]
    net = Net(layer).eval()
    program = torch.export.export(net, (numbers(),)).run_decompositions()
    assert len(read(net, program).match(kind)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["where", "product", "masked_fill", "prelu", "lines"])
def test_exported_programs(name):
    net = Net(STRAIGHT[name][0])
    read(net, torch.export.export(net, (numbers(),)))


def test_a_constant_mask_chooses_too():
    mask = torch.rand(4, 1, 6, generator=torch.Generator().manual_seed(1)) > 0.5
    x = numbers()
    for function in (
        lambda y: torch.where(mask, y, 0.5),
        lambda y: torch.where(mask, 0.5, y),
        lambda y: y.where(mask, y.flip(1)),
        lambda y: torch.softmax(torch.where(mask | mask.logical_not(), y, -torch.inf), 1),
        lambda y: torch.softmax(torch.where(torch.arange(6) < 3, y, -torch.inf), -1),
    ):
        net = Net(function)
        torch.testing.assert_close(spikec.run(spikec.load(net, x[:2]), x), net(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("function", "match"),
    [
        (lambda y: torch.where(y > y.flip(1), y, 0.0), "two signals are compared"),
        (lambda y: torch.where(y > SLOPES, y, 0.0), "compares with several numbers"),
        (lambda y: torch.where(y, y, 0.0), "no comparison of a signal"),
        (lambda y: y.masked_fill(y, 0.0), "no comparison of a signal"),
        (lambda y: ~y, "no comparison of a signal"),
        (lambda y: y == 0, "it jumps"),
    ],
)
def test_what_is_no_choice_is_refused(function, match):
    with pytest.raises(CompileError, match=match):
        spikec.load(Net(function), numbers())


@pytest.mark.parametrize(
    ("function", "match"),
    [
        (lambda y: torch.where(y > 0.5, y, 0.0), "jumps at 0.5 from 0 to 0.5, and a rate changes steadily"),
        (lambda y: y * (y > 1), "jumps at 1 from 0 to 1"),
        (
            lambda y: torch.where(2 * y > 1, F.softplus(y) + 0.01, F.softplus(y)),
            "jumps at 0.5 from 0.974077 to 0.984077",
        ),
        (lambda y: torch.where(y > 0, y, torch.exp(y)), "jumps at 0 from 1 to 0"),
        (lambda y: torch.where(y > 0, y + SLOPES, SLOPES * y), "where has no spiking form"),
        (lambda y: torch.where(y > 0, y.flip(1), 0.0), "where has no spiking form"),
        (lambda y: torch.where(y.abs() > 1, y, 0.0), "where has no spiking form"),
        (lambda y: torch.where(0 * y > 1, y.exp(), y), "where has no spiking form"),
        (
            lambda y: torch.where((y * SLOPES[3] + 1 / SLOPES[:2].repeat(2, 1, 1)) > 1, y.exp(), y),
            "where has no spiking",
        ),
        (lambda y: (y > 0).float(), "compare has no spiking form"),
    ],
)
def test_what_jumps_is_refused_with_the_users_line(function, match):
    with pytest.raises(UnsupportedOpError, match=match) as caught:
        spikec.compile(Net(function), "spikingjelly", calibration=numbers())
    assert "test_choice.py" in str(caught.value)
    assert "where(x > 0, x, 0.1 * x)" in str(caught.value)
