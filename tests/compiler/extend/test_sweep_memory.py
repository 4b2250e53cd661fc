"""What a sweep holds at once: a byte a step and sample of the layers that are still read, and little besides."""

import attrs
import numpy as np
import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import build
from spikec import Compiler
from spikec.extend import given, sweep
from spikec.extend.loader import pass_named
from spikec.extend.passbase import Context

SAMPLES, T = 16, 8


class Held(TorchDispatchMode):
    """Counts the bytes of the tensors that live at once; ``peak`` is the most of them."""

    def __init__(self):
        super().__init__()
        self.live, self.now, self.peak = {}, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if isinstance(x, torch.Tensor):
                self._take(x.untyped_storage())
        return result

    def _take(self, storage):
        known, size = self.live.get(storage._cdata, (None, 0))
        if known is None or known.expired():
            self.live[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
            self.now += storage.nbytes() - size
        if self.now > self.peak:  # or so it seems, until what is gone by now is left out
            self.live = {key: each for key, each in self.live.items() if not each[0].expired()}
            self.now = sum(size for _, size in self.live.values())
            self.peak = max(self.peak, self.now)


@pytest.fixture(scope="module")
def net():
    """(spiking graph, context) of three convolutions, the widest in the middle, and that one's size."""
    b = build.Builder(2, 12, 10, dtype="float32")
    h = b.relu(b.conv(b.x, 4, "conv1"), "relu1")
    h = b.relu(b.conv(h, 24, "conv2"), "relu2")
    g = b.done(b.relu(b.conv(h, 3, "conv3"), "relu3"))
    x = torch.from_numpy(np.random.default_rng(0).random((SAMPLES, 2, 12, 10), dtype=np.float32))
    pipeline_ = Compiler("spikingjelly", calibration=x, normalization="max", verify="off")
    stages = {record.name: record.graph for record in pipeline_.run(g).stages}
    context = Context(g, T, ann=stages["normalize"], calibration=build.samples(x))
    return stages["init-potential"], context, 24 * 12 * 10


def peak(net, steps=T, copies=1):
    """The bytes of tensors that a tuned pass holds at most."""
    graph, context = net[0].copy(), attrs.evolve(net[1], timesteps=steps)
    if copies > 1:
        assert pass_named("replicate-neurons", copies=copies).run(graph, context)
    with Held() as held:
        assert pass_named("calibrate-potential").run(graph, context)
    return held.peak


@pytest.fixture(autouse=True)
def _few_samples_at_a_time(monkeypatch):
    monkeypatch.setattr(given, "HELD", 0)
    monkeypatch.setattr(sweep, "BATCH", 2 * T)


def test_several_neurons_hold_what_one_does(net, monkeypatch):
    one = peak(net)
    assert peak(net, copies=6) < 1.1 * one
    monkeypatch.setattr(sweep, "summed", lambda graph: {})  # the sabotage: the spikes of each for itself
    assert peak(net, copies=6) > 2.5 * one


def test_more_steps_hold_a_byte_more_for_each_neuron_of_the_widest_layer(net, monkeypatch):
    """The others lie behind each other; what is computed for a few samples has so many steps in all."""
    _, _, widest = net
    grown = peak(net, 2 * T) - peak(net)
    spikes = T * SAMPLES * widest
    assert 0.8 * spikes < grown < 1.2 * spikes
    monkeypatch.setattr(given, "HELD", 2**30)  # the sabotage: all currents of a layer at once, 4 bytes each
    assert peak(net, 2 * T) - peak(net) > 4 * spikes
