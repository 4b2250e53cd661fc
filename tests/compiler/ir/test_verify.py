import attrs
import numpy as np
import pytest

import build
from spikec import Graph, TypeMismatchError, UnsupportedOpError, VerificationError
from spikec.ir.ops import IF, BatchNorm, Clamp, Conv, Delay, Identity, Input, Linear, MaxPool, Output, Relu, Rescale
from spikec.ir.stages import CALIBRATED, FINAL, FOLDED, IMPORTED, RECEIVED, SPIKING
from spikec.ir.verify import verify


def chain(*ops, rate=False):
    b = build.Builder(4)
    b.graph.set_op("x", Input((4,), "float64", rate, origin=build.source("x")))
    x = b.x
    for i, op in enumerate(ops):
        x = b.add(op, x, name=f"op{i}")
    return b.done(x)


def test_a_sound_graph_passes():
    verify(build.residual(), IMPORTED, build.residual().sources)


def test_no_output():
    g = Graph()
    g.add(Input((3,)))
    with pytest.raises(VerificationError, match="no output"):
        verify(g, IMPORTED)


def test_a_result_nobody_uses():
    g = build.mlp()
    g.add(Relu(), "relu1", name="lost")
    with pytest.raises(VerificationError, match="nobody uses"):
        verify(g, IMPORTED)


def test_a_missing_operand():
    g = build.mlp()
    g.set_operands("relu2")
    g.add(Output(), "fc2")
    with pytest.raises(VerificationError, match=r"takes 1 operand\(s\), has 0"):
        verify(g, IMPORTED)


def test_a_vanished_source_is_named():
    g = build.mlp()
    sources = g.sources
    g.bypass("bn1")
    with pytest.raises(VerificationError, match="vanished") as caught:
        verify(g, IMPORTED, sources)
    assert caught.value.location == "bn1"


def test_an_operand_too_many():
    g = build.mlp()
    g.set_operands("relu2", "fc2", "fc2")
    with pytest.raises(VerificationError, match=r"takes 1 operand\(s\), has 2"):
        verify(g, IMPORTED)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_parameter_that_is_not_finite_is_named_once(value):
    g = build.mlp()
    weight = g["fc2"].weight.copy()
    weight[3, 2] = value
    g.set_op("fc2", attrs.evolve(g["fc2"], weight=weight))
    with pytest.raises(VerificationError, match="its weight holds NaN or infinity") as caught:
        verify(g, IMPORTED, before=build.mlp())
    assert caught.value.location == "fc2"
    verify(g, IMPORTED, before=g)  # the ops of a graph that was checked are not looked at again


def test_a_register_is_held_to_the_type_that_it_declares():
    g = Graph()
    x = g.add(Input((4,), "float64", rate=True))
    register = g.add(Delay(g.type(x)), x, name="register")
    g.add(Output(), register)
    verify(g, SPIKING)
    g.set_operands(register, g.add(Linear(np.ones((3, 4))), x))
    with pytest.raises(TypeMismatchError, match="the delay is declared") as caught:
        verify(g, SPIKING)
    assert caught.value.problems[0].op.startswith("%register")


def test_a_dropped_source_needs_a_reason():
    g = build.mlp()
    sources = g.sources
    g.bypass("bn1", "for this test")
    verify(g, IMPORTED, sources)


ONES = np.ones((1,))
NORM = BatchNorm(np.ones(4), np.zeros(4), np.zeros(4), np.ones(4))


@pytest.mark.parametrize(
    ("stage", "graph", "error", "message"),
    [
        (FOLDED, chain(Identity()), UnsupportedOpError, "identity"),
        (FOLDED, build.mlp(), UnsupportedOpError, "batchnorm"),
        (FOLDED, chain(Clamp(-1, 1)), UnsupportedOpError, "clamp has no spiking form"),
        (FOLDED, chain(Relu(), rate=False), None, ""),
        (FOLDED, chain(IF(ONES), rate=True), UnsupportedOpError, "is rate"),
        (CALIBRATED, chain(Relu()), VerificationError, "without a scale"),
        (CALIBRATED, chain(Relu(scale=ONES)), None, ""),
        (SPIKING, chain(Relu()), VerificationError, "non-linear"),
        (SPIKING, chain(Linear(np.eye(4))), VerificationError, "every signal is rate"),
        (SPIKING, chain(Rescale(2 * ONES), rate=True), None, ""),
        (FINAL, chain(Rescale(2 * ONES), rate=True), VerificationError, "fold-rescale"),
        (FINAL, chain(IF(ONES), rate=True), None, ""),
        (FOLDED, chain(Rescale(2 * ONES), rate=True), UnsupportedOpError, "scales come with relu-to-if"),
        (FOLDED, chain(IF(ONES), rate=True), UnsupportedOpError, "neurons come with relu-to-if"),
        (SPIKING, chain(NORM, rate=True), VerificationError, "fold-batchnorm before relu-to-if"),
        (SPIKING, chain(Identity(), rate=True), VerificationError, "eliminate-identity before"),
        (RECEIVED, chain(Relu()), UnsupportedOpError, "non-linear"),
        (RECEIVED, chain(NORM, Identity(), IF(ONES), rate=True), None, ""),
        (RECEIVED, chain(Linear(np.eye(4))), UnsupportedOpError, "every signal is rate"),
    ],
)
def test_each_stage_rule_can_be_broken(stage, graph, error, message):
    if error is None:
        verify(graph, stage)
    else:
        with pytest.raises(error, match=message):
            verify(graph, stage)


@pytest.mark.parametrize("counts", [True, False])
def test_only_a_max_pool_that_will_be_counted_may_stay(counts):
    b = build.Builder(1, 4, 4)
    pool = b.add(MaxPool((2, 2), (2, 2), (0, 0), (1, 1), counts=counts), b.x, name="pool")
    graph = b.done(pool)
    if counts:
        verify(graph, FOLDED)
    else:
        with pytest.raises(UnsupportedOpError, match="maxpool has no spiking form"):
            verify(graph, FOLDED)


def test_all_problems_come_at_once():
    with pytest.raises(UnsupportedOpError) as caught:
        verify(chain(Clamp(-1, 1), Linear(np.eye(4)), Clamp(-2, 2)), FOLDED)
    assert [p.location for p in caught.value.problems] == ["op0", "op2"]


def test_a_conv_of_another_rank_is_located():
    conv = Conv(np.ones((1, 1, 3)), stride=(1,), padding=(0,), dilation=(1,))
    with pytest.raises(Exception, match="1d convolution takes samples of rank 2") as caught:
        verify(chain(conv), IMPORTED)
    assert caught.value.location == "op0"


def test_a_graph_that_did_not_change_is_held_to_the_rules_of_a_stage_that_it_reaches_now():
    graph = chain(NORM)
    verify(graph, FOLDED, before=graph, known=FOLDED)  # its rules were looked at
    with pytest.raises(UnsupportedOpError, match="run fold-batchnorm before"):
        verify(graph, FOLDED, before=graph, known=IMPORTED)
