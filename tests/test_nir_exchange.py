"""The surface of SpikingJelly's nir_exchange: a network out to a NIR graph, and a graph in as a module."""

import warnings

import nir
import numpy as np
import pytest
import torch
from torch import nn

import spikec
from spikec.nir_exchange import export_to_nir, import_from_nir
from spiking_standins import IFNode, LIFNode

T = 12


def tutorial():
    """The network of its page."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 1, 1), IFNode(), nn.AvgPool2d((2, 2)), nn.Flatten(), nn.Linear(4096, 10),
        LIFNode(10.0, False, v_threshold=0.3),
    )  # fmt: skip


X = 4 * torch.rand(T, 9, 3, 32, 32)


def steps(net, xs):
    with torch.no_grad():
        return torch.stack([net(x) for x in xs])


@pytest.mark.parametrize("suffix", [".h5", ".nir"])
def test_out_and_in_in_two_calls(suffix, tmp_path):
    net, path = tutorial(), tmp_path / f"net{suffix}"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graph = export_to_nir(net, X[0], path, dt=1e-3)
    assert [type(node).__name__ for node in graph.nodes.values()] == [
        "Input", "Conv2d", "IF", "AvgPool2d", "Flatten", "Affine", "LIF", "Output",
    ]  # fmt: skip
    leaky = next(node for node in graph.nodes.values() if isinstance(node, nir.LIF))
    assert np.allclose(leaky.tau, 10 * 1e-3)
    expected = steps(net, X)
    assert 0.05 < expected.mean() < 0.95
    for source in (graph, path, str(path)):
        module = import_from_nir(source)
        assert module(X[0]).shape == (9, 10)
        module.reset()
        assert torch.equal(steps(module, X), expected)
    several = import_from_nir(path, step_mode="m")
    assert torch.equal(several(X), expected)
    double = import_from_nir(path, device="cpu", dtype=torch.float64)
    assert {each.dtype for each in double.parameters()} == {torch.float64}
    assert torch.equal(steps(double, X.double()), expected.double())


def test_the_state_on_request(tmp_path):
    net = tutorial()
    graph = export_to_nir(net, X[0])
    expected, state, outputs = steps(net, X), None, []
    module = import_from_nir(graph, with_state=True)
    with torch.no_grad():
        for x in X:
            y, state = module(x, state)
            outputs.append(y)
        assert torch.equal(torch.stack(outputs), expected)
        assert [tuple(v.shape) for v in state.values()] == [(9, 16, 32, 32), (9, 10)]
        first, _ = module(X[0])
        assert torch.equal(first, expected[0]), "without a state it starts anew"
        kept = {name: v.clone() for name, v in state.items()}
        module(X[0], state)
        assert all(torch.equal(state[name], kept[name]) for name in kept), "what was given stays as it was"
        module.step_mode = "m"
        half, state = module(X[:5])
        rest, _ = module(X[5:], state)
        assert torch.equal(torch.cat([half, rest]), expected)
        with pytest.raises(spikec.CompileError, match="layer with a state 'n9'"):
            module(X, {"n9": X})


def test_the_length_of_a_step():
    """What the graph says, or the caller's, or 1e-4."""
    net = nn.Sequential(nn.Linear(4, 4), LIFNode(5.0))
    graph = export_to_nir(net, torch.rand(1, 4), dt=1e-3)
    assert graph.metadata["dt"] == 1e-3
    x = 6 * torch.rand(T, 2, 4)
    expected = steps(net, x)
    assert torch.equal(steps(import_from_nir(graph), x), expected)
    del graph.metadata["dt"]
    graph.metadata.update(reset="value", fire=">=")
    found = import_from_nir(graph)
    (tau,) = [part.tau for part in found.modules() if hasattr(part, "tau")]
    assert np.isclose(float(tau), 50)
    assert torch.equal(steps(import_from_nir(graph, 1e-3), x), expected)


@pytest.mark.parametrize(
    ("options", "message"), [({"step_mode": "t"}, "step mode 't'"), ({"dtype": torch.int32}, "dtype is torch.int32")]
)
def test_wrong_arguments(options, message):
    graph = export_to_nir(nn.Sequential(nn.Linear(4, 4), IFNode()), torch.rand(1, 4))
    with pytest.raises(spikec.CompileError, match=message):
        import_from_nir(graph, **options)
