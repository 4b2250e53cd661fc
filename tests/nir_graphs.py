"""Random NIR graphs of the nodes that one tool takes, written as a stranger might write them."""

import attrs
import h5py
import nir
import numpy as np

T, B = 24, 3


def _each(rng, shape, low, high):
    return rng.uniform(low, high, shape)


def _one(rng, shape, low, high):
    return np.full(shape, rng.uniform(low, high))


def _integrate(draw, r=1.0, resets=(0.0,)):
    def make(rng, shape, dt):
        threshold = np.round(8 * draw(rng, shape, 0.5, 2)) / 8
        return nir.IF(np.full(shape, r if r == 1 else 1 / dt), threshold, np.full(shape, rng.choice(resets)))

    return make


def _leaky(draw, gains=("one", "leak"), leaks=(0.0,), drawn=_one):
    """LIF neurons; a gain of "leak" is r = 1, one of "one" is r = tau/dt; v_reset is v_leak."""

    def make(rng, shape, dt):
        steps, leak = draw(rng, shape, 1.5, 9), np.full(shape, rng.choice(leaks))
        r = steps if (gain := rng.choice(gains)) == "one" else np.ones(shape)
        threshold = drawn(rng, shape, 0.4, 1.2) * (0.3 if gain == "leak" else 1)
        return nir.LIF(tau=steps * dt, r=r, v_leak=leak, v_threshold=threshold, v_reset=leak)

    return make


def _current(draw, gain_one=True, leaks=(0.0,)):
    def make(rng, shape, dt):
        syn, mem = draw(rng, shape, 1.5, 6), draw(rng, shape, 1.5, 9)
        gains = {"r": mem, "w_in": syn} if gain_one else {"r": _each(rng, shape, 1, 4), "w_in": _each(rng, shape, 1, 3)}
        leak = np.full(shape, rng.choice(leaks))
        threshold = _one(rng, shape, 0.8, 2)
        return nir.CubaLIF(
            tau_syn=syn * dt, tau_mem=mem * dt, v_leak=leak, v_threshold=threshold, v_reset=0 * leak, **gains
        )

    return make


def _integrator(rng, shape, _):
    return nir.LI(tau=rng.uniform(1.5, 9, shape), r=np.ones(shape), v_leak=np.zeros(shape))


def _counted(rng, shape, _):
    """A LIF whose tau are numbers of steps, and its r is 1."""
    steps, zeros = rng.uniform(1.5, 9, shape), np.zeros(shape)
    return nir.LIF(steps, np.ones(shape), zeros, rng.uniform(0.6, 2, shape), zeros)


@attrs.frozen
class Tool:
    """What a tool takes: neurons, behind maps ``of_maps`` only; ``dt`` is that of its import.

    A Flatten from axis -3 on is one thing to all tools; some take an axis of 0 for the batch.
    """

    neurons: tuple
    of_maps: tuple = ()
    dt: float = 1e-4
    maps: bool = True
    pools: tuple = (nir.SumPool2d,)
    linear: bool = True
    groups: bool = False
    skips: bool = True
    loops: bool = False
    flatten: int = -3
    last: tuple = ()


TOOLS = {
    "spikingjelly": Tool(
        (_integrate(_one, r=0, resets=(0.0, -0.25)), _leaky(_one, leaks=(0.0, -0.3)), _current(_one)),
        pools=(nir.SumPool2d, nir.AvgPool2d),
        loops=True,
        flatten=0,
    ),
    "snntorch": Tool((_leaky(_one), _leaky(_each, gains=("one",)), _current(_each)), pools=(nir.AvgPool2d,)),
    "norse": Tool(
        (_integrate(_each), _leaky(_each, leaks=(0.0, 0.2), drawn=_each), _current(_each, False)),
        loops=True,
    ),
    "sinabs": Tool(
        (_integrate(_each), _counted),
        (_integrate(_each),),
        dt=1.0,
        linear=False,
        groups=True,
        flatten=0,
        last=(_integrator,),
    ),
    "rockpool": Tool((_current(_each),), maps=False, skips=False, linear=False),
}


class _Graph:
    """A graph that grows by a node at its end."""

    def __init__(self, rng, shape):
        self.rng, self.shape, self.last = rng, shape, "input"
        self.nodes, self.edges = {"input": nir.Input(np.array(shape))}, []

    def add(self, node, shape=None):
        name = f"n{len(self.nodes):02}_{type(node).__name__.lower()}"
        self.nodes[name] = node
        self.edges.append((self.last, name))
        self.last, self.shape = name, shape or self.shape

    def weights(self, *shape):
        """Multiples of 1/16, whose sums float32 does not round."""
        fan_in = int(np.prod(shape[1:]))
        return (np.round(16 * self.rng.normal(0.5, 1.5, shape) / np.sqrt(fan_in)) / 16).astype(np.float32)

    def affine(self, n, linear=False):
        weight = self.weights(n, self.shape[0])
        self.add(nir.Linear(weight) if linear else nir.Affine(weight, self.weights(n, 4)[:, 0] / 4), (n,))

    def convolution(self, channels, groups=1):
        weight = self.weights(channels, self.shape[0] // groups, 3, 3)
        self.add(nir.Conv2d(self.shape[1:], weight, 1, 1, 1, groups, self.weights(channels, 4)[:, 0] / 4),
                 (channels, *self.shape[1:]))  # fmt: skip


def random_graph(name, seed):
    """(graph, x [T, B, ...]) for the tool of that name."""
    tool, rng = TOOLS[name], np.random.default_rng(seed)
    graph = _Graph(rng, (2, 6, 6) if tool.maps and rng.random() < 0.5 else (int(rng.integers(4, 9)),))
    start = graph.shape

    def neurons():
        takes = tool.neurons if len(graph.shape) == 1 else tool.of_maps or tool.neurons
        graph.add(takes[rng.integers(len(takes))](rng, graph.shape, tool.dt))

    if len(start) == 3:
        graph.convolution(4)
        neurons()
        if tool.groups and rng.random() < 0.5:
            graph.convolution(4, groups=2)
            neurons()
        if tool.skips and rng.random() < 0.5:
            _skip(graph, lambda: graph.convolution(4), neurons)
        if tool.pools and rng.random() < 0.7:
            pool = tool.pools[rng.integers(len(tool.pools))]
            graph.add(pool(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])), (4, 3, 3))
        graph.add(nir.Flatten({"input": np.array(graph.shape)}, tool.flatten, -1), (int(np.prod(graph.shape)),))
    for _ in range(rng.integers(1, 4)):
        graph.affine(int(rng.integers(4, 9)), tool.linear and rng.random() < 0.3)
        neurons()
        if tool.loops and rng.random() < 0.4 and not isinstance(graph.nodes[graph.last], nir.IF):
            _loop(graph)
        if tool.skips and rng.random() < 0.3:
            _skip(graph, lambda: graph.affine(graph.shape[0]), neurons)
    if rng.random() < 0.3:
        graph.affine(5)
        for make in tool.last:
            graph.add(make(rng, graph.shape, tool.dt))
    graph.nodes["output"] = nir.Output(np.array(graph.shape))
    graph.edges.append((graph.last, "output"))
    x = np.round(8 * rng.random((T, B, *start)) * rng.choice([1, 2])) / 8
    # nir's own check takes a convolution with groups for one without
    return nir.NIRGraph(graph.nodes, graph.edges, type_check=False), x.astype(np.float32)


def _skip(graph, layer, neurons):
    """A layer, neurons and a layer beside a skip, summed by neurons; the edge that skips comes last."""
    start = graph.last
    layer()
    neurons()
    layer()
    neurons()
    graph.edges.append((start, graph.last))


def _loop(graph):
    """Neurons whose spikes come back through weights a step later."""
    name, n = graph.last, graph.shape[0]
    back = f"{name}_back"
    graph.nodes[back] = nir.Affine(graph.weights(n, n) / 2, np.zeros(n, dtype=np.float32))
    graph.edges += [(name, back), (back, name)]


def write(graph, path):
    """Write a file that every version of nir reads: potentials of 0 to reset to, which no tool reads, are left out."""
    nir.write(path, graph)
    with h5py.File(path, "r+") as file:
        for node in file["node/nodes"].values():
            if "v_reset" in node and not node["v_reset"][()].any():
                del node["v_reset"]
