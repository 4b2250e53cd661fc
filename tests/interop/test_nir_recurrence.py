"""The recurrent network of the NIR paper (Braille letters), in real norse beside our reading: SPIKEC_NORSE_PYTHON.

Its topology: 12 inputs, 38 CubaLIF with a recurrent Affine, 7 CubaLIF; the paper has it with reset to zero and by
subtraction, and writes the recurrence flat or as a graph in the graph.
"""

import os
from pathlib import Path

import nir
import numpy as np
import pytest
import torch

import spikec
from forks import Forks
from nir_numpy import evaluate
from npz import loaded

PYTHON = os.environ.get("SPIKEC_NORSE_PYTHON")
SCRIPT = Path(__file__).with_name("nir_real.py")
T, B, DT = 100, 4, 1e-4


@pytest.fixture(scope="module")
def norse():
    if not PYTHON:
        pytest.skip("SPIKEC_NORSE_PYTHON names no Python with norse")
    with Forks(PYTHON, "import warnings; warnings.simplefilter('ignore'); import norse.torch") as forks:
        yield forks


def braille(form, biased):
    rng = np.random.default_rng(0)

    def affine(out, inputs, spread, bias=0.0):
        return nir.Affine(rng.normal(0.04, spread, (out, inputs)), rng.normal(0, 0.1, out) * bias)

    def cuba(n):
        taus = {"tau_syn": rng.uniform(2e-4, 9e-4, n), "tau_mem": rng.uniform(3e-4, 2e-3, n)}
        rest = {"v_leak": np.zeros(n), "v_reset": np.zeros(n), "v_threshold": np.full(n, 1.5)}
        return nir.CubaLIF(**taus, **rest, r=np.full(n, 4.0), w_in=np.full(n, 2.0))

    fc1, back, fc2 = affine(38, 12, 0.4, 1.0), affine(38, 38, 0.1, biased), affine(7, 38, 0.2, 1.0)
    nodes = {"input": nir.Input(np.array([12])), "fc1": fc1, "fc2": fc2, "lif2": cuba(7)}
    # the way back comes first: where it is last, norse puts out what another node gives
    edges = [("input", "fc1"), ("fc1", "lif1"), ("lif1", "fc2"), ("fc2", "lif2"), ("lif2", "output")]
    cycle = {"lif": cuba(38), "w_rec": back}
    if form == "flat":
        nodes |= {"lif1": cycle["lif"], "lif1_w_rec": back}
        edges = [("lif1", "lif1_w_rec"), ("lif1_w_rec", "lif1"), *edges]
    else:
        parts = {"input": nir.Input(np.array([38])), **cycle, "output": nir.Output(np.array([38]))}
        inner = [("input", "lif"), ("lif", "w_rec"), ("w_rec", "lif"), ("lif", "output")]
        nodes["lif1"] = nir.NIRGraph(parts, inner)
    return nir.NIRGraph({**nodes, "output": nir.Output(np.array([7]))}, edges)


def events():
    return (np.random.default_rng(1).random((T, B, 12)) < 0.3).astype(np.float32)


@pytest.mark.parametrize("biased", [0.0, 1.0])
@pytest.mark.parametrize("reset", ["value", "subtract"])
@pytest.mark.parametrize("form", ["flat", "nested"])
def test_norse_runs_the_recurrent_network_as_our_model_of_it(form, reset, biased, norse, tmp_path):
    nir.write(tmp_path / "net.nir", braille(form, biased))
    np.savez(tmp_path / "in.npz", x=events(), dt=DT)
    tool = "norse" if reset == "value" else "norse_soft"
    found = norse.run(SCRIPT, tool, tmp_path / "net.nir", tmp_path / "in.npz", tmp_path / "out.npz")
    assert found.returncode == 0, found.stderr[-3000:]
    theirs = loaded(tmp_path / "out.npz")["output"]
    ours = spikec.run(tmp_path / "net.nir", torch.tensor(events()), reader="norse", dt=DT, reset=reset).numpy()
    assert 0.02 < theirs.mean() < 0.9
    assert np.array_equal(theirs, ours), f"{(theirs != ours).mean():.4f} of the spikes differ"


@pytest.mark.parametrize("reset", ["value", "subtract"])
@pytest.mark.parametrize("form", ["flat", "nested"])
def test_the_recurrent_network_by_the_formats_equations(form, reset, tmp_path):
    graph = braille(form, 1.0)
    nir.write(tmp_path / "net.nir", graph)
    x = events().astype(float)
    wanted = evaluate(graph, x, soft=reset == "subtract", dt=DT)["output"]
    found = spikec.run(tmp_path / "net.nir", torch.tensor(x), dt=DT, reset=reset).numpy()
    assert 0.02 < wanted.mean() < 0.9
    assert np.array_equal(found, wanted)
