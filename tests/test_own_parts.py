"""Passes, ops and targets of one's own that are wrong: each is told so, by name."""

from typing import ClassVar

import attrs
import numpy as np
import pytest
import torch
from torch import nn

import build
import spikec
from spikec import (
    CompileError,
    Compiler,
    InvalidModelError,
    Pass,
    Pipeline,
    TypeMismatchError,
    VerificationError,
)
from spikec.extend import loader
from spikec.extend.loader import pass_named
from spikec.interpreter.contract import check_exact
from spikec.interpreter.probe import probe
from spikec.interpreter.results import difference, outputs
from spikec.ir.op import Op, Role
from spikec.ir.ops import Flatten, Linear, Relu
from spikec.ir.rewrite import rewrite
from spikec.ir.stages import FOLDED

X = torch.rand(30, 2, 8, 6, generator=torch.Generator().manual_seed(0))
TARGET = build.GraphTarget()


@attrs.frozen
class Poison(Pass):
    """Writes one NaN into the weights of the last layer."""

    name = "poison"
    needs = (FOLDED,)

    def run(self, graph, context):
        node = graph.match(Linear)[-1]
        weight = node.op.weight.copy()
        weight[0, 0] = np.nan
        graph.set_op(node.name, attrs.evolve(node.op, weight=weight))
        return 1


@attrs.frozen
class Scaled(Pass):
    """Claims to be exact; multiplies the last layer by ``factors[0]``."""

    name = "scaled"
    needs = (FOLDED,)
    factors: np.ndarray = attrs.field(factory=lambda: np.array([1.5, 2.0]))
    fails: bool = False

    def run(self, graph, context):
        if self.fails:
            raise KeyError("mine")
        node = graph.match(Linear)[-1]
        graph.set_op(node.name, attrs.evolve(node.op, weight=node.op.weight * self.factors[0]))
        return 1


@attrs.frozen
class Mute(Pass):
    name = "mute"

    def run(self, graph, context):
        return None


@attrs.frozen
class Join(Pass):
    """Two linear ops in a row are one."""

    name = "join"
    needs = (FOLDED,)

    def run(self, graph, context):
        def join(first, second):
            weight = second.op.weight.astype(float) @ first.op.weight.astype(float)
            bias = second.op.weight.astype(float) @ first.op.shift + second.op.shift
            graph.set_op(second.name, Linear(weight, bias, origin=first.op.origin + second.op.origin))
            graph.bypass(first.name)
            return True

        return rewrite(graph, (Linear, Linear), join)


def compiled(*passes, verify="each", after="fold-batchnorm"):
    pipeline = Pipeline.default(TARGET)
    for each in passes:
        pipeline = pipeline.insert_after(after, each)
    return Compiler(TARGET, calibration=X, pipeline=pipeline, verify=verify).run(build.residual())


@pytest.mark.parametrize("verify", ["each", "end", "off"])
def test_a_pass_that_writes_nan_is_refused_where_it_does(verify):
    with pytest.raises(VerificationError, match="weight holds NaN or infinity") as caught:
        compiled(Poison(), verify=verify)
    assert caught.value.location == "fc"


def test_nan_is_a_difference_whatever_stands_beside_it():
    b = build.Builder(3)
    g = b.done(b.linear(b.x, 4, "good"), b.linear(b.x, 4, "bad"))
    for name, factor in (("good", np.nan), ("bad", np.nan)):
        other = g.copy()
        other.set_op(name, attrs.evolve(other[name], weight=other[name].weight * factor))
        xs = probe(g, None, 0)
        with pytest.raises(VerificationError, match="by nan"):
            check_exact(g, other, xs)
        assert np.isnan(difference(outputs(g, xs, 1), outputs(other, xs, 1), outputs(g, xs, 1)))


def test_the_pass_that_broke_a_run_of_exact_passes_is_named():
    with pytest.raises(VerificationError, match=r"pass scaled{factors=.*: an exact pass changed the output by"):
        compiled(Scaled(np.array([1.2])), verify="end")


def test_a_pass_that_returns_nothing_is_told_to_count():
    with pytest.raises(VerificationError, match=r"reports None change\(s\)"):
        compiled(Mute())


def test_an_array_among_its_options_does_not_hide_what_a_pass_raised():
    with pytest.raises(KeyError, match="mine"):
        compiled(Scaled(np.array([1.0, 3.0]), fails=True))
    assert str(Scaled(np.array([1.0, 3.0]))) == "scaled{factors=(1.0, 3.0)}"


def test_stages_that_are_no_tuple_are_refused():
    with pytest.raises(CompileError, match=r"needs = \(FOLDED,\)"):
        type("Bare", (Pass,), {"name": "bare", "needs": FOLDED})


def test_three_in_a_row_become_one():
    net = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 4), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).eval()
    pipeline = Pipeline.default(TARGET).insert_after("fold-batchnorm", Join())
    run = Compiler(TARGET, calibration=torch.rand(9, 3), pipeline=pipeline, verify="each").run(net)
    assert len(run.graph.match(Linear)) == 2
    assert {stage.name: stage.changes for stage in run.stages}["join"] == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pass_named("dither-potential", layerz="all"), "did you mean 'layers'"),
        (lambda: pass_named("dither-potential", layers="some"), "pass dither-potential does not fit: layers is 'some'"),
        (lambda: Compiler("netx", reset="x"), "option of target netx does not fit: reset is 'x'"),
        (lambda: Compiler("spikingjelly", counters="no"), "counters is 'no'"),
        (lambda: Compiler(build.GraphTarget), r"an instance of a Backend: B\(\)"),
    ],
)
def test_wrong_options_are_told_in_one_line(make, message):
    with pytest.raises(CompileError, match=message):
        make()


@pytest.mark.parametrize(("room", "held"), [("backends", "backend"), ("frontends", "frontend")])
def test_a_file_that_holds_nothing_is_named(room, held, tmp_path, monkeypatch):
    (tmp_path / "helper.py").write_text("")
    package = __import__(f"spikec.{room}", fromlist=["x"])
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    with pytest.raises(CompileError, match=rf"{room}/helper holds no '{held}'"):
        loader.backend_named("helper") if room == "backends" else list(loader.frontends())


@attrs.frozen(eq=False)
class Every2nd(Op):
    """Its type rule forgets that it drops cells."""

    kind: ClassVar[str] = "every2nd"
    role: ClassVar[Role] = Role.LINEAR

    def infer(self, *operands):
        return operands[0]

    def eval(self, *xs):
        return xs[0][..., ::2]


@attrs.frozen(eq=False)
class Steps(Op):
    """Each cell less the one before it: linear, and not monotone."""

    kind: ClassVar[str] = "steps"
    role: ClassVar[Role] = Role.LINEAR

    def infer(self, *operands):
        (x,) = operands
        if x.scale.size > 1:
            raise TypeMismatchError("steps takes one scale for all cells")
        return attrs.evolve(x, shape=(*x.shape[:-1], x.shape[-1] - 1))

    def eval(self, *xs):
        return xs[0][..., 1:] - xs[0][..., :-1]


@attrs.frozen
class Put(Pass):
    """An op of one's own in front of each flatten."""

    name = "put"
    contract = "approximate"
    needs = (FOLDED,)
    op: Op = Every2nd()

    def run(self, graph, context):
        for node in graph.match(Flatten):
            graph.insert_before(node.name, 0, self.op)
        return len(graph.match(Flatten))


def test_an_op_whose_type_rule_is_wrong_is_named():
    with pytest.raises(VerificationError, match=r"every2nd gives samples of shape .* its type rule says") as caught:
        compiled(Put())
    assert "mend Every2nd.infer" in caught.value.hint


def subtracting():
    b = build.Builder(4)
    h = b.relu(b.linear(b.x, 9, "fc1"), "relu1")
    return b.done(b.linear(b.relu(b.add(Steps(), h, name="steps"), "relu2"), 3, "fc2"))


def test_weights_alone_do_not_bound_what_subtracts():
    with (
        pytest.warns(spikec.SpikecWarning, match="weights alone"),
        pytest.raises(InvalidModelError, match="steps subtracts") as caught,
    ):
        Compiler(TARGET, normalization=spikec.Normalization(method="model")).run(subtracting())
    assert caught.value.location == "steps"
    given = pass_named("normalize", normalization=spikec.Normalization(method="max"))
    graph = subtracting()
    given.run(graph, spikec.Context(graph, calibration=build.samples(torch.rand(9, 4).double())))
    assert all(node.op.scale is not None for node in graph.match(Relu))
