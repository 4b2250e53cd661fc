"""What we write, run by real SpikingJelly in its own Python: set SPIKEC_SJ_PYTHON to it."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import nets
import spikec
from forks import Forks
from npz import loaded
from spikec.ir.ops import IF

PYTHON = os.environ.get("SPIKEC_SJ_PYTHON")
SCRIPT = Path(__file__).with_name("spikingjelly_real.py")
T = 64

pytestmark = pytest.mark.skipif(not PYTHON, reason="SPIKEC_SJ_PYTHON names no Python with SpikingJelly and spikec")


@pytest.fixture(scope="module")
def jelly():
    with Forks(PYTHON, "import spikec, spikingjelly.activation_based.nir_exchange") as forks:
        yield forks


def drive(jelly, kind, path, x, folder):
    np.savez(folder / "in.npz", x=x.numpy())
    found = jelly.run(SCRIPT, kind, path, folder / "in.npz", folder / "out.npz")
    assert found.returncode == 0, found.stderr[-3000:]
    return loaded(folder / "out.npz")


def compiled(name, target, timesteps=16):
    x = nets.batch(name, dtype=torch.float64)
    run = spikec.Compiler(target, calibration=[x], timesteps=timesteps).run(nets.build(name, dtype=torch.float64))
    return run, torch.rand(T, *x.shape, dtype=torch.float64) * x.max()


def spikes(graph, x):
    found = {node.name: [] for node in graph.match(IF)}
    y = spikec.run(graph, x, tap=lambda name, value, *_: found[name].append(value) if name in found else None)
    return y.numpy(), {name: torch.stack(steps).numpy() for name, steps in found.items()}


@pytest.mark.parametrize("name", ["mlp_batchnorm", "cnn", "resnet", "grouped", "conv1d", "concat", "functional"])
def test_the_importer_reads_our_nir_spike_for_spike(name, tmp_path, jelly):
    run, x = compiled(name, "nir")
    spikec.save(run.artifact, tmp_path / "net.nir")
    theirs = drive(jelly, "nir", tmp_path / "net.nir", x, tmp_path)
    y, ours = spikes(run.graph, x)
    assert sum(s.sum() for s in ours.values()) > 100
    assert len(theirs) == len(ours) + 1
    for name, expected in ours.items():
        (key,) = [key for key in theirs if re.fullmatch(rf"n\d+_{name}", key)]
        assert np.array_equal(theirs[key], expected), f"{name}: {(theirs[key] != expected).sum()} spikes differ"
    assert np.abs(theirs["output"] - y).max() <= 1e-12 * np.abs(y).max()


@pytest.mark.parametrize("neurons", [1, 2])
@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet"])
def test_a_file_tuned_for_hard_reset_stands_on_its_own(name, neurons, tmp_path, jelly):
    net, x = nets.build(name, dtype=torch.float64), nets.batch(name, dtype=torch.float64)
    options = {"profile": "spikingjelly", "reset": "hard", "neurons": neurons}
    made = spikec.Compiler("nir", calibration=x, timesteps=T, **options).run(net)
    spikec.save(made.artifact, tmp_path / "net.nir")
    constant = x.expand(T, *x.shape)
    theirs = drive(jelly, "asis", tmp_path / "net.nir", constant, tmp_path)
    y, ours = spikes(made.graph, constant)
    for name, expected in ours.items():
        (key,) = [key for key in theirs if re.fullmatch(rf"n\d+_{name}", key)]
        assert np.array_equal(theirs[key], expected), f"{name}: {(theirs[key] != expected).sum()} spikes differ"
    assert np.abs(theirs["output"] - y).max() <= 1e-12 * np.abs(y).max()
    with torch.no_grad():
        wanted = net(x).numpy()
    error = np.abs(theirs["output"].mean(0) - wanted).mean() / wanted.std()
    assert error < 0.2, error


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet"])
def test_reset_net_and_set_step_mode_work_on_our_module(name, tmp_path, jelly):
    run, x = compiled(name, "spikingjelly")
    spikec.save(run.artifact, tmp_path / "net.pt")
    theirs = drive(jelly, "module", tmp_path / "net.pt", x, tmp_path)
    y, _ = spikes(run.graph, x)
    assert np.array_equal(theirs["output"], y * run.output_scale)
    assert np.array_equal(theirs["single"], theirs["output"])
