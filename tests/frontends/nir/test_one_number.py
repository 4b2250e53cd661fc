"""One number for all neurons of a NIR node means what a full array of it means."""

import importlib.metadata

import nir
import numpy as np
import pytest
import torch

import spikec

FIELDS = {
    nir.IF: {"r": 1.0, "v_threshold": 1.0, "v_reset": 0.1},
    nir.LIF: {"tau": 0.01, "r": 2.0, "v_leak": 0.1, "v_threshold": 0.2, "v_reset": -0.1},
    nir.CubaLIF: {
        "tau_syn": 0.005,
        "tau_mem": 0.01,
        "r": 1.0,
        "w_in": 1.0,
        "v_leak": 0.0,
        "v_threshold": 0.3,
        "v_reset": 0.1,
    },
}


def graph_of(kind, shape, sample):
    node = kind(**{name: np.full(shape, value) for name, value in FIELDS[kind].items()})
    nodes = {"input": nir.Input(np.array(sample)), "n": node, "output": nir.Output(np.array(sample))}
    edges = [("input", "n"), ("n", "output")]
    return nir.NIRGraph(nodes, edges, metadata={"dt": 1e-3}, type_check=False)


@pytest.mark.slow
@pytest.mark.parametrize("sample", [(4,), (2, 3, 2)])
@pytest.mark.parametrize("shape", [(), (1,)])
@pytest.mark.parametrize("kind", FIELDS)
def test_one_number_for_all_neurons(kind, shape, sample, tmp_path):
    x = torch.rand(20, 2, *sample, generator=torch.Generator().manual_seed(0)) * 2
    full = spikec.run(spikec.load(graph_of(kind, sample, sample)), x)
    assert full.any()
    loaded = spikec.load(graph_of(kind, shape, sample))
    assert torch.equal(spikec.run(loaded, x), full)
    spikec.save(spikec.compile(loaded, "nir", dt=1e-3), tmp_path / "full.nir")
    assert torch.equal(spikec.run(spikec.load(tmp_path / "full.nir"), x), full)


def test_other_sizes_are_refused():
    with pytest.raises(spikec.TypeMismatchError, match=r"has shape \(3,\), and its input \(4,\)"):
        spikec.load(graph_of(nir.IF, (3,), (4,)))


def test_what_nir_cannot_write_is_an_error_of_ours(tmp_path):
    if tuple(map(int, importlib.metadata.version("nir").split(".")[:3])) < (1, 0, 8):
        pytest.skip("this nir writes it")
    with pytest.raises(spikec.InvalidModelError, match="nir cannot write this graph"):
        spikec.save(graph_of(nir.IF, (), (4,)), tmp_path / "scalar.nir")
    assert not list(tmp_path.iterdir())
