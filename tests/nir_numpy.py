"""NIR in plain numpy, float64: an evaluator of our own that knows nothing of spikec, used as an oracle."""

import nir
import numpy as np


def evaluate(graph, x, soft=True, v_init=0.0, dt=None):
    """Run a NIRGraph; x is [T, B, ...] or {input: [T, B, ...]}; returns {node: [T, B, ...]} for every node.

    IF: v += r x (unit gain). LIF: v += dt/tau (v_leak - v + r x). CubaLIF: i += dt/tau_syn (w_in x - i), then
    v += dt/tau_mem (v_leak - v + r i). z = v > v_threshold; soft: v -= v_threshold where z; hard: v = v_reset.
    Several edges into a node are summed, in the order of the edges. With dt the gain of an IF is r dt.
    """
    feeds = x if isinstance(x, dict) else {next(iter(graph.inputs)): x}
    order = _topological(graph)
    state, history = {}, {name: [] for name in order}
    for t in range(len(next(iter(feeds.values())))):
        values = {}
        for name in order:
            node = graph.nodes[name]
            operands = [values[a] for a, b in graph.edges if b == name]
            value = np.asarray(feeds[name][t], dtype=np.float64) if name in feeds else sum(operands[1:], operands[0])
            if isinstance(node, (nir.IF, nir.LIF, nir.CubaLIF)):
                start = node.metadata.get("v_init", v_init)
                v = state.get(name, np.zeros_like(value) + start)
                if isinstance(node, nir.IF):
                    v = v + node.r * (1 if dt is None else dt) * value
                elif isinstance(node, nir.LIF):
                    v = v + dt / node.tau * (node.v_leak - v + node.r * value)
                else:
                    current = state.get((name, "i"), np.zeros_like(value))
                    current = current + dt / node.tau_syn * (node.w_in * value - current)
                    state[name, "i"] = current
                    v = v + dt / node.tau_mem * (node.v_leak - v + node.r * current)
                z = v > node.v_threshold
                state[name] = np.where(z, v - node.v_threshold if soft else node.v_reset, v)
                value = z.astype(np.float64)
            else:
                value = _function(node, value)
            values[name] = value
            history[name].append(value)
    return {name: np.stack(steps) for name, steps in history.items()}


def _topological(graph):
    done = []
    while len(done) < len(graph.nodes):
        ready = [n for n in graph.nodes if n not in done and all(a in done for a, b in graph.edges if b == n)]
        assert ready, "cycle"
        done += ready
    return done


def _function(node, x):
    if isinstance(node, (nir.Input, nir.Output)):
        return x
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
