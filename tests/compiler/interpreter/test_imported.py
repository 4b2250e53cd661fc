"""An import is held to its model, to a stated tolerance, and the first op that differs is named."""

import functools

import attrs
import numpy as np
import pytest
import torch
from torch import nn

import build
import nets
import onnx_models
import spikec
from spikec import Graph, VerificationError
from spikec.frontends.torch import as_array, converter
from spikec.interpreter.imported import check_import
from spikec.ir.ops import IF, Add, Clamp, Conv, Input, Linear, Output, Relu
from spikec.reading import find_frontend
from spiking_standins import IFNode

X = torch.rand(8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
#: what the converter of this test makes of a weight
GAIN = {"weight": 1.0}


class Mixing(nn.Linear):
    """A layer of the user's, with a converter of the user's."""

    def forward(self, x):
        return x @ self.weight.T + self.bias


@converter(Mixing)
def mixing(module, call):
    return call.add(Linear(as_array(module.weight) * GAIN["weight"], as_array(module.bias)), call.operand)


def held(model, graph, xs, layers=True):
    """Check an import as ``compile`` does, or without the results of the model's layers."""
    frontend, _ = find_frontend(model)
    results = functools.partial(frontend.layer_results, model) if layers else None
    return check_import(graph, frontend.reference(model), xs, results)


def off_by(monkeypatch, part, bias=0.0):
    """Import one layer whose weight is read wrongly, so that the result is off by ``part`` of its spread."""
    torch.manual_seed(0)
    layer = Mixing(4, 3).double().eval()
    with torch.no_grad():
        layer.bias.fill_(bias)
        y = layer(X) - bias
        spread = (y - y.mean(0)).abs().max()
        monkeypatch.setitem(GAIN, "weight", 1 + part * float(spread / y.abs().max()))
    return held(layer, spikec.load(layer, X), [X])


@pytest.mark.slow
def test_an_import_may_be_off_by_a_ten_thousandth_of_the_spread_and_no_more(monkeypatch):
    for part in (1e-5, 0.9e-4):
        assert off_by(monkeypatch, part) == pytest.approx(part, rel=1e-6)
    for part in (1.1e-4, 1e-3):
        with pytest.raises(VerificationError, match=f"by {part:.2g} of its output's spread .allowed: 0.0001"):
            off_by(monkeypatch, part)


def test_an_output_that_hardly_varies_is_held_to_a_tenth_of_its_maximum(monkeypatch):
    small = off_by(monkeypatch, 1e-3, bias=100.0)
    assert 0 < small < 1e-4
    with pytest.raises(VerificationError, match="imported graph differs"):
        off_by(monkeypatch, 1.0, bias=100.0)


@pytest.mark.slow
def test_a_converter_that_scales_a_weight_is_refused_by_compile_with_its_layer(monkeypatch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), Mixing(6, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    x = X.float()
    for gain, fine in ((1 + 1e-6, True), (1.001, False)):
        monkeypatch.setitem(GAIN, "weight", gain)
        if fine:
            spikec.compile(model, "spikingjelly", calibration=x)
            continue
        with pytest.raises(VerificationError, match="is the first op that differs") as caught:
            spikec.compile(model, "spikingjelly", calibration=x)
        assert caught.value.location.startswith("2")
        assert [e.source.path for e in caught.value.ledger if e.fate == "refused"] == ["2"]


def test_a_nan_is_no_agreement():
    layer = nn.Linear(4, 3).double().eval()
    graph = spikec.load(layer, X)
    with pytest.raises(VerificationError, match="by nan of"):
        check_import(graph, lambda xs: [layer(xs[0]).detach() * float("nan")], [X])


def blamed(model, graph, xs, layers=True):
    """The one problem for which an import is refused."""
    with pytest.raises(VerificationError) as caught:
        held(model, graph, xs, layers)
    (problem,) = caught.value.problems
    return problem


def test_the_first_layer_that_differs_is_named_in_a_deep_net():
    model, x = nets.build("cnn"), nets.batch("cnn", 6)
    graph = spikec.load(model, x)
    convs = graph.match(Conv)
    graph.set_op(convs[1].name, attrs.evolve(convs[1].op, weight=convs[1].op.weight.transpose(0, 1, 3, 2).copy()))
    problem = blamed(model, graph, [x])
    assert problem.location.startswith("4")
    assert problem.op.startswith(f"%{convs[1].name} = conv")
    assert problem.message.endswith(f"%{convs[1].name} is the first op that differs")
    assert len(find_frontend(model)[0].layer_results(model, graph, [x])) == sum(1 for _ in model.children())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.slow
def test_a_function_between_two_layers_is_named_among_those_that_it_may_be():
    """In the residual block the sum is no layer: it is judged by the layer behind it."""
    model, x = nets.build("resnet"), nets.batch("resnet", 6)
    graph = spikec.load(model, x)
    (last,) = [node.name for node in graph.match(Linear)]
    name = next(each for each in graph if graph[each].kind == "add")
    graph.set_operand(name, 0, graph.operands(name)[1])
    problem = blamed(model, graph, [x])
    assert "the first op that differs is one of" in problem.message
    assert f"%{name}" in problem.message
    assert f"%{last}" not in problem.message


def test_where_no_layer_can_be_compared_the_output_is_named():
    model, x = nets.build("two_outputs"), nets.batch("two_outputs", 6)
    graph = spikec.load(model, x)
    last = graph.operands("output_value")[0]
    graph.set_op(last, attrs.evolve(graph[last], weight=2 * graph[last].weight))
    assert blamed(model, graph, [x], layers=False).op.startswith("%output_value")


@pytest.mark.slow
def test_the_first_node_of_an_onnx_model_that_differs_is_named():
    nodes = [
        onnx_models.node("Gemm", "x w0", "a", name="first", transB=0),
        onnx_models.node("Relu", "a", "b", name="act"),
        onnx_models.node("Gemm", "b w1", "c", name="second", transB=0),
        onnx_models.node("Relu", "c", "d"),
        onnx_models.node("Gemm", "d w2", "y", name="third", transB=0),
    ]
    weights = {f"w{i}": onnx_models.random(*shape, seed=i) for i, shape in enumerate(((4, 6), (6, 5), (5, 3)))}
    model, x = onnx_models.model(nodes, ["n", 4], **weights), X.float()
    for name, op in (("act", Clamp(-1.0, 1.0)), ("second", Linear(2 * weights["w1"].T.copy())), ("relu", Relu(0.1))):
        graph = spikec.load(model, x)
        graph.set_op(name, attrs.evolve(op, origin=graph[name].origin))
        problem = blamed(model, graph, [x])
        assert problem.message.endswith(f"%{name} is the first op that differs")
        assert problem.op.startswith(f"%{name} = ")


def spiking():
    torch.manual_seed(0)
    layers = [nn.Linear(4, 7), IFNode(v_threshold=0.6), nn.Linear(7, 5), IFNode(v_reset=None), Mixing(5, 3)]
    return nn.Sequential(*layers).double().eval()


@pytest.mark.slow
def test_the_first_layer_of_a_spiking_model_that_differs_is_named():
    model = spiking()
    graph = spikec.load(model, X)
    first, second = graph.match(IF)
    held(model, graph, [X])
    for node, layer in ((first, "1"), (second, "3")):
        changed = graph.copy()
        changed.set_op(node.name, attrs.evolve(node.op, v_threshold=node.op.v_threshold * 1.05))
        problem = blamed(model, changed, [X])
        assert problem.location == layer
        assert problem.message.endswith(f"%{node.name} is the first op that differs")


@pytest.mark.parametrize(("part", "fine"), [(1e-10, True), (1e-8, False)])
def test_a_spiking_import_is_held_to_a_billionth(part, fine, monkeypatch):
    monkeypatch.setitem(GAIN, "weight", 1 + part)
    model = spiking()
    graph = spikec.load(model, X)
    if fine:
        assert 0 < held(model, graph, [X]) < 1e-9
    else:
        with pytest.raises(VerificationError, match="differs from the spiking model at step"):
            held(model, graph, [X])


def one_neuron(weight):
    g = Graph()
    x = g.add(Input((1,), "float64", rate=True), name="x")
    spikes = g.add(IF(np.ones(1)), g.add(Linear(np.array([[weight]])), x), name="if")
    g.add(Output(), spikes)
    return g


def against(weight, other, xs):
    """One neuron held to another one as if it had been read from it."""
    model = one_neuron(other)
    return check_import(one_neuron(weight), lambda train: [spikec.run(model, train[0])], xs)


def test_a_spiking_import_may_differ_behind_a_tie_and_not_behind_a_near_tie():
    """Quarters reach the threshold exactly, where the last digit of the weight decides."""
    xs = [torch.tensor([[0.25], [0.5]], dtype=torch.float64)]
    assert against(1 - 1e-15, 1.0, xs) == 1
    with pytest.raises(VerificationError, match="differs from the spiking model at step 2"):
        against(1 - 1e-8, 1 + 1e-8, xs)


def test_a_spiking_import_that_stays_silent_is_fed_more():
    xs = [torch.tensor([[0.9], [0.3], [0.1]], dtype=torch.float64)]
    assert against(0.01, 0.01, xs) == 0
    with pytest.raises(VerificationError, match="differs from the spiking model"):
        against(0.01, 0.012, xs)


def test_a_layer_is_compared_only_where_one_node_gives_its_result():
    """A layer of two ops, of which the first is read from outside too, or the second is another layer's as well."""
    for merged in (False, True):
        b = build.Builder(3)
        layer, other = build.source("layer"), build.source("other")
        first = b.add(Linear(2 * np.eye(3), origin=layer), b.x, name="first")
        second = b.add(Linear(3 * np.eye(3), origin=layer + other if merged else layer), first, name="second")
        graph = b.done(b.add(Add(), second, second if merged else first, name="sum"))
        x = torch.rand(4, 3, dtype=torch.float64)
        with pytest.raises(VerificationError) as caught:
            check_import(graph, lambda xs: [9.0 * xs[0]], [x], lambda graph, xs: {"layer": 6 * xs[0]})
        assert caught.value.problems[0].op == "%output = output(%sum)"
