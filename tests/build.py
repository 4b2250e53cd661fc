"""Small graphs built by hand, for tests of single passes and of the compiler itself."""

import attrs
import numpy as np

from spikec import Backend, Graph
from spikec.calibration.source import Batches, CalibrationSource
from spikec.ir.ops import Add, AvgPool, BatchNorm, Concat, Conv, Flatten, Identity, Input, Linear, Output, Relu
from spikec.ir.origin import Source


def source(name):
    return (Source(name, name, "test"),)


class Builder:
    """Ops with random parameters: channels differ, biases are not zero, kernels are not square."""

    def __init__(self, *shape, seed=0, dtype="float64"):
        self.rng = np.random.default_rng(seed)
        self.graph = Graph("test")
        self.x = self.add(Input(shape, dtype, origin=source("x")), name="x")

    def add(self, op, *operands, name):
        return self.graph.add(op if op.origin else attrs.evolve(op, origin=source(name)), *operands, name=name)

    def conv(self, x, out, name, kernel=(3, 5), padding=(1, 2), groups=1, stride=(1, 1), bias=True):
        channels = self.graph.type(x).shape[0]
        fan_in = channels // groups * int(np.prod(kernel))
        weight = self.rng.normal(size=(out, channels // groups, *kernel)) / np.sqrt(fan_in)
        shift = self.rng.normal(size=out) * 0.3 if bias else None
        op = Conv(weight, shift, stride=stride, padding=padding, dilation=(1,) * len(kernel), groups=groups)
        return self.add(op, x, name=name)

    def linear(self, x, out, name):
        features = self.graph.type(x).shape[-1]
        weight = self.rng.normal(size=(out, features)) / np.sqrt(features)
        return self.add(Linear(weight, self.rng.normal(size=out) * 0.3), x, name=name)

    def batchnorm(self, x, name):
        c = self.graph.type(x).shape[0]
        rng = self.rng
        op = BatchNorm(rng.uniform(0.5, 1.5, c), rng.normal(size=c) * 0.3, rng.normal(size=c), rng.uniform(0.5, 2, c))
        return self.add(op, x, name=name)

    def relu(self, x, name, cap=None):
        return self.add(Relu(cap), x, name=name)

    def done(self, *outputs):
        for i, x in enumerate(outputs):
            self.graph.add(Output(), x, name=f"output_{i}" if len(outputs) > 1 else "output")
        return self.graph


def samples(*xs):
    """Calibration data of one batch, a tensor an input, as passes are given it."""
    return CalibrationSource(Batches([xs], [""] * len(xs)))


def mlp():
    b = Builder(6)
    h = b.relu(b.batchnorm(b.linear(b.x, 8, "fc1"), "bn1"), "relu1")
    h = b.relu(b.linear(h, 7, "fc2"), "relu2")
    return b.done(b.linear(h, 4, "fc3"))


def residual():
    """Convs, an identity skip, a pool with a batch norm behind it, groups, and a concat."""
    b = Builder(2, 8, 6)
    r1 = b.relu(b.batchnorm(b.conv(b.x, 4, "conv1"), "bn1"), "relu1")
    total = b.add(Add(), b.batchnorm(b.conv(r1, 4, "conv2"), "bn2"), r1, name="add")
    r2 = b.relu(total, "relu2")
    pool = b.add(AvgPool((2, 2), (2, 2), (0, 0)), r2, name="pool")
    drop = b.add(Identity(), b.batchnorm(pool, "bn3"), name="drop")
    r3 = b.relu(b.conv(drop, 4, "conv3", groups=2), "relu3")
    cat = b.add(Concat(), r3, pool, name="cat")
    return b.done(b.linear(b.add(Flatten(), cat, name="flatten"), 5, "fc"))


@attrs.frozen
class GraphTarget(Backend):
    """A target whose artifact is the final graph itself."""

    name = "graph"
    thresholds: str = "any"
    before: tuple = ()

    def passes(self, timesteps):
        return *self.before, "avgpool-to-sumpool", f"fold-rescale{{thresholds={self.thresholds}}}", "cast-parameters"

    def emit(self, graph, context):
        return graph
