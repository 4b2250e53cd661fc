"""The numeric checks between passes, fed single steps: what each kind of pass is held to, and when."""

import attrs
import numpy as np
import pytest
import torch

import build
from spikec import Pass, VerificationError
from spikec.extend.passbase import Note
from spikec.interpreter.probe import probe
from spikec.ir.op import Op, Role
from spikec.ir.ops import IF, Input, Linear
from spikec.pipeline.manager import Step
from spikec.pipeline.observers import Dump, Numbers


@attrs.frozen
class Exact(Pass):
    name = "exact-pass"


@attrs.frozen
class Rate(Pass):
    name = "rate-pass"
    contract = "rate"


@attrs.frozen
class Approximate(Pass):
    name = "approximate-pass"
    contract = "approximate"


def step(by, before, after, **options):
    return Step(1, by, before, after, 1, 0.0, (), **options)


def numbers(graph, each=True, timesteps=8):
    return Numbers(graph, probe(graph, None, 0), each=each, timesteps=timesteps)


def scaled(graph, gain):
    other = graph.copy()
    op = other["fc3"]
    other.set_op("fc3", attrs.evolve(op, weight=gain * op.weight, bias=gain * op.bias))
    return other


def firing(**options):
    """Two features, an IF, and its output."""
    b = build.Builder(2)
    b.graph.set_op("x", Input((2,), "float64", rate=True, origin=build.source("x")))
    return b.done(b.add(IF(np.ones(1), **options), b.add(Linear(np.eye(2)), b.x, name="fc"), name="if"))


def test_neurons_of_a_rate_pass_are_held_to_their_rate():
    ann = build.mlp()
    wrong = firing(v_reset=np.zeros(1))
    assert "rate: 0.0e+00" in numbers(firing())(step(Rate(), firing(), firing()))
    with pytest.raises(VerificationError, match="clipped ReLU"):
        numbers(firing())(step(Rate(), firing(), wrong))
    assert numbers(ann)(step(Approximate(), ann, ann.copy())) == "approximate: 0.0e+00 of the ANN's spread at T=8"


def test_shapes_are_checked_after_every_pass_that_changes_something():
    @attrs.frozen(eq=False)
    class Short(Op):
        kind = "short"
        role = Role.LINEAR

        def infer(self, *operands):
            return operands[0]

        def eval(self, *xs):
            return xs[0][:, :1]

    graph = build.mlp()
    wrong = graph.copy()
    wrong.insert_before("output", 0, Short())
    for each in (False, True):
        with pytest.raises(VerificationError, match="its type rule says"):
            numbers(graph, each=each)(step(Approximate(), graph, wrong))


def test_a_run_of_exact_passes_is_checked_at_the_end_and_the_one_to_blame_is_named():
    graph = build.mlp()
    broken, after = scaled(graph, 1.01), scaled(graph, 1.01)
    observer = numbers(graph, each=False)
    assert observer(step(Exact(), graph, broken, next=Exact())) is None
    with pytest.raises(VerificationError, match="pass exact-pass: an exact pass changed the output") as refused:
        observer(step(Exact(), broken, after))
    assert refused.value.step.after is broken
    with pytest.raises(VerificationError, match="^an exact pass changed the output"):
        numbers(graph, each=True)(step(Exact(), graph, broken))


def test_a_rate_pass_is_measured_against_the_ann_just_before_and_others_against_the_graph_before():
    graph = build.mlp()
    changed = scaled(graph, 1.5)
    observer = numbers(graph)
    assert "0.0e+00" not in observer(step(Approximate(), graph, changed))
    assert "0.0e+00" in observer(step(Rate(), changed, changed.copy()))
    spiking = firing(v_init=np.full(1, 0.5))
    ann = spiking.copy()
    ann.bypass("if", "for this test")
    observer = Numbers(ann, (torch.rand(6, 2, dtype=torch.float64),), each=True, timesteps=8)
    assert "0.0e+00" not in observer(step(Rate(), ann, spiking))
    assert "0.0e+00" in observer(step(Approximate(), spiking, spiking.copy()))
    assert "0.0e+00" not in observer(step(Rate(), spiking, spiking.copy()))


def test_a_row_of_the_index_is_one_line(tmp_path):
    graph = build.mlp()
    dump = Dump(tmp_path, graph)
    found = attrs.evolve(step(Exact(), graph, graph), notes=(Note("exact-pass", "fc1", "two\nlines"),))
    dump(found)
    dump.failed(attrs.evolve(found, index=2), ValueError("more\nlines"))
    rows = (tmp_path / "index.tsv").read_text().splitlines()
    assert len(rows) == 4
    assert rows[2].endswith("%fc1: two lines")
    assert "\tValueError: more lines\t" in rows[3]
