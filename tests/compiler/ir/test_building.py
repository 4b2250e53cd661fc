"""What a user does wrong with a graph, and what a graph stands: pickling, copies, threads and size."""

import copy
import pickle
import threading
import time
import tracemalloc

import attrs
import numpy as np
import pytest
import torch
from torch import nn

import build
import spikec
from spikec import CompileError, Graph, TypeMismatchError
from spikec.interpreter.contract import check_exact
from spikec.interpreter.probe import probe
from spikec.ir.op import Op, Role
from spikec.ir.ops import IF, LIF, Add, BatchNorm, Concat, Conv, Delay, Flatten, Input, Linear, Output, Relu
from spikec.ir.stages import IMPORTED
from spikec.ir.types import Rate, Type
from spikec.ir.verify import verify


@attrs.frozen(eq=False)
class Roleless(Op):
    def eval(self, *xs):
        return xs[0]


@attrs.frozen(eq=False)
class Failing(Op):
    role = Role.LINEAR
    result: object = None

    def infer(self, *operands):
        if self.result is None:
            return operands[0].no_such_thing
        return self.result


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda g: g.add(nn.ReLU(), "relu1"), "a ReLU is no op"),
        (lambda g: g.add(Relu, "relu1"), "is no op"),
        (lambda g: g.add(None, "relu1"), "a NoneType is no op"),
        (lambda g: g.add(Roleless(), "relu1"), "Roleless states no role"),
        (lambda g: g.add(Relu(), "nobody"), "%nobody, which is not in graph"),
        (lambda g: g.add(Relu(), 7), "%7, which is not in graph"),
        (lambda g: g.add(Relu(), ["relu1"]), "which is not in graph"),
        (lambda g: g.add(Relu(), "relu1", name=7), "a node's name is a text"),
        (lambda g: g.set_op("relu1", nn.ReLU()), "a ReLU is no op"),
        (lambda g: g.set_op("nobody", Relu()), "no node %nobody"),
        (lambda g: g.set_operands("relu1", "nobody"), "%nobody, which is not in graph"),
        (lambda g: g.set_operands("nobody", "relu1"), "no node %nobody"),
        (lambda g: g.set_operand("relu1", 1, "x"), r"has 1 operand\(s\), and none at 1"),
        (lambda g: g.set_operand("relu1", -1, "x"), r"none at -1"),
        (lambda g: g.set_operand("relu1", 0, "nobody"), "%nobody, which is not in graph"),
        (lambda g: g.insert_after("nobody", Relu()), "%nobody"),
        (lambda g: g.insert_before("relu1", 3, Relu()), "none at 3"),
        (lambda g: g.insert_before("nobody", 0, Relu()), "no node %nobody"),
        (lambda g: g.replace_uses("relu1", "nobody"), "%nobody"),
        (lambda g: g.replace_uses("nobody", "relu1"), "no node %nobody"),
        (lambda g: g.bypass("add"), "has 2 operands, so none can take its place"),
        (lambda g: g.bypass("x"), "has 0 operands"),
        (lambda g: g.bypass("nobody"), "no node %nobody"),
        (lambda g: g.remove("relu1"), r"with users cannot be removed\n(.*\n)*.*replace_uses"),
        (lambda g: g.remove("nobody"), "no node %nobody"),
        (lambda g: g["nobody"], "no node %nobody"),
        (lambda g: g["relu_1"], r"no node %relu_1\n +try the closest is %relu1"),
        (lambda g: g.get("nobody", Relu), "no node %nobody"),
        (lambda g: g.get("relu1", Linear), "is no Linear"),
        (lambda g: g.type("nobody"), "no node %nobody"),
        (lambda g: g.operands("nobody"), "no node %nobody"),
        (lambda g: g.users("nobody"), "no node %nobody"),
        (lambda g: g.location("nobody"), "no node %nobody"),
    ],
)
def test_a_wrong_call_is_refused_and_changes_nothing(wrong, said):
    g = build.residual()
    before, text, edges = g.copy(), str(g), sorted(g.nx.edges(keys=True))
    with pytest.raises(CompileError, match=said):
        wrong(g)
    assert str(g) == text
    assert g.same_as(before)
    assert sorted(g.nx.edges(keys=True)) == edges
    verify(g, IMPORTED)


@pytest.mark.parametrize(
    ("op", "said"),
    [
        (Linear(np.ones(3)), "its type rule fails: IndexError"),
        (Linear(np.ones((3, 5))), "weight takes 5 features, operand has 4"),
        (Linear(np.array([["a"] * 4])), "its type rule fails|does not take"),
        (Conv(np.ones((2, 4, 3))), "a 1d convolution takes samples of rank 2"),
        (Add(), None),
        (Concat(2), "does not take operands"),
        (Flatten(3), "does not take operands"),
        (IF(np.ones(1)), "this one is real"),
        (Failing(), "its type rule fails: AttributeError"),
        (Failing("real"), "its type rule gives a str, not a Type"),
        (BatchNorm(*np.ones((3, 4)), -np.ones(4)), "batch norm has a var of -1"),
    ],
)
def test_an_op_that_does_not_fit_names_itself(op, said):
    g = Graph()
    x = g.add(Input((4,)), name="x")
    name = g.add(op, x, name="mine")
    if said is None:
        assert g.type(name).shape == (4,)
        return
    with pytest.raises(CompileError, match=said) as caught:
        g.type(name)
    assert caught.value.problems[0].op.startswith("%mine = ")
    assert "%mine = " in str(g)


@pytest.mark.parametrize("threshold", [-1.0, 0.0, np.nan, np.inf])
def test_a_threshold_that_is_not_positive_is_called_one(threshold):
    g = Graph()
    x = g.add(Input((2,), rate=True))
    name = g.add(IF(np.array([1.0, threshold]), out_scale=np.ones(1)), x, name="mine")
    with pytest.raises(TypeMismatchError, match="v_threshold is") as caught:
        g.type(name)
    assert "%mine" in caught.value.problems[0].op


@pytest.mark.parametrize("tau", [-4.0, 0.0, 0.5, np.nan])
def test_a_time_constant_below_a_step_is_called_one(tau):
    with pytest.raises(CompileError, match="tau is"):
        LIF(np.ones(1), tau=np.array(tau))


@pytest.mark.parametrize("field", ["weight", "bias"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_called_so(field, value):
    g = build.mlp()
    array = getattr(g["fc2"], field).copy()
    array.flat[-1] = value
    g.set_op("fc2", attrs.evolve(g["fc2"], **{field: array}))
    with pytest.raises(CompileError, match=f"its {field} holds NaN or infinity") as caught:
        spikec.compile(g, "nir", calibration=torch.rand(8, 6))
    assert caught.value.location == "fc2"


def test_names_that_are_taken_are_counted_on_and_free_ones_taken_again():
    g = Graph()
    x = g.add(Input((2,)))
    assert [g.add(Relu(), x) for _ in range(4)] == ["relu", "relu_1", "relu_2", "relu_3"]
    g.remove("relu_1")
    g.remove("relu_3")
    assert [g.add(Relu(), x) for _ in range(3)] == ["relu_1", "relu_3", "relu_4"]
    assert g.copy().add(Relu(), x) == "relu_5"


# ------------------------------------------------------------ pickles, copies, threads


def looped():
    g = Graph("loop")
    x = g.add(Input((3,), "float64", rate=True), name="x")
    late = g.add(Delay(Type((3,), "float64", Rate(np.ones(1)))), name="late")
    spikes = g.add(IF(np.ones(1)), g.add(Add(), x, g.add(Linear(-np.eye(3)), late), name="sum"), name="if")
    g.set_operands("late", spikes)
    g.add(Output(), spikes, name="output")
    return g


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda g: pickle.loads(pickle.dumps(g))])
@pytest.mark.parametrize("make", [build.residual, looped])
def test_a_graph_is_copied_and_pickled_whole(make, again):
    g = make()
    text = str(g)
    other = again(g)
    assert str(other) == text
    shape = g.type(g.inputs[0]).shape
    x = torch.rand(2, *shape, dtype=torch.float64)
    steps = 5 if g.is_spiking else None
    assert torch.equal(spikec.run(other, x, steps), spikec.run(g, x, steps))
    arrays = [v for name in other for v in other[name].parameters().values() if isinstance(v, np.ndarray)]
    arrays += [other.type(name).scale for name in other if other.is_spiking]
    assert arrays
    assert not any(array.flags.writeable for array in arrays)
    assert not other["late"].type.scale.flags.writeable if "late" in other else True


def test_an_op_is_its_own_key_and_keeps_its_parameters():
    op = Linear(np.eye(3), np.ones(3))
    other = pickle.loads(pickle.dumps(op))
    assert copy.deepcopy(op) is op
    assert len({op, other}) == 2
    assert hash(op) == hash(op)
    assert str(other) == str(op)
    assert hash(Type((3,), encoding=Rate(np.ones(1)))) == hash(Type((3,), encoding=Rate(np.ones(1))))
    assert pickle.loads(pickle.dumps(Type((3,), encoding=Rate(np.full(1, 2.0))))).scale.item() == 2


@pytest.mark.slow
def test_threads_share_a_graph():
    """Types and order are made when first asked for, here by eight threads at once."""
    alone = build.residual()
    x = torch.rand(3, 2, 8, 6, dtype=torch.float64)
    wanted, text = spikec.run(alone, x), str(alone)
    for round_ in range(30):
        g = build.residual()
        g.set_op("conv1", attrs.evolve(g["conv1"]))  # everything behind it is to be inferred again
        found, errors, start = [], [], threading.Barrier(8)

        def work(g=g, found=found, errors=errors, start=start):
            try:
                start.wait()
                found.append((spikec.run(g, x), str(g), str(g.copy())))
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors, round_
        assert all(torch.equal(y, wanted) and a == b == text for y, a, b in found)


# ---------------------------------------------------------------------------------- size


def chain(count):
    g = Graph()
    x = g.add(Input((2,), "float64"), name="x")
    weight = np.array([[0.1, -0.2], [0.3, 0.1]])
    for i in range(count // 3):
        y = g.add(Linear(weight, origin=build.source(f"fc{i}")), x)
        x = g.add(Add(origin=build.source(f"add{i}")), x, g.add(Relu(origin=build.source(f"relu{i}")), y))
        if i % 50 == 0:
            x = g.add(Linear(0.1 * np.eye(2), origin=build.source(f"small{i}")), x)
    g.add(Output(), x)
    return g


def fan(count):
    g = Graph()
    x = g.add(Input((2,), "float64"), name="x")
    branches = [g.add(Linear(np.eye(2) / (i + 1), origin=build.source(f"fc{i}")), x) for i in range(count)]
    g.add(Output(), g.add(Add(origin=build.source("sum")), *branches))
    return g


def cost(make, count):
    """Seconds of CPU and peak bytes of what the pass manager does around a pass."""
    tracemalloc.start()
    started = time.process_time()
    g = make(count)
    verify(g, IMPORTED, g.sources)
    other = g.copy()
    for node in other.match(Linear)[::7]:
        other.set_op(node.name, attrs.evolve(node.op, weight=node.op.weight.copy()))
    for node in other.match(Relu)[::100]:
        other.insert_after(node.name, Relu())
    verify(other, IMPORTED, g.sources, before=g)
    check_exact(g, other, probe(g, None, 0))
    assert not g.same_as(other)
    assert str(g) != ""
    seconds, peak = time.process_time() - started, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return seconds, peak


@pytest.mark.slow
@pytest.mark.parametrize("make", [chain, fan])
def test_time_and_memory_grow_with_the_graph_and_not_with_its_square(make):
    cost(make, 100)
    small, large = cost(make, 500), cost(make, 5000)
    print(make.__name__, *(f"{seconds:.2f} s, {peak / 1e6:.1f} MB" for seconds, peak in (small, large)), sep="; ")
    assert large[0] < 25 * small[0]
    assert large[1] < 25 * small[1]


@pytest.mark.slow
def test_a_long_chain_is_removed_without_recursion():
    g = chain(6000)
    last = g.operands(g.outputs[0])[0]
    g.set_operands(g.outputs[0], "x")
    g.remove_dead(last)
    assert len(g) == 2
