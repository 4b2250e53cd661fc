"""Functions that are written as several ops become one."""

from typing import ClassVar

import attrs
import pytest
import torch

import build
import spikec
from spikec.extend.loader import pass_named
from spikec.interpreter.contract import check_exact
from spikec.ir.op import Op, Role
from spikec.ir.ops import Add, BatchNorm, Clamp, ComposedFunction, Head, ScalarFunction


@attrs.frozen(eq=False)
class Product(Op):
    """``y = a b``."""

    kind: ClassVar[str] = "product"
    role = Role.ACTIVATION
    arity = 2
    elementwise = True

    def shape_of(self, *operands):
        return operands[0].shape

    def eval(self, *xs):
        return xs[0] * xs[1]


def line(channels, gain, shift):
    one = torch.ones(channels, dtype=torch.float64).numpy()
    return BatchNorm(gain * one, shift * one, 0 * one, one, 0.0)


def silu(b, x):
    return b.add(Product(), x, b.add(Head("sigmoid"), x, name="sigmoid"), name="act")


def gelu(b, x):
    erf = b.add(ScalarFunction("erf"), b.add(line(3, 0.5**0.5, 0.0), x, name="scaled"), name="erf")
    half = b.add(line(3, 0.5, 0.0), x, name="half")
    return b.add(Product(), half, b.add(line(3, 1.0, 1.0), erf, name="plus"), name="act")


def hardswish(b, x):
    inside = b.add(Clamp(0.0, 6.0), b.add(line(3, 1.0, 3.0), x, name="plus"), name="clip")
    return b.add(line(3, 1 / 6, 0.0), b.add(Product(), x, inside, name="act"), name="sixth")


def softplus(b, x):
    exp = b.add(ScalarFunction("exp"), x, name="exp")
    return b.add(ScalarFunction("log"), b.add(line(3, 1.0, 1.0), exp, name="plus"), name="act")


FORMS = {
    "silu": (silu, torch.nn.functional.silu, ((0, 0), (1, 0))),
    "gelu": (gelu, torch.nn.functional.gelu, ((0, 0), (1, 0))),
    "hardswish": (hardswish, lambda x: 6 * torch.nn.functional.hardswish(x), ((0, 0), (6, 0))),
    "softplus": (softplus, torch.nn.functional.softplus, ((0, 0), None)),  # exp overflows at large numbers
}


def joined(form):
    b = build.Builder(3, 2)
    graph = b.done(form(b, b.x))
    after = graph.copy()
    changes = pass_named("join-functions").run(after, spikec.Context(graph))
    return graph, after, changes


@pytest.mark.parametrize("name", FORMS)
def test_a_form_is_one_function(name):
    form, function, lines = FORMS[name]
    graph, after, changes = joined(form)
    assert changes == 1
    (node,) = after.match(ComposedFunction)
    assert after.operands(node.name) == (graph.inputs[0],)
    x = torch.randn(50, 3, 2, dtype=torch.float64)
    torch.testing.assert_close(node.op.eval(x), function(x), rtol=1e-12, atol=1e-12)
    check_exact(graph, after, [x])
    assert set(graph.sources) == set(after.sources)
    for found, wanted in zip(node.op.asymptotes(), lines, strict=True):
        assert found == (None if wanted is None else pytest.approx(wanted, abs=1e-9))


def test_what_others_use_stays():
    def form(b, x):
        return b.add(Add(), silu(b, x), "sigmoid", name="sum")

    graph, after, changes = joined(form)
    assert changes == 1
    assert "sigmoid" in after
    check_exact(graph, after, [torch.randn(9, 3, 2, dtype=torch.float64)])


@pytest.mark.parametrize("other", ["conv", "channels"])
def test_a_gate_of_another_signal_is_left(other):
    def form(b, x):
        gains = torch.arange(1.0, 4.0, dtype=torch.float64)
        op = line(3, 1.0, 0.0)
        y = b.linear(x, 2, "fc") if other == "conv" else b.add(attrs.evolve(op, weight=gains.numpy()), x, name="norm")
        return b.add(Product(), x, b.add(Head("sigmoid"), y, name="sigmoid"), name="act")

    _, after, changes = joined(form)
    assert changes == 0
    assert not after.match(ComposedFunction)
