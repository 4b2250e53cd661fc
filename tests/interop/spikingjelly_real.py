"""Runs under a Python that has SpikingJelly and spikec: real software on what we wrote.

``spikingjelly_real.py nir FILE IN.npz OUT.npz``: SpikingJelly's importer on a NIR file, with soft reset.
``spikingjelly_real.py asis FILE IN.npz OUT.npz``: SpikingJelly's importer on a NIR file, as its tutorial calls it.
``spikingjelly_real.py module FILE IN.npz OUT.npz``: SpikingJelly's helpers on one of our modules.

IN holds x [T, B, ...]; OUT gets the output [T, B, ...] and, for NIR, every neuron's spikes.
"""

import sys

import numpy as np
import torch
from spikingjelly.activation_based import functional, neuron
from spikingjelly.activation_based.nir_exchange import import_from_nir


def run_nir(path, x):
    net = import_from_nir(path, dt=1.0, dtype=torch.float64)
    for node in net.modules():
        if isinstance(node, neuron.BaseNode):
            node.v_reset = None
    return _run(net, x)


def run_as_is(path, x):
    return _run(import_from_nir(path, dt=1e-4, dtype=torch.float64), x)


def _run(net, x):
    nodes = {name: m for name, m in net.named_modules() if isinstance(m, neuron.BaseNode)}
    results, state = {"output": []}, None
    for name in nodes:
        results[name.removesuffix(".module")] = []
    with torch.no_grad():
        for step in x:
            for name, node in nodes.items():
                keep = results[name.removesuffix(".module")]
                node.functional_forward = _recording(type(node).functional_forward, node, keep)
            y, state = net(step, state)
            results["output"].append(y)
    return {name: torch.stack(steps).numpy() for name, steps in results.items()}


def _recording(call, node, keep):
    def forward(*args, **kwargs):
        outputs, state = call(node, *args, **kwargs)
        keep.append(outputs[0])
        return outputs, state

    return forward


def run_module(path, x):
    net = torch.load(path, weights_only=False)
    with torch.no_grad():
        functional.set_step_mode(net, "m")
        assert net.step_mode == "m"
        assert all(part.step_mode == "m" for part in net.modules() if hasattr(part, "step_mode"))
        multi = net(x)
        assert any(part.v is not None for part in net.modules() if hasattr(part, "v"))
        functional.reset_net(net)
        assert all(part.v is None for part in net.modules() if hasattr(part, "v"))
        functional.set_step_mode(net, "s")
        single = torch.stack([net(step) for step in x])
        functional.reset_net(net)
    return {"output": multi.numpy(), "single": single.numpy()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    kind, path, source, target = sys.argv[1:]
    with np.load(source) as archive:
        data = torch.from_numpy(archive["x"])
    np.savez(target, **{"nir": run_nir, "asis": run_as_is, "module": run_module}[kind](path, data))
