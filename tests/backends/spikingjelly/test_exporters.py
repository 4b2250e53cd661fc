"""Emitted modules exported on: to ONNX by both exporters, to TorchScript and by torch.export, with the same spikes."""

import io

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import spikec
from spikec.ir.ops import (
    IF,
    LIF,
    AdaptiveAvgPool,
    Add,
    AvgPool,
    Concat,
    Conv,
    ConvTranspose,
    CountingMaxPool,
    CubaLIF,
    Delay,
    Flatten,
    Input,
    Linear,
    MaxPool,
    Output,
    Pad,
    Permute,
    Reshape,
    Slice,
    Stream,
    SumPool,
    Upsample,
)

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of the exporters, about themselves

RNG = np.random.default_rng(12)
SAMPLES = {0: (6,), 1: (4, 9), 2: (4, 6, 7), 3: (4, 5, 4, 6)}
STEPS = 3


def random(*shape):
    return RNG.normal(size=shape) * 0.4


def spatial(kind, axes, padding=(1, 1), groups=1, stride=2):
    weight = random(4, 4 // groups, *(3,) * axes)
    windows = {"stride": (stride,) * axes, "padding": [padding] * axes, "dilation": (1,) * axes}
    return kind(weight, random(4), groups=groups, **windows)


def windows(axes):
    """The ops with windows on a map of so many spatial axes."""
    twos, threes, ones = (2,) * axes, (3,) * axes, (1,) * axes
    yield "conv", spatial(Conv, axes)
    yield "conv padded on one side", spatial(Conv, axes, (1, 0))
    yield "convolution in groups", spatial(Conv, axes, groups=2)
    yield "conv_transpose", spatial(ConvTranspose, axes)
    yield "conv_transpose that is cut", spatial(ConvTranspose, axes, (-1, 2))
    yield "sum_pool", SumPool(twos, twos, [(0, 0)] * axes)
    yield "overlapping sum_pool with padding", SumPool(threes, twos, [(1, 0)] * axes)
    for ceil in (False, True):
        for counted in (False, True):
            yield f"avg_pool {ceil} {counted}", AvgPool(threes, twos, ones, ceil_mode=ceil, count_include_pad=counted)
    yield "adaptive pool", AdaptiveAvgPool((4, 3, 2)[:axes])
    yield "global pool", AdaptiveAvgPool(ones)
    yield "upsampling", Upsample((13, 11, 7)[:axes])
    yield "counting max_pool", CountingMaxPool(MaxPool(threes, twos, [(1, 1)] * axes, ones))


ONE = np.ones((1, 1, 1))
OPS = {
    "linear": (Linear(random(5, 6), random(5)), 0),
    "linear over the last axis": (Linear(random(5, 7)), 2),
    **{f"{name}, {axes}d": (op, axes) for axes in (1, 2, 3) for name, op in windows(axes)},
    "flatten": (Flatten(), 2),
    "flatten of some axes": (Flatten(1, 2), 2),
    "reshape": (Reshape((6, 4, 7)), 2),
    "permute": (Permute((2, 0, 1)), 2),
    "slice": (Slice(1, 1, None, 2), 2),
    **{f"{mode} pad": (Pad([(1, 2), (0, 1)], mode), 2) for mode in ("constant", "reflect", "replicate", "circular")},
    "concat": (Concat(0), 2),
    "stream": (Stream(random(2, 4, 1, 1)), 2),
    "hard reset": (IF(ONE, v_reset=np.full((), -0.1), strict=True, v_init=np.full((4, 6, 7), 0.3)), 2),
    "lif": (LIF(ONE, tau=np.full((), 2.0), v_leak=np.full((), 0.1)), 2),
    **{
        f"lif that resets {when}": (LIF(ONE * 0.7, tau=np.full((), 2.0), gain=np.ones(()), reset_at=when), 2)
        for when in ("next", "again", "never")
    },
    "cubalif": (CubaLIF(ONE, decay_syn=np.full((), 0.5), decay=np.full((), 0.7)), 2),
}


def emitted(op, axes):
    graph = spikec.Graph("case")
    name = graph.add(Input(SAMPLES[axes], "float32", rate=True), name="x")
    name = graph.add(op, *[name] * (1 + isinstance(op, Concat)), name="op")
    ones = (1,) * len(graph.type(name).shape)
    name = graph.add(IF(np.full(ones, 0.9), v_init=np.full((), 0.45)), name, name="n")
    graph.add(Output(), name, name="y")
    return spikec.compile(graph, "spikingjelly", pipeline=[])


class Unrolled(nn.Module):
    """Runs a network in step mode "s" for all steps."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, xs):
        self.net.reset()
        results = torch.stack([self.net(x) for x in xs])
        self.net.reset()
        return results


def in_onnx(data, x):
    session = onnxruntime.InferenceSession(data)
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


def by_script_onnx(module, x, other):
    file = io.BytesIO()
    torch.onnx.export(module, (x,), file, dynamo=False)
    return in_onnx(file.getvalue(), other)


def by_dynamo_onnx(module, x, other):
    file = io.BytesIO()
    torch.onnx.export(module, (x,), dynamo=True, verbose=False).save(file)
    return in_onnx(file.getvalue(), other)


def by_torchscript(module, x, other):
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(module, (x,)), file)
    file.seek(0)
    return torch.jit.load(file)(other)


def by_torch_export(module, x, other):
    return torch.export.export(module, (x,), strict=False).module()(other)


def by_strict_torch_export(module, x, other):
    return torch.export.export(module, (x,), strict=True).module()(other)


EXPORTERS = (by_script_onnx, by_torchscript, by_torch_export)
SLOW = (by_dynamo_onnx, by_strict_torch_export)


def held(export, module, x, other):
    """Export with one input, run on another, and compare with the module, which must run as it did before."""
    net = getattr(module, "net", module)
    with torch.no_grad():
        expected = module(other)
    assert expected.any()
    net.reset()
    found = export(module, x, other)
    torch.testing.assert_close(found.detach(), expected, rtol=0, atol=0)
    net.reset()  # TorchScript checks itself by running the module
    with torch.no_grad():
        assert torch.equal(module(other), expected)
    net.reset()


def check(op, axes, exporters, steps=STEPS):
    net = emitted(op, axes)
    x, other = torch.rand(2, steps, 2, *SAMPLES[axes]) * 2
    for export in exporters:
        held(export, Unrolled(net), x, other)
        net.step_mode = "m"
        held(export, net, x, other)
        net.step_mode = "s"


@pytest.mark.parametrize("name", OPS)
def test_every_op_survives_being_exported(name):
    check(*OPS[name], EXPORTERS)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sum_pool, 2d", "adaptive pool, 3d", "counting max_pool, 2d", "stream", "cubalif"])
def test_exporters_that_go_by_dynamo(name):
    check(*OPS[name], SLOW)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 8])
@pytest.mark.parametrize("export", [*EXPORTERS, *SLOW])
def test_any_number_of_steps(export, steps):
    check(*OPS["sum_pool, 2d"], [export], steps)


@pytest.mark.slow
@pytest.mark.parametrize("export", [*EXPORTERS, *SLOW])
def test_a_recurrent_network(export):
    graph = spikec.Graph("loop")
    x = graph.add(Input((3,), "float32", rate=True), name="x")
    memory = graph.add(Delay(graph.type(x)), name="memory")
    total = graph.add(Add(), x, graph.add(Linear(np.eye(3)[[1, 2, 0]]), memory), name="total")
    fired = graph.add(IF(np.ones(1)), total, name="n")
    graph.set_operands(memory, fired)
    graph.add(Output(), fired, name="y")
    net = spikec.compile(graph, "spikingjelly", pipeline=[])
    net.step_mode = "m"
    held(export, net, *torch.rand(2, 5, 2, 3))


@pytest.mark.parametrize("export", EXPORTERS)
def test_a_single_step_is_not_exported(export):
    net = emitted(*OPS["linear"])
    x = torch.rand(2, 6)
    with pytest.raises(spikec.InvalidModelError, match="no state for the next one") as caught:
        export(net, x, x)
    assert 'step_mode = "m"' in caught.value.hint


def test_the_state_before_an_export_is_where_the_exported_model_starts():
    net = emitted(*OPS["linear"])
    net.step_mode = "m"
    x, other = torch.rand(2, 3, 2, 6) * 2
    with torch.no_grad():
        net(x)
        before = net.n.v.clone()
        found = by_torch_export(net, x, other)
        assert torch.equal(net.n.v, before)
        assert torch.equal(found, net(other))


def test_a_module_that_was_exported_without_a_last_reset_runs():
    class Unreset(Unrolled):
        def forward(self, xs):
            self.net.reset()
            return torch.stack([self.net(x) for x in xs])

    net = emitted(*OPS["linear"])
    module, x = Unreset(net), torch.rand(3, 2, 6)
    expected = Unrolled(net)(x)
    found = by_torch_export(module, x, x)
    assert torch.equal(found, expected)
    assert torch.equal(torch.stack([net(each) for each in x]), expected)


def test_batches_of_any_size():
    net = emitted(*OPS["sum_pool, 2d"])
    net.step_mode = "m"
    x, other = torch.rand(3, 2, *SAMPLES[2]), torch.rand(3, 5, *SAMPLES[2]) * 2
    expected = net(other).detach()
    net.reset()
    file = io.BytesIO()
    torch.onnx.export(net, (x,), file, dynamo=False, input_names=["x"], dynamic_axes={"x": {1: "batch"}})
    exported = torch.export.export(net, (x,), dynamic_shapes=(({1: torch.export.Dim("batch")},),))
    traced = torch.jit.trace(net, (x,))
    net.reset()
    for found in (in_onnx(file.getvalue(), other), exported.module()(other), traced(other)):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("export", [torch.jit.trace, torch.export.export])
def test_several_inputs(export):
    graph = spikec.Graph("two")
    names = [graph.add(Input(shape, "float32", rate=True)) for shape in ((3,), (2,))]
    names = [graph.add(Linear(random(4, size)), name) for name, size in zip(names, (3, 2), strict=True)]
    graph.add(Output(), graph.add(IF(np.ones(1)), graph.add(Add(), *names)))
    net = spikec.compile(graph, "spikingjelly", pipeline=[])
    net.step_mode = "m"
    first, other = ([torch.rand(4, 2, size) * 3 for size in (3, 2)] for _ in range(2))
    expected = net(*other)
    net.reset()
    exported = export(net, tuple(first))
    assert torch.equal((exported.module() if hasattr(exported, "module") else exported)(*other), expected)
