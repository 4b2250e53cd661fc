"""Smooth functions in every spelling, read through torch.fx and torch.export, against torch in float64."""

import operator

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import spikec
from spikec.frontends.torch import converter, scalar_function
from spikec.ir.errors import CompileError, UnsupportedOpError
from spikec.ir.ops import Head, ScalarFunction

SHAPE = (3, 4)


class Net(nn.Module):
    def __init__(self, call):
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(4, 5)
        self.call = call
        self.eval()

    def forward(self, x):
        return self.call(self.fc(x))


def positive(function):
    """A function of positive numbers only."""
    return lambda y: function(y.abs() + 0.1)


#: every one, and the name of the function that it is read as
CALLS = {
    "F.silu": (F.silu, "silu"),
    "F.silu in place": (lambda y: F.silu(y, inplace=True), "silu"),
    "F.gelu": (F.gelu, "gelu"),
    "F.gelu tanh": (lambda y: F.gelu(y, approximate="tanh"), "gelu_tanh"),
    "F.hardswish": (F.hardswish, "hardswish"),
    "F.mish": (F.mish, "mish"),
    "F.elu": (lambda y: F.elu(y, 0.7), "elu"),
    "F.elu_": (F.elu_, "elu"),
    "F.celu": (lambda y: F.celu(y, 0.6), "elu"),
    "torch.celu": (torch.celu, "elu"),
    "F.selu": (F.selu, "elu"),
    "torch.selu_": (torch.selu_, "elu"),
    "F.softplus": (F.softplus, "softplus"),
    "F.softplus beta": (lambda y: F.softplus(y, 2.0, 1.0), "softplus"),
    "F.tanhshrink": (F.tanhshrink, "tanhshrink"),
    "F.softsign": (F.softsign, "softsign"),
    "torch.exp": (torch.exp, "exp"),
    "Tensor.exp_": (lambda y: y.exp_(), "exp"),
    "torch.exp2": (torch.exp2, "exp2"),
    "torch.special.expm1": (torch.special.expm1, "expm1"),
    "torch.log": (positive(torch.log), "log"),
    "Tensor.log2": (positive(lambda y: y.log2()), "log2"),
    "torch.log10": (positive(torch.log10), "log10"),
    "torch.log1p": (positive(torch.log1p), "log1p"),
    "torch.sqrt": (positive(torch.sqrt), "sqrt"),
    "Tensor.rsqrt": (positive(lambda y: y.rsqrt()), "rsqrt"),
    "torch.reciprocal": (positive(torch.reciprocal), "reciprocal"),
    "torch.square": (torch.square, "square"),
    "** 2": (lambda y: y**2, "square"),
    "** 3": (lambda y: y**3, "integer_pow"),
    "** 0.5": (positive(lambda y: y**0.5), "sqrt"),
    "** 1.7": (positive(lambda y: y**1.7), "pow"),
    "** -1": (positive(lambda y: y**-1), "reciprocal"),
    "** -2": (positive(lambda y: y**-2), "inverse_pow"),
    "operator.pow": (lambda y: operator.pow(y, torch.tensor(3.0)), "integer_pow"),
    "torch.pow": (lambda y: torch.pow(y, 4), "integer_pow"),
    "Tensor.pow": (lambda y: y.pow(2), "square"),
    "2 **": (lambda y: 2.0**y, "to_the"),
    "torch.pow of a number": (lambda y: torch.pow(0.5, y), "to_the"),
    "torch.erf": (torch.erf, "erf"),
    "torch.special.erfc": (torch.special.erfc, "erfc"),
    "torch.special.ndtr": (torch.special.ndtr, "ndtr"),
    "torch.sin": (torch.sin, "sin"),
    "torch.cos": (torch.cos, "cos"),
    "torch.arctan": (torch.arctan, "atan"),
    "torch.sinh": (torch.sinh, "sinh"),
    "torch.cosh": (torch.cosh, "cosh"),
    "torch.asinh": (torch.asinh, "asinh"),
}
LAYERS = {
    "SiLU": nn.SiLU,
    "GELU": lambda: nn.GELU("tanh"),
    "Hardswish": nn.Hardswish,
    "Mish": nn.Mish,
    "ELU": lambda: nn.ELU(0.5),
    "CELU": lambda: nn.CELU(1.5),
    "SELU": nn.SELU,
    "Softplus": lambda: nn.Softplus(3),
    "Tanhshrink": nn.Tanhshrink,
    "Softsign": nn.Softsign,
}
#: what torch.export takes apart
IN_PARTS = ("F.softsign", "F.tanhshrink")


@pytest.mark.parametrize("name", CALLS)
def test_a_function_is_read_as_what_torch_computes(name, agrees):
    call, function = CALLS[name]
    graph = agrees(Net(call), SHAPE)
    assert [node.op.function for node in graph.match(ScalarFunction)] == [function]


@pytest.mark.parametrize("name", [name for name in CALLS if name not in IN_PARTS])
def test_a_function_is_read_of_an_exported_program(name):
    call, function = CALLS[name]
    model, x = Net(call).double(), torch.randn(2, *SHAPE, dtype=torch.float64)
    graph = spikec.load(torch.export.export(model, (x,)))
    assert [node.op.function for node in graph.match(ScalarFunction)] == [function]
    more = torch.randn(2, *SHAPE, dtype=torch.float64)
    torch.testing.assert_close(spikec.run(graph, more), model(more).detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("head", [nn.Sigmoid(), nn.LogSigmoid(), nn.Tanh(), nn.Softmax(1), nn.LogSoftmax(1)], ids=str)
def test_a_head_is_read_of_an_exported_program(head):
    model, x = nn.Sequential(nn.Linear(4, 5), head).double(), torch.randn(2, 4, dtype=torch.float64)
    graph = spikec.load(torch.export.export(model, (x,)))
    assert len(graph.match(Head)) == 1
    torch.testing.assert_close(spikec.run(graph, x), model(x).detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_one_op_of_its_name(name, agrees):
    graph = agrees(nn.Sequential(nn.Linear(4, 5), LAYERS[name]()).eval(), SHAPE)
    (node,) = graph.match(ScalarFunction)
    assert (node.name, node.op.origin[0].kind) == (f"{name.lower()}_1", f"nn.{name}")


@pytest.mark.slow
def test_powers_that_are_no_function(agrees):
    assert not agrees(Net(lambda y: y**1), SHAPE).match(ScalarFunction)
    assert not agrees(Net(lambda y: y**0), SHAPE).match(ScalarFunction)
    for call, match in ((lambda y: y**y, "two signals"), (lambda y: (-2.0) ** y, "a power of -2")):
        with pytest.raises(UnsupportedOpError, match=match):
            spikec.load(Net(call), torch.zeros(1, *SHAPE))
    with pytest.raises(UnsupportedOpError, match="no single number"):
        spikec.load(Net(lambda y: torch.pow(y, torch.ones(5))), torch.zeros(1, *SHAPE))


def test_asymptotes_are_what_torch_goes_to():
    """At 60 all of these are within rounding of their lines, but for those in `far`, which are slow."""
    far = {"atan": 1e12, "softsign": 1e13, "reciprocal": 1e13, "inverse_pow": 1e7, "rsqrt": 1e26}
    constants = {"elu": (0.7, 1.1, 0.9), "softplus": (2.0, 20.0), "inverse_pow": (-2.0,), "line": (2, 3)}
    flat = ("silu", "gelu", "hardswish", "mish", "elu", "softplus", "sigmoid", "log_sigmoid", "erf", "erfc", "ndtr")
    for name in (*flat, "tanh", "tanhshrink", "exp", "exp2", "expm1", "line", *far):
        op = ScalarFunction(name, constants.get(name, ()))
        for line, sign in zip(op.asymptotes(), (-1, 1), strict=True):
            if line is not None:
                x = torch.tensor(sign * far.get(name, 60.0), dtype=torch.float64)
                assert float(op.eval(x)) == pytest.approx(line[0] * float(x) + line[1], abs=1e-11), name


# -------------------------------------------------------------- the user's own


class Snake(nn.Module):
    """``x + sin(alpha x)^2 / alpha`` (Ziyin et al. 2020)."""

    def __init__(self, alpha):
        super().__init__()
        self.alpha = alpha

    def forward(self, x):
        return x + torch.sin(self.alpha * x) ** 2 / self.alpha


def test_a_layer_of_the_users_own_is_one_function(agrees, monkeypatch):
    monkeypatch.setattr(converter, "_table", dict(converter._table))
    scalar_function(Snake, lambda x, alpha: x + torch.sin(alpha * x) ** 2 / alpha, constants=["alpha"])
    graph = agrees(nn.Sequential(nn.Linear(4, 5), Snake(0.7), Snake(2.0)).eval(), SHAPE)
    assert [(node.op.function, node.op.constants) for node in graph.match(ScalarFunction)] == [
        ("Snake", (0.7,)),
        ("Snake", (2.0,)),
    ]
    assert graph.match(ScalarFunction)[0].op.asymptotes() == (None, None)


def test_a_function_of_torchs_is_registered_by_itself(agrees, monkeypatch):
    monkeypatch.setattr(converter, "_table", dict(converter._table))
    scalar_function(torch.special.i0e)
    graph = agrees(Net(torch.special.i0e), SHAPE)
    assert [str(node.op) for node in graph.match(ScalarFunction)] == ["special_i0e"]


def test_a_layer_without_what_it_computes_is_an_error():
    with pytest.raises(CompileError, match="what the layer .*Snake computes is not given"):
        scalar_function(Snake)


def test_an_unknown_function_is_an_error():
    with pytest.raises(CompileError, match="no scalar function 'nothing'"):
        ScalarFunction("nothing")


def test_a_head_inside_the_net_is_a_function_too():
    assert Head("sigmoid").scalar.function == "sigmoid"
    assert Head("softmax").scalar is None
