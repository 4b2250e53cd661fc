"""NIR files in the tools that read them, each in its own Python, beside our models of these tools.

SPIKEC_SJ_PYTHON, SPIKEC_SNNTORCH_PYTHON, SPIKEC_SINABS_PYTHON, SPIKEC_NORSE_PYTHON, SPIKEC_ROCKPOOL_PYTHON and
SPIKEC_SNN_MLIR_PYTHON name Pythons with a tool; SPIKEC_NIR_PYTHONS names several with versions of nir alone, with ":"
between them.
"""

import contextlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch

import nir_graphs
import spikec
from forks import Forks

HERE = Path(__file__).parent
PYTHONS = {
    "spikingjelly": ("SPIKEC_SJ_PYTHON", "spikingjelly.activation_based.nir_exchange"),
    "snntorch": ("SPIKEC_SNNTORCH_PYTHON", "snntorch.import_nir"),
    "norse": ("SPIKEC_NORSE_PYTHON", "norse.torch"),
    "sinabs": ("SPIKEC_SINABS_PYTHON", "sinabs.nir"),
    "rockpool": ("SPIKEC_ROCKPOOL_PYTHON", "rockpool.nn.modules.torch.nir"),
}
#: whose import takes dt
TAKES_DT = ("spikingjelly", "norse")


@pytest.fixture(scope="module")
def tools():
    """Runs a script in a tool's Python, which has imported the tool once."""
    with contextlib.ExitStack() as stack:
        started = {}

        def run(name, *command):
            if name not in started:
                variable, module = PYTHONS[name]
                if not os.environ.get(variable):
                    pytest.skip(f"{variable} names no Python with {name}")
                imports = f"import warnings; warnings.simplefilter('ignore'); import {module}"
                started[name] = stack.enter_context(Forks(os.environ[variable], imports))
            found = started[name].run(*command)
            assert found.returncode == 0, found.stderr[-3000:]

        yield run


def both(tools, name, path, x, dt):
    """(what the tool puts out, what our model of the tool does), [T, B, features]."""
    source, target = path.with_suffix(".in.npz"), path.with_suffix(".out.npz")
    np.savez(source, x=x, dt=dt)
    tools(name, HERE / "nir_real.py", name, path, source, target)
    options = {"dt": dt} if name in TAKES_DT else {}
    ours = spikec.run(spikec.load(path, reader=name, **options), torch.from_numpy(x))
    # without a Flatten what comes out is [features, 1, 1]
    return np.load(target)["output"].reshape(*x.shape[:2], -1), ours.flatten(2).numpy()


def assert_equal(theirs, ours):
    """No spike differs, and sums of a readout by no more than float32 rounds."""
    assert theirs.shape == ours.shape
    scale = max(1, np.abs(theirs).max())
    assert (np.abs(theirs - ours) <= 1e-5 * scale).all(), f"{(theirs != ours).mean():.4f} of the values differ"


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("name", PYTHONS)
def test_our_model_of_a_tool_is_the_tool(name, seed, tools, tmp_path):
    graph, x = nir_graphs.random_graph(name, seed)
    nir_graphs.write(graph, tmp_path / "net.nir")
    theirs, ours = both(tools, name, tmp_path / "net.nir", x, nir_graphs.TOOLS[name].dt)
    assert_equal(theirs, ours)
