"""Spiking nets of every neuron that the target netx takes: leaky or not, reset in any way, recurrent, on maps."""

import itertools

import attrs
import numpy as np

import spikec
from spikec.ir.ops import IF, LIF, Add, Conv, CubaLIF, Delay, Flatten, Input, Linear, Output

STEPS = 40
SIZES = (8, 12, 9, 4)


def arr(value):
    return np.asarray(value, dtype=float)


def lif(v_reset=None, tau=4.3, threshold=1.0, v_init=None, **fields):
    fields = {name: arr(value) if isinstance(value, float) else value for name, value in fields.items()}
    start = arr((v_reset or 0.0) if v_init is None else v_init)
    reset = None if v_reset is None else arr(v_reset)
    return lambda rng, n: LIF(arr([threshold]), reset, start, tau=arr(tau), out_scale=np.ones(1), **fields)


def cuba(v_reset=0.0, **fields):
    fields = {name: arr(value) for name, value in {"decay_syn": 0.6, "decay": 0.8, "gain": 0.3, **fields}.items()}
    reset = None if v_reset is None else arr(v_reset)
    return lambda rng, n: CubaLIF(np.ones(1), reset, arr(v_reset or 0), out_scale=np.ones(1), **fields)


def integrate_and_fire(v_reset=None, v_init=0.0):
    reset = None if v_reset is None else arr(v_reset)
    return lambda rng, n: IF(np.ones(1), reset, arr(v_init), out_scale=np.ones(1))


def unlike(v_reset):
    """LIF neurons of which each has parameters of its own."""
    reset = None if v_reset is None else arr(v_reset)

    def made(rng, n):
        fields = {"tau": rng.uniform(1.5, 9, n), "gain": rng.uniform(0.4, 1, n), "v_leak": arr(0.2)}
        return LIF(rng.uniform(0.5, 1.5, n), reset, arr(v_reset or 0), out_scale=np.ones(1), **fields)

    return made


#: neurons of the layers of a net, by name
KINDS = {
    "lif": [lif(0.0)],
    "lif with gain, leak and reset": [lif(-0.3, gain=0.7, v_leak=0.1)],
    "lif that starts above its reset": [lif(-0.3, gain=0.7, v_leak=0.1, v_init=0.5), lif(0.0, tau=2.5, v_init=0.9)],
    "lif unlike": [unlike(0.0)],
    "lif soft": [lif(gain=1.0)],
    "lif soft unlike": [unlike(None)],
    "lif soft, a step late": [lif(gain=1.0, reset_at="next", strict=True)],
    "lif never reset": [lif(gain=1.0, reset_at="never", threshold=2.0)],
    "cuba": [cuba()],
    "cuba with leak and reset": [cuba(-0.2, v_leak=0.2)],
    "if hard": [integrate_and_fire(0.0)],
    "if soft": [integrate_and_fire()],
    "if hard and cuba": [integrate_and_fire(0.0, v_init=0.5), cuba()],
    "if soft and lif": [integrate_and_fire(v_init=0.5), lif(0.0)],
    "cuba and if soft": [cuba(), integrate_and_fire()],
}
#: those whose layers may be recurrent: all that start where they are reset
RECURRENT = [kind for kind in KINDS if kind not in ("cuba with leak and reset", "if hard and cuba", "if soft and lif")]
#: those that a convolution may feed: all but those with soft reset
ON_MAPS = [kind for kind in KINDS if "soft" not in kind]


def dense_net(kind, recurrent=False, seed=0):
    """A net of Linear ops and neurons; all have biases, those on the way back too."""
    rng, graph = np.random.default_rng(seed), spikec.Graph("net")
    x = graph.add(Input(SIZES[:1], "float64", rate=True), name="x")
    for i, (inputs, outputs) in enumerate(itertools.pairwise(SIZES)):
        x = graph.add(Linear(rng.normal(0.4, 0.7, (outputs, inputs)), rng.normal(0, 0.1, outputs)), x, name=f"fc{i}")
        if outputs == SIZES[-1]:
            break
        neuron = KINDS[kind][i % len(KINDS[kind])](rng, outputs)
        if not recurrent:
            x = graph.add(neuron, x, name=f"n{i}")
            continue
        before = graph.add(Delay(neuron.infer(graph.type(x))), name=f"before{i}")
        back = graph.add(Linear(rng.normal(0, 0.4, (outputs, outputs)), rng.normal(0, 0.05, outputs)), before)
        x = graph.add(neuron, graph.add(Add(), x, back), name=f"n{i}")
        graph.set_operands(before, x)
    graph.add(Output(), x, name="y")
    return graph


def map_net(kind, seed=0):
    """A net of convolutions (grouped, strided, padded), neurons and a Linear."""
    rng, graph = np.random.default_rng(seed), spikec.Graph("net")
    x = graph.add(Input((2, 7, 6), "float64", rate=True), name="x")
    options = ({"padding": ((1, 1), (0, 0))}, {"stride": (2, 1), "groups": 2})
    for i, (channels, inputs) in enumerate(((4, 2), (6, 2))):
        weight = rng.normal(0.3, 0.5, (channels, inputs, 3, 2))
        fields = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1, **options[i]}
        x = graph.add(Conv(weight, rng.normal(0, 0.1, channels), **fields), x, name=f"conv{i}")
        neuron = KINDS[kind][i % len(KINDS[kind])](rng, (channels, 1, 1))
        threshold = neuron.v_threshold.reshape(-1, 1, 1)
        x = graph.add(attrs.evolve(neuron, v_threshold=threshold, out_scale=np.ones((1, 1, 1))), x, name=f"n{i}")
    x = graph.add(Flatten(), x)
    size = graph.type(x).shape[0]
    x = graph.add(Linear(rng.normal(0, 0.3, (4, size)), rng.normal(0, 0.1, 4)), x, name="fc")
    graph.add(Output(), x, name="y")
    return graph


def residual_net(kind, seed=0):
    """Spikes that skip a convolution, and are added to what comes of it."""
    rng, graph = np.random.default_rng(seed), spikec.Graph("net")
    x = graph.add(Input((2, 6, 5), "float64", rate=True), name="x")
    pads = {"padding": ((1, 1), (1, 1)), "stride": (1, 1), "dilation": (1, 1), "groups": 1}
    before = None
    for i, inputs in enumerate((2, 4, 4)):
        conv = Conv(rng.normal(0.1, 0.3, (4, inputs, 3, 3)), rng.normal(0, 0.1, 4), **pads)
        current = graph.add(conv, x, name=f"conv{i}")
        neuron = KINDS[kind][i % len(KINDS[kind])](rng, (4, 1, 1))
        threshold = neuron.v_threshold.reshape(-1, 1, 1)
        neuron = attrs.evolve(neuron, v_threshold=threshold, out_scale=np.ones((1, 1, 1)))
        if i == 2:
            current = graph.add(Add(), current, before, name="sum")
        x = graph.add(neuron, current, name=f"n{i}")
        before = x if i == 0 else before
    x = graph.add(Flatten(), x)
    graph.add(Output(), graph.add(Linear(rng.normal(0, 0.3, (4, 120))), x, name="fc"), name="y")
    return graph
