"""NIR in plain numpy, float64: an evaluator of our own that knows nothing of spikec, used as an oracle."""

import nir
import numpy as np


def _is_stateful(node):
    kinds = (nir.IF, nir.LIF, nir.CubaLIF, nir.I, nir.LI, nir.CubaLI, nir.Threshold, nir.Delay)
    return isinstance(node, kinds)


def evaluate(graph, x, soft=True, v_init=0.0, dt=None):
    """Run a NIRGraph; x is [T, B, ...] or {input: [T, B, ...]}; returns {node: [T, B, ...]} for every node.

    I, IF: v += r x (unit gain). LI, LIF: v += dt/tau (v_leak - v + r x). CubaLI, CubaLIF: i += dt/tau_syn (w_in x - i),
    then v += dt/tau_mem (v_leak - v + r i). z = v > v_threshold; soft: v -= v_threshold where z; hard: v = v_reset.
    Threshold: z = x > threshold. Delay: y[t] = x[t - round(delay/dt)]. Several edges into a node are summed, in the
    order of the edges. With dt the gain of an I and IF is r dt. Nodes of graphs in the graph are ``outer.inner``. Back
    edges of a depth-first walk from the inputs give the value of the step before; before step 0 what their source
    gives where all neurons are silent.
    """
    nodes, edges = _flat(graph)
    feeds = x if isinstance(x, dict) else {next(name for name in nodes if isinstance(nodes[name], nir.Input)): x}
    late = _late(nodes, edges)
    order = _topological(nodes, [edge for edge in edges if edge not in late])
    state, history = {}, {name: [] for name in order}
    before = None
    for t in range(len(next(iter(feeds.values())))):
        values = {}
        for name in order:
            node = nodes[name]
            operands = [
                _before(name, nodes, edges, values, before, a) if (a, b) in late else values[a]
                for a, b in edges
                if b == name
            ]
            value = np.asarray(feeds[name][t], dtype=np.float64) if name in feeds else sum(operands[1:], operands[0])
            values[name] = _step(name, node, value, state, soft, v_init, dt)
            history[name].append(values[name])
        before = values
    return {name: np.stack(steps) for name, steps in history.items()}


def at_threshold(v, threshold):
    """Spikes of neurons that fire at their threshold, too."""
    return (v >= threshold).astype(float)


def to_zero(v, spikes, threshold):
    """What a reset to zero leaves of potentials."""
    return v * (spikes == 0)


def subtracted(v, spikes, threshold):
    """What a reset by subtraction leaves of potentials."""
    return v - spikes * threshold


def run_chain(graph, x, timesteps, fires, left):
    """The mean output up to each step, [T, N, ...], of a graph that is a chain of Affine and IF, fed x at each step.

    ``fires(v, threshold)`` gives the spikes, and ``left(v, spikes, threshold)`` what they leave of the potential.
    """
    nodes = [node for _, node in sorted(graph.nodes.items()) if not isinstance(node, (nir.Input, nir.Output))]
    states = [np.zeros(1) for _ in nodes]
    total, means = 0, []
    for t in range(timesteps):
        signal = x
        for i, node in enumerate(nodes):
            if isinstance(node, nir.Affine):
                signal = signal @ node.weight.T.astype(float) + node.bias
                continue
            v, threshold = states[i] + signal, node.v_threshold.astype(float)
            signal = fires(v, threshold)
            states[i] = left(v, signal, threshold)
        total = total + signal
        means.append(total / (t + 1))
    return np.array(means)


def _step(name, node, value, state, soft, v_init, dt):
    if isinstance(node, nir.Threshold):
        return (value > node.threshold).astype(np.float64)
    if isinstance(node, nir.Delay):
        seen = state.setdefault(name, [])
        seen.append(value)
        steps = np.broadcast_to(np.round(node.delay / dt).astype(int), value.shape[1:])
        late = np.zeros_like(value)
        for cell in np.ndindex(*steps.shape):
            at = len(seen) - 1 - steps[cell]
            late[(slice(None), *cell)] = seen[at][(slice(None), *cell)] if at >= 0 else 0
        return late
    if not _is_stateful(node):
        return _function(node, value)
    v = state.get(name, np.zeros_like(value) + node.metadata.get("v_init", v_init))
    if isinstance(node, (nir.I, nir.IF)):
        v = v + node.r * (1 if dt is None else dt) * value
    elif isinstance(node, (nir.LI, nir.LIF)):
        v = v + dt / node.tau * (node.v_leak - v + node.r * value)
    else:
        current = state.get((name, "i"), np.zeros_like(value))
        current = current + dt / node.tau_syn * (node.w_in * value - current)
        state[name, "i"] = current
        v = v + dt / node.tau_mem * (node.v_leak - v + node.r * current)
    state[name] = v
    if not hasattr(node, "v_threshold"):
        return v
    z = v > node.v_threshold
    state[name] = np.where(z, v - node.v_threshold if soft else node.v_reset, v)
    return z.astype(np.float64)


def _before(name, nodes, edges, values, before, source):
    """What a late edge gives: at step 0 what its source gives where all neurons are silent."""
    if before is not None:
        return before[source]
    if _is_stateful(nodes[source]):
        parameters = vars(nodes[source])
        return np.zeros(next(np.shape(parameters[key]) for key in ("r", "threshold", "delay") if key in parameters))
    silent = [_before(name, nodes, edges, values, None, a) for a, b in edges if b == source]
    return _function(nodes[source], sum(silent[1:], silent[0])[None])[0]


def _flat(graph, prefix=""):
    """Nodes and edges without graphs in the graph, whose inputs and outputs stay as nodes that do nothing."""
    nodes, edges = {}, []
    for name, node in graph.nodes.items():
        if isinstance(node, nir.NIRGraph):
            inner, more = _flat(node, f"{prefix}{name}.")
            nodes |= inner
            edges += more
        else:
            nodes[prefix + name] = node

    def end(name, kind):
        node = graph.nodes[name]
        if not isinstance(node, nir.NIRGraph):
            return prefix + name
        return f"{prefix}{name}." + next(key for key, each in node.nodes.items() if isinstance(each, kind))

    return nodes, edges + [(end(a, nir.Output), end(b, nir.Input)) for a, b in graph.edges]


def _late(nodes, edges):
    found, done, path = set(), set(), []

    def walk(name):
        path.append(name)
        for a, b in edges:
            if a == name and b in path:
                found.add((a, b))
            elif a == name and b not in done:
                walk(b)
        done.add(path.pop())

    for name in sorted(nodes, key=lambda name: not isinstance(nodes[name], nir.Input)):
        if name not in done:
            walk(name)
    return found


def _topological(nodes, edges):
    done = []
    while len(done) < len(nodes):
        ready = [n for n in nodes if n not in done and all(a in done for a, b in edges if b == n)]
        assert ready, "cycle"
        done += ready
    return done


def _function(node, x):
    if isinstance(node, (nir.Input, nir.Output)):
        return x
    if isinstance(node, nir.Scale):
        return x * node.scale
    if isinstance(node, nir.Affine):
        return x @ node.weight.T.astype(np.float64) + node.bias
    if isinstance(node, nir.Linear):
        return x @ node.weight.T.astype(np.float64)
    if isinstance(node, nir.Flatten):
        shape = list(x.shape[1:])
        end = node.end_dim % len(shape)
        return x.reshape(len(x), *shape[: node.start_dim], -1, *shape[end + 1 :])
    if isinstance(node, nir.Conv1d):
        args = [np.reshape(v, -1) for v in (node.stride, node.padding, node.dilation)]
        return _conv(x, node.weight, *args, int(node.groups)) + node.bias[:, None]
    if isinstance(node, nir.Conv2d):
        return (
            _conv(x, node.weight, node.stride, node.padding, node.dilation, int(node.groups))
            + (node.bias[:, None, None])
        )
    if isinstance(node, (nir.SumPool2d, nir.AvgPool2d)):
        channels = x.shape[1]
        ones = np.ones((channels, 1, *node.kernel_size))
        total = _conv(x, ones, node.stride, node.padding, (1, 1), channels)
        return total if isinstance(node, nir.SumPool2d) else total / np.prod(node.kernel_size)
    raise NotImplementedError(type(node).__name__)


def _conv(x, weight, stride, padding, dilation, groups):
    """Cross-correlation, one kernel cell after the other."""
    kernel = weight.shape[2:]
    x = np.pad(x, [(0, 0), (0, 0), *((int(p), int(p)) for p in padding)])
    size = [
        (x.shape[i + 2] - int(d) * (k - 1) - 1) // int(s) + 1
        for i, (k, s, d) in enumerate(zip(kernel, stride, dilation, strict=True))
    ]
    rows, columns = len(weight) // groups, weight.shape[1]
    result = np.zeros((len(x), len(weight), *size))
    for cell in np.ndindex(*kernel):
        window = tuple(
            slice(c * int(d), c * int(d) + (n - 1) * int(s) + 1, int(s))
            for c, d, n, s in zip(cell, dilation, size, stride, strict=True)
        )
        part = x[(slice(None), slice(None), *window)]
        for g in range(groups):
            w = weight[g * rows : (g + 1) * rows][(slice(None), slice(None), *cell)].astype(np.float64)
            result[:, g * rows : (g + 1) * rows] += np.einsum(
                "oi,bi...->bo...", w, part[:, g * columns : (g + 1) * columns]
            )
    return result
