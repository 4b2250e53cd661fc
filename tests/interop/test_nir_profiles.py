"""Files of every profile in the tool that it is for, in a Python of its own: see README.md for the variables.

Weights and inputs are multiples of 1/64 and 1/8, so that no order of adding rounds, and a potential often is the
threshold exactly. What a tool does stands here in numpy, as its sources say it.
"""

import os
import subprocess
from pathlib import Path

import nir
import numpy as np
import pytest

import spikec
from nir_numpy import _function, _topological
from npz import loaded
from spikec.ir.ops import IF, LIF, Add, AvgPool, Conv, CubaLIF, Flatten, Input, Linear, Output, SumPool

#: that a tool runs neurons otherwise than they are meant is what these tests are about
pytestmark = pytest.mark.filterwarnings("ignore::spikec.SpikecWarning")

FOLDER = Path(__file__).parent
T, B = 24, 3
DT = 1e-4
VARIABLES = {
    "spikingjelly": "SPIKEC_SJ_PYTHON",
    "snntorch": "SPIKEC_SNNTORCH_PYTHON",
    "sinabs": "SPIKEC_SINABS_PYTHON",
    "norse": "SPIKEC_NORSE_PYTHON",
    "rockpool": "SPIKEC_ROCKPOOL_PYTHON",
    "snn-mlir": "SPIKEC_SNN_MLIR_PYTHON",
}
ONE = np.asarray(1.0)


def integrate(fires, dt=DT):
    """What SpikingJelly, snnTorch and norse do: NIR's equations by Euler's rule, hard reset; an IF adds its input."""

    def step(node, x, state):
        v, i = (0 * x, 0 * x) if state is None else state
        if isinstance(node, nir.IF):
            v = v + x
        elif isinstance(node, nir.LIF):
            v = v + dt / node.tau * (node.v_leak - v + node.r * x)
        else:
            i = i + dt / node.tau_syn * (node.w_in * x - i)
            v = v + dt / node.tau_mem * (node.v_leak - v + node.r * i)
        z = fires(v, node.v_threshold)
        return z.astype(float), (np.where(z, node.v_reset, v), i)

    return step


def sinabs(node, x, v):
    """Several spikes a step, subtracted; the potential of an IAF has a floor; tau counts steps."""
    v = 0 * x if v is None else v
    v = v + x if isinstance(node, nir.IF) else np.exp(-1 / node.tau) * v + x
    z = np.maximum(np.floor(v / node.v_threshold), 0)
    v = v - z * node.v_threshold
    return z, np.maximum(v, -node.v_threshold) if isinstance(node, nir.IF) else v


def rockpool(node, x, state):
    """Several spikes a step, subtracted; both potentials decay exponentially, and the input with them."""
    v, i = (0 * x, 0 * x) if state is None else state
    dt = (node.tau_mem / (1 + node.r)).min()
    i = (i + x) * np.exp(-dt / node.tau_syn)
    v = v * np.exp(-dt / node.tau_mem) + i
    z = np.maximum(np.floor(v / node.v_threshold), 0)
    return z, (v - z * node.v_threshold, i)


def evaluate_by(graph, x, rule):
    """The output of a feed-forward NIR graph, [T, B, ...], whose neurons do a step by a rule."""
    state, outputs = {}, []
    for step in x:
        values = {}
        for name in _topological(graph.nodes, graph.edges):
            node, operands = graph.nodes[name], [values[a] for a, b in graph.edges if b == name]
            value = sum(operands[1:], operands[0]) if operands else step
            if hasattr(node, "v_threshold"):
                values[name], state[name] = rule(node, value, state.get(name))
            else:
                values[name] = _function(node, value)
        outputs.append(values["output"])
    return np.stack(outputs)


RULES = {
    "spikingjelly": integrate(np.greater_equal),
    "snntorch": integrate(np.greater),
    "sinabs": sinabs,
    "norse": integrate(np.greater),
    "rockpool": rockpool,
}


class Net:
    """A spiking graph on its way, with weights that are multiples of 1/64."""

    def __init__(self, *shape):
        self.rng = np.random.default_rng(0)
        self.graph = spikec.Graph("hand")
        self.last = self.x = self.graph.add(Input(shape, "float32", rate=True), name="x")

    def weights(self, *shape, size=0.5):
        return np.round(64 * self.rng.normal(0.1, size, shape)) / 64

    def add(self, op, *operands, name=""):
        self.last = self.graph.add(op, *operands or (self.last,), name=name)
        return self.last

    def linear(self, out):
        return self.add(Linear(self.weights(out, self.graph.type(self.last).shape[0]), self.weights(out)))

    def conv(self, out, kernel, *operands, stride=1, padding=0, groups=1):
        channels = self.graph.type(operands[0] if operands else self.last).shape[0]
        weight = self.weights(out, channels // groups, kernel, kernel, size=0.3)
        spaces = {"stride": (stride,) * 2, "padding": (padding,) * 2, "groups": groups}
        scale = self.graph.type(operands[0] if operands else self.last).scale
        return self.add(Conv(weight, self.weights(out, size=0.2), in_scale=np.unique(scale), **spaces), *operands)

    def fire(self):
        return self.add(IF(np.ones((1,) * len(self.graph.type(self.last).shape))))

    def done(self):
        self.graph.add(Output(), self.last, name="output")
        return self.graph


def mlp():
    net = Net(6)
    for width in (12, 9, 5):
        net.linear(width)
        net.fire()
    return net.done()


def cnn():
    net = Net(2, 9, 7)
    net.conv(4, 3, padding=1)
    net.fire()
    net.add(SumPool((2, 2), (2, 2), (0, 0)))
    net.conv(6, 2, stride=2)
    net.fire()
    net.add(Flatten())
    net.linear(8)
    net.fire()
    net.linear(5)
    return net.done()


def averages():
    net = Net(2, 8, 8)
    net.conv(4, 3, padding=1)
    net.fire()
    net.add(AvgPool((2, 2), (2, 2), (0, 0)))
    net.add(Flatten())
    net.linear(5)
    net.fire()
    return net.done()


def residual():
    """An identity, a projection of stride 2 over an odd map, and one of stride 1."""
    net = Net(2, 7, 7)
    net.conv(3, 3, padding=1)
    u = net.fire()
    for out, stride, projected in ((3, 1, False), (5, 2, True), (4, 1, True)):
        skip = net.conv(out, 1, u, stride=stride) if projected else u
        net.conv(out, 3, u, stride=stride, padding=1)
        net.fire()
        net.add(Add(), net.conv(out, 3, padding=1), skip)
        u = net.fire()
    net.add(Flatten())
    net.linear(5)
    return net.done()


def depthwise():
    net = Net(4, 6, 6)
    net.conv(4, 3, padding=1, groups=4)
    net.fire()
    net.conv(6, 1, groups=2)
    net.fire()
    net.add(Flatten())
    net.linear(5)
    net.fire()
    return net.done()


def leaky(op):
    def make():
        net = Net(6)
        net.linear(9)
        net.add(op)
        net.linear(5)
        net.add(IF(np.ones(1)))
        return net.done()

    return make


TAU = np.asarray(4.0)
NETS = {
    "mlp": mlp,
    "cnn": cnn,
    "averages": averages,
    "residual": residual,
    "depthwise": depthwise,
    "lif": leaky(LIF(np.ones(1), ONE * 0, tau=TAU)),
    "lif of gain 1": leaky(LIF(np.ones(1), ONE * 0, tau=TAU, gain=ONE)),
    "lif of odd gain, to v_reset": leaky(LIF(np.ones(1), -ONE / 4, tau=TAU, gain=ONE / 2, v_leak=-ONE / 4)),
    "cuba": leaky(CubaLIF(np.ones(1), ONE * 0, decay=ONE / 2, decay_syn=ONE / 4, gain=ONE / 2)),
}
MAPS = ("cnn", "averages", "residual", "depthwise")
#: what the reader has no form for
REFUSED = {
    "spikingjelly": {"lif of odd gain, to v_reset", "cuba"},
    "sinabs": {"cuba"},
    "rockpool": set(MAPS),
}


def real(tool, graph, x, folder):
    """The tool's output, or nothing from one that only reads."""
    python = os.environ.get(VARIABLES[tool])
    if not python:
        pytest.skip(f"{VARIABLES[tool]} names no Python with {tool}")
    spikec.save(graph, folder / "net.nir")
    np.savez(folder / "in.npz", x=x.astype(np.float32), dt=float(graph.metadata["dt"]))
    if tool == "snn-mlir":
        command = [FOLDER / "nir_read.py", tool, folder / "net.nir"]
    else:
        command = [FOLDER / "nir_real.py", tool, folder / "net.nir", folder / "in.npz", folder / "out.npz"]
    found = subprocess.run([python, "-W", "ignore", *command], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr[-2000:]
    return None if tool == "snn-mlir" else loaded(folder / "out.npz")["output"]


def inputs(graph):
    shape = tuple(graph.nodes["input"].input_type["input"])
    return np.round(8 * np.random.default_rng(1).uniform(0, 1.5, (T, B, *shape))) / 8


@pytest.mark.parametrize("tool", VARIABLES)
@pytest.mark.parametrize("name", NETS)
def test_the_tool_runs_its_file_as_it_runs_neurons(name, tool, tmp_path):
    if name in REFUSED.get(tool, ()):
        with pytest.raises(spikec.UnsupportedOpError):
            spikec.compile(NETS[name](), "nir", profile=tool)
        return
    graph = spikec.compile(NETS[name](), "nir", profile=tool)
    x = inputs(graph)
    found = real(tool, graph, x, tmp_path)
    if found is None:
        return
    expected = evaluate_by(graph, x, RULES[tool])
    assert found.shape == expected.shape
    assert expected.std() > 0.1
    assert np.allclose(found, expected, rtol=0, atol=1e-4), f"{np.mean(~np.isclose(found, expected, atol=1e-4)):.3f}"


@pytest.mark.parametrize(("profile", "tool"), [("portable", "norse"), ("portable", "sinabs")])
@pytest.mark.parametrize("name", ["mlp", "cnn", "averages", "residual", "depthwise"])
def test_several_tools_run_a_portable_file(name, profile, tool, tmp_path):
    graph = spikec.compile(NETS[name](), "nir", profile=profile)
    x = inputs(graph)
    found = real(tool, graph, x, tmp_path)
    expected = evaluate_by(graph, x, RULES[tool])
    assert np.allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("tool", ["spikingjelly", "snntorch", "norse", "snn-mlir"])
@pytest.mark.parametrize("name", ["mlp", "cnn", "averages", "residual", "depthwise"])
def test_four_tools_run_a_file_of_current_based_neurons(name, tool, tmp_path):
    graph = spikec.compile(NETS[name](), "nir", profile="portable-cuba")
    if tool == "snn-mlir" and name == "residual":
        return
    x = inputs(graph)
    found = real(tool, graph, x, tmp_path)
    if found is not None:
        expected = evaluate_by(graph, x, RULES[tool])
        assert np.allclose(found, expected, rtol=0, atol=1e-4)
