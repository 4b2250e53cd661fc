"""NIR files in the tools that read them, each in its own Python, beside our models of these tools.

SPIKEC_SJ_PYTHON, SPIKEC_SNNTORCH_PYTHON, SPIKEC_SINABS_PYTHON, SPIKEC_NORSE_PYTHON and SPIKEC_ROCKPOOL_PYTHON name
Pythons with a tool.
"""

import contextlib
import itertools
import json
import os
from pathlib import Path

import nir
import numpy as np
import pytest
import torch

import nets
import nir_graphs
import spikec
from forks import Forks
from npz import loaded

HERE = Path(__file__).parent
PYTHONS = {
    "spikingjelly": ("SPIKEC_SJ_PYTHON", "spikingjelly.activation_based.nir_exchange"),
    "snntorch": ("SPIKEC_SNNTORCH_PYTHON", "snntorch.import_nir"),
    "norse": ("SPIKEC_NORSE_PYTHON", "norse.torch"),
    "sinabs": ("SPIKEC_SINABS_PYTHON", "sinabs.nir"),
    "rockpool": ("SPIKEC_ROCKPOOL_PYTHON", "rockpool.nn.modules.torch.nir"),
}
#: what a file does not say, and where a tool does otherwise than it says, is warned of
pytestmark = pytest.mark.filterwarnings("ignore::spikec.SpikecWarning")
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
    return loaded(target)["output"].reshape(*x.shape[:2], -1), ours.flatten(2).numpy()


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


POOLS = [(name, nir.SumPool2d) for name in ("spikingjelly", "snntorch", "norse", "sinabs")]
POOLS += [(name, nir.AvgPool2d) for name in ("spikingjelly", "snntorch")]


@pytest.mark.parametrize(("name", "pool"), POOLS)
def test_what_tools_do_with_the_padding_of_a_pool(name, pool, tools, tmp_path):
    """A stride of 4 over 6 cells gives two windows with a padding of 1 and without, so that it may be left out."""
    rng, tool = np.random.default_rng(0), nir_graphs.TOOLS[name]
    weight = (np.round(16 * rng.normal(0.02, 0.2, (8, 12))) / 16).astype(np.float32)
    nodes = {"input": nir.Input(np.array([3, 6, 6])), "n1": pool(np.array([2, 2]), np.array([4, 4]), np.array([1, 1]))}
    nodes["n2"] = nir.Flatten({"input": np.array([3, 2, 2])}, -3, -1)
    nodes["n3"] = nir.Affine(weight, np.zeros(8, np.float32))
    nodes["n4"], nodes["output"] = tool.neurons[0](rng, (8,), tool.dt), nir.Output(np.array([8]))
    graph = nir.NIRGraph(nodes, list(itertools.pairwise(nodes)), type_check=False)
    nir_graphs.write(graph, tmp_path / "net.nir")
    x = (np.round(8 * rng.random((24, 3, 3, 6, 6))) / 8).astype(np.float32)
    theirs, ours = both(tools, name, tmp_path / "net.nir", x, tool.dt)
    assert 0.05 < (theirs != 0).mean() < 0.95
    assert_equal(theirs, ours)


#: edges behind input -> a -> b; f and e are sums, or c is a dead end
EDGES = {
    "layers first": [("b", "c"), ("c", "d"), ("d", "e"), ("e", "f"), ("f", "output"), ("b", "f")],
    "skip first": [("b", "f"), ("b", "c"), ("c", "d"), ("d", "e"), ("e", "f"), ("f", "output")],
    "two layers": [("b", "c"), ("b", "e"), ("c", "f"), ("e", "f"), ("f", "output")],
    "dead end": [("b", "e"), ("e", "f"), ("f", "output"), ("b", "c")],
}


@pytest.mark.parametrize("case", EDGES)
@pytest.mark.parametrize("name", ["norse", "sinabs"])
def test_a_graph_is_run_right_or_refused_by_the_order_of_its_edges(name, case, tools, tmp_path):
    rng, one = np.random.default_rng(0), np.ones(4)
    weights = (np.round(16 * rng.normal(0.5, 1, (4, 4))) / 16 for _ in range(3))
    nodes = {"input": nir.Input(np.array([4])), **{key: nir.Affine(next(weights), 0 * one) for key in "ace"}}
    nodes |= {key: nir.IF(one, one, 0 * one) for key in "bdf"}
    nodes["output"] = nir.Output(np.array([4]))
    edges = [("input", "a"), ("a", "b"), *EDGES[case]]
    used = {key: node for key, node in sorted(nodes.items()) if any(key in edge for edge in edges)}
    nir_graphs.write(nir.NIRGraph(used, edges, type_check=False), tmp_path / "net.nir")
    x = (np.round(8 * rng.random((24, 3, 4))) / 4).astype(np.float32)
    if case == "layers first":
        assert_equal(*both(tools, name, tmp_path / "net.nir", x, 1e-4))
        return
    with pytest.raises(spikec.UnsupportedOpError, match="the order of edges"):
        both(tools, name, tmp_path / "net.nir", x, 1e-4)
    found = loaded(tmp_path / "net.out.npz")["output"]
    run = spikec.load(tmp_path / "net.nir", reset="subtract" if name == "sinabs" else "value")
    assert (found != spikec.run(run, torch.from_numpy(x)).numpy()).mean() > 0.1


def test_potentials_are_rounded_as_sinabs_rounds_them(tools, tmp_path):
    rng, one = np.random.default_rng(0), np.ones(1000)
    threshold = rng.uniform(0.5, 2, 1000).astype(np.float32)
    current = threshold / rng.integers(2, 30, 1000).astype(np.float32)  # so that sums of it come to the threshold
    nodes = {"input": nir.Input(np.array([1000])), "n": nir.IF(one, threshold, 0 * one)}
    nodes["output"] = nir.Output(np.array([1000]))
    graph = nir.NIRGraph(nodes, [("input", "n"), ("n", "output")])
    nir_graphs.write(graph, tmp_path / "net.nir")
    x = np.tile(current, (64, 1, 1))
    theirs, ours = both(tools, "sinabs", tmp_path / "net.nir", x, 1.0)
    assert_equal(theirs, ours)


#: what a file of a tool's own exporter does not say, by (tool, case)
UNSAID = {
    "norse": {"dt": 1e-3},
    # norse writes LI, and leaves them out of what it reads: these are NIR's own equations
    "norse li": {"dt": 1e-3, "reader": "nir"},
    "snntorch leaky subtract": {"reset": "subtract"},
    "snntorch synaptic subtract": {"reset": "subtract"},
}
EXPORTED = {"spikingjelly": 9, "snntorch": 5, "norse": 3, "sinabs": 3}


@pytest.mark.parametrize("name", EXPORTED)
def test_a_file_of_a_tool_runs_as_its_own_model_did(name, tools, tmp_path):
    tools(name, HERE / "nir_export.py", name, tmp_path)
    files = sorted(tmp_path.glob("*.nir"))
    assert len(files) == EXPORTED[name]
    for path in files:
        data = loaded(path.with_suffix(".npz"))
        options = UNSAID.get(f"{name} {path.stem}", UNSAID.get(name, {}))
        ours = spikec.run(spikec.load(path, **{"reader": name, **options}), torch.from_numpy(data["x"]))
        assert data["output"].std() > 0.05, f"{path.stem} hardly does anything"
        assert_equal(data["output"], ours.numpy())


READ = [(name, net) for name in ("spikingjelly", "snntorch", "norse", "sinabs") for net in
        ("mlp", "cnn", "resnet", "grouped", "smooth")] + [("rockpool", "mlp")]  # fmt: skip


def converted(name, net, folder, **options):
    """The file of a profile for a converted network, and inputs for it."""
    x = nets.batch(net)
    graph = spikec.compile(nets.build(net), "nir", calibration=[x], timesteps=16, profile=name, **options)
    spikec.save(graph, folder / "net.nir")
    return folder / "net.nir", np.random.default_rng(0).random((24, *x.shape), dtype=np.float32) * float(x.max())


@pytest.mark.parametrize(("name", "net"), READ)
def test_what_is_written_for_a_tool_runs_there_as_its_model(name, net, tools, tmp_path):
    path, x = converted(name, net, tmp_path)
    theirs, ours = both(tools, name, path, x, 1e-4)
    assert theirs.std() > 0
    assert_equal(theirs, ours)


#: how many files there are for all tools together, of so many that there could be: no other tool subtracts as snnTorch
SPIKING = {"spikingjelly": (20, 36), "snntorch": (10, 32)}


@pytest.mark.parametrize("library", SPIKING)
def test_spiking_models_run_in_other_tools_as_our_models_of_these(library, tools, tmp_path):
    tools(library, HERE / "spiking_files.py", library, tmp_path)
    files = sorted(tmp_path.glob("*.nir"))
    least, possible = SPIKING[library]
    refused = json.loads((tmp_path / "refused.json").read_text())
    assert len(files) + len(refused) == possible
    assert len(files) >= least, refused
    for path in files:
        name, x = path.stem.split("-")[0], loaded(path.with_suffix(".npz"))["x"]
        assert_equal(*both(tools, name, path, x, 1e-4))
