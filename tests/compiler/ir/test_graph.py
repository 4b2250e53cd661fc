import numpy as np
import pytest
import torch

import build
from spikec import CompileError, Graph, TypeMismatchError, run
from spikec.ir.ops import IF, Add, Delay, Identity, Input, Linear, Output, Relu
from spikec.ir.stages import IMPORTED
from spikec.ir.types import Rate, Type
from spikec.ir.verify import verify


def test_an_operand_used_twice_is_two_edges():
    g = Graph()
    x = g.add(Input((3,)))
    total = g.add(Add(), x, x)
    g.add(Output(), total)
    assert g.users(x) == [(total, 0), (total, 1)]
    assert run(g, torch.ones(1, 3)).tolist() == [[2, 2, 2]]


def test_order_is_topological_with_ties_by_insertion():
    g = build.residual()
    order = list(g)
    assert all(order.index(x) < order.index(name) for name in g for x in g.operands(name))
    assert list(g.copy()) == order


def test_a_cycle_is_printed():
    g = Graph()
    x = g.add(Input((3,)), name="x")
    a = g.add(Add(), x, x, name="a")
    b = g.add(Identity(), a, name="b")
    g.set_operand(a, 1, b)
    with pytest.raises(CompileError, match="cycle without a delay: .*(a -> b -> a|b -> a -> b)"):
        list(g)
    assert "%a = add(%x, %b) : ?" in str(g)


def test_a_cycle_through_a_delay_runs_one_step_late():
    """IF with a recurrent weight, against the recurrence written out."""
    rng = np.random.default_rng(0)
    recurrent = rng.normal(size=(3, 3)) * 0.4
    g = Graph()
    x = g.add(Input((3,), "float64", rate=True), name="x")
    late = g.add(Delay(Type((3,), "float64", Rate(np.ones(1)))), name="late")
    back = g.add(Linear(recurrent), late, name="back")
    total = g.add(Add(), x, back, name="total")
    spikes = g.add(IF(np.ones(1)), total, name="spikes")
    g.set_operands(late, spikes)
    g.add(Output(), spikes)
    verify(g, IMPORTED)
    inputs = rng.uniform(0, 0.8, size=(20, 2, 3))
    found = run(g, torch.tensor(inputs)).numpy()
    v, s = np.zeros((2, 3)), np.zeros((2, 3))
    for t in range(20):
        v = v + inputs[t] + s @ recurrent.T
        s = (v >= 1).astype(float)
        v = v - s
        np.testing.assert_array_equal(found[t], s)
    assert 0 < found.mean() < 1


def test_a_delay_of_another_type_than_its_operand_is_refused():
    g = Graph()
    x = g.add(Input((3,), "float64", rate=True), name="x")
    late = g.add(Delay(Type((4,), "float64", Rate(np.ones(1)))), x)
    g.add(Output(), late)
    with pytest.raises(TypeMismatchError, match="declared"):
        verify(g, IMPORTED)


def test_types_are_inferred_again_after_a_change_upstream():
    g = build.mlp()
    assert g.type("output").shape == (4,)
    g.set_op("fc3", Linear(np.ones((9, 7)), origin=g["fc3"].origin))
    assert g.type("output").shape == (9,)
    g.set_op("fc1", Linear(np.ones((8, 5)), origin=g["fc1"].origin))
    with pytest.raises(TypeMismatchError, match="weight takes 5 features, operand has 6") as caught:
        g.type("output")
    assert caught.value.location == "fc1"
    assert "%fc1 = linear(%x)" in str(caught.value)


def test_names_are_unique_and_clean():
    g = Graph()
    x = g.add(Input((3,)), name="a.b/c")
    assert x == "a_b_c"
    assert g.add(Relu(), x, name="a_b_c") == "a_b_c_1"


def test_editing():
    g = build.mlp()
    new = g.insert_after("relu1", Identity())
    assert g.operands("fc2") == (new,)
    before = g.insert_before("fc3", 0, Identity())
    assert g.operands("fc3") == (before,)
    assert g.operands(before) == ("relu2",)
    g.bypass(new)
    assert g.operands("fc2") == ("relu1",)
    with pytest.raises(CompileError, match="users"):
        g.remove("relu1")
    with pytest.raises(CompileError, match="no node %nobody"):
        g["nobody"]
    with pytest.raises(CompileError, match="%nobody"):
        g.add(Relu(), "nobody")


def test_types_that_are_not_inferred_again_would_be_seen(monkeypatch):
    monkeypatch.setattr("spikec.ir.graph._identical", lambda one, other: True)
    g = build.mlp()
    assert g.type("output").shape == (4,)
    g.set_op("fc3", Linear(np.ones((9, 7)), origin=g["fc3"].origin))
    assert g.type("output").shape == (4,)


@pytest.mark.parametrize("changed", [0, 1, 2])
def test_whichever_of_several_copies_is_rewired_the_others_stay_as_they_were(changed):
    g = build.residual()
    graphs = [g, g.copy(), g.copy().copy()]
    for each in graphs:
        each.users("relu1")  # which may be remembered
    before = list(g.nx.edges(keys=True)), g.users("relu1"), g.operands("add"), list(g)
    some = graphs[changed]
    added = some.add(Identity(), "relu1", name="more")
    some.replace_uses("relu1", added)
    some.set_operand("add", 1, "relu1")
    some.set_op("more", Relu())
    for each in graphs:
        if each is not some:
            assert (list(each.nx.edges(keys=True)), each.users("relu1"), each.operands("add"), list(each)) == before
    assert sorted(some.users("relu1")) == [("add", 1), ("more", 0)]
    assert {(x, name, slot) for name in some for slot, x in enumerate(some.operands(name))} == set(
        some.nx.edges(keys=True)
    )
    assert all(some.nx.nodes[name]["op"] is some[name] for name in some)
    assert isinstance(g.copy().nx.nodes["relu1"]["op"], Relu)


def test_a_copy_shares_ops_and_nothing_else():
    g = build.residual()
    h = g.copy()
    assert h.same_as(g)
    h.bypass("drop", "why not")
    assert not h.same_as(g)
    assert "drop" in g
    assert not g.imported.dropped
    assert h["conv1"] is g["conv1"]


def test_a_graph_takes_over_all_that_another_holds_and_shares_no_container_with_it():
    g, h = build.residual(), build.mlp()
    g.imported.notes.append("read so")
    g.imported.structure, g.imported.device = {"a": 0}, "meta"
    g.drop(build.source("lost"), "why not")
    h.replace_with(g)
    assert h.same_as(g)
    assert h.name == g.name
    assert h.imported == g.imported
    text = str(h)
    g.bypass("drop", "no reason")
    g.imported.notes.append("later")
    g.set_op("fc", Linear(np.ones((9, 2))))
    assert str(h) == text
    assert h.imported.notes == ["read so"]
    assert list(h.imported.dropped.values()) == ["why not"]
    assert (h.imported.structure, h.imported.device) == ({"a": 0}, "meta")


def test_a_node_without_origin_is_located_by_its_producer():
    g = build.mlp()
    added = g.insert_after("relu1", Identity())
    assert g.location(added) == "relu1"


def test_the_text_form_is_stable_and_names_sources():
    text = str(build.residual())
    assert text == str(build.residual())
    assert "%conv1 = conv(%x, weight=4x2x3x5#" in text
    assert "; conv1" in text
    assert " at 0x" not in text
