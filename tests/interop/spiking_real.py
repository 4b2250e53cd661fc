"""Runs under a Python that has spikec and SpikingJelly or snnTorch: their models, and what spikec makes of them.

``spiking_real.py LIBRARY OUT.npz`` runs every case of that library for T steps in float64. OUT gets, for each case,
``CASE/theirs`` (the model's own forward), ``CASE/graph`` (the interpreter on the imported graph), ``CASE/module`` (the
target spikingjelly) and ``CASE/nir`` (the file of the target nir, read back) and, of leaky neurons that Loihi has too,
``CASE/loihi`` (the graph with those), all [T, B, ...]; where SpikingJelly's
importer takes the file, ``CASE/imported`` is its output.
"""

import itertools
import sys
import tempfile
import warnings
from pathlib import Path

import nir
import numpy as np
import torch
from torch import nn

import spikec

T = 48


def jelly_cases():
    from spikingjelly.activation_based import functional, layer, neuron

    def several(net):
        functional.set_step_mode(net, "m")
        return net

    def mlp(first, second):
        readout = layer.Linear(9, 5)
        nn.init.uniform_(readout.weight, -0.5, 1.5)
        return nn.Sequential(nn.Linear(6, 9), first, readout, second)

    yield "tutorial", tutorial(), (3, 32, 32)
    for tau, decay, reset, threshold in itertools.product((2.0, 7.3), (True, False), (None, 0.0, -0.4), (1.0, 0.6)):
        options = {"decay_input": decay, "v_reset": reset, "v_threshold": threshold}
        name = f"lif tau={tau} decay_input={decay} v_reset={reset} v_threshold={threshold}"
        yield name, mlp(neuron.LIFNode(tau, **options), neuron.ParametricLIFNode(tau, **options)), (6,)
    for reset in (None, 0.0, 0.2):
        first = neuron.CUBALIFNode(0.4, 0.7, v_threshold=0.8, v_reset=reset)
        yield f"cuba v_reset={reset}", mlp(first, neuron.IFNode(v_reset=reset)), (6,)
    yield "half threshold", mlp(neuron.HalfThresholdIFNode(0.8), neuron.IFNode(v_reset=None)), (6,)
    norm = nn.Sequential(
        layer.Conv2d(2, 4, 3, padding=1, bias=False),
        layer.BatchNorm2d(4),
        neuron.LIFNode(v_threshold=0.5),
        layer.AvgPool2d(2),
        layer.Dropout(0.3),
        layer.Conv2d(4, 4, 3),
        layer.BatchNorm2d(4),
        neuron.IFNode(v_threshold=0.7, v_reset=None),
        layer.Flatten(),
        layer.Linear(16, 5),
    )
    yield "batch norm", norm, (2, 8, 8)
    yield "several steps", several(mlp(neuron.LIFNode(3.0), neuron.IFNode(store_v_seq=True))), (6,)
    yield "containers", several(containers()), (2, 8, 8)
    yield "residual", several(Residual()), (2, 8, 8)


def tutorial():
    from spikingjelly.activation_based import layer, neuron

    return nn.Sequential(
        layer.Conv2d(3, 16, 3, 1, 1, step_mode="s"),
        neuron.IFNode(),
        nn.AvgPool2d((2, 2)),
        layer.Flatten(step_mode="s"),
        nn.Linear(4096, 10),
        neuron.ParametricLIFNode(10.0, decay_input=False, v_reset=None),
    )


def containers():
    from spikingjelly.activation_based import layer, neuron

    return nn.Sequential(
        layer.SeqToANNContainer(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)),
        layer.MultiStepContainer(neuron.IFNode(v_threshold=0.5), nn.AvgPool2d(2)),
        neuron.LIFNode(v_threshold=0.2),
        layer.SeqToANNContainer(nn.Flatten()),
        nn.Linear(36, 5),
    )


class Residual(nn.Module):
    def __init__(self):
        from spikingjelly.activation_based import layer, neuron

        super().__init__()
        self.conv, self.norm, self.spikes = layer.Conv2d(2, 2, 3, padding=1), layer.BatchNorm2d(2), neuron.IFNode(0.4)
        self.flatten, self.fc, self.out = layer.Flatten(), layer.Linear(128, 5), neuron.IFNode(0.6)

    def forward(self, x):
        x = x + self.spikes(self.norm(self.conv(x)))
        return self.out(self.fc(self.flatten(x)))


def snntorch_cases():
    import snntorch

    resets = itertools.product(("subtract", "zero", "none"), (True, False), (0.0, 0.3, 0.9, "each"))
    for (reset, delay, beta), kind in itertools.product(resets, ("Leaky", "Synaptic")):
        each = beta == "each"
        options = {"beta": torch.rand(9) if each else beta, "threshold": 0.3 + torch.rand(9) if each else 0.7}
        more = {"alpha": 0.6} if kind == "Synaptic" else {}
        make = getattr(snntorch, kind)
        net = nn.Sequential(
            nn.Linear(6, 9),
            make(**options, **more, reset_mechanism=reset, reset_delay=delay, init_hidden=True),
            nn.Linear(9, 5),
            make(beta=0.8, **more, threshold=0.4, init_hidden=True, output=True),
        )
        yield f"{kind} {reset} reset_delay={delay} beta={beta}", net, (6,)


def prepared(net):
    """In float64 and evaluation mode, with batch norms that do something; snnTorch puts out float32 otherwise."""
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            module.running_var.uniform_(0.5, 2.0)
            module.running_mean.normal_(std=0.3)
        if hasattr(module, "spike_grad"):
            module.spike_grad = lambda v, rule=module.spike_grad: rule(v).to(v.dtype)
    return net.double().eval()


def first(result):
    return result[0] if isinstance(result, tuple) else result


def steps(net, x, all_steps):
    """The model's own forward, from its reset state."""
    for module in net.modules():
        for name in ("reset", "reset_mem"):
            if callable(reset := getattr(module, name, None)):
                reset()
    return first(net(x)) if all_steps else torch.stack([first(net(step)) for step in x])


def run(case, net, shape):
    net = prepared(net)
    all_steps = any(getattr(module, "step_mode", "s") == "m" for module in net.modules())
    noise = torch.randn(T, 3, *shape, dtype=torch.float64)
    with torch.no_grad():
        for gain in (1, 3, 10, 30, 100):
            x = gain * noise
            theirs = steps(net, x, all_steps)
            if theirs.std() > 0.1:
                break
        example = x if all_steps else x[0]
        found = {"theirs": theirs, "graph": spikec.run(spikec.load(net, example), x)}
        module = spikec.compile(net, "spikingjelly", example_input=example, verify="each")
        found["module"] = torch.stack([first(module(step)) for step in x])
        portable = spikec.compile(net, "nir", example_input=example)
        found["nir"] = spikec.run(spikec.load(portable), x)
        if (chip := loihi(spikec.load(net, example))) is not None:
            found["loihi"] = spikec.run(chip, x)
        if "spikingjelly" in sys.modules and case != "half threshold":
            found["imported"] = imported(net, example, x)
    return {f"{case}/{key}": value.numpy() for key, value in found.items()}


def loihi(graph):
    """The graph with the neurons of the target netx, in real numbers; None where it says that they differ."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", spikec.SpikecWarning)
        try:
            changes = spikec.pass_named("loihi-neurons").run(graph, spikec.Context(graph, timesteps=T))
        except (spikec.SpikecWarning, spikec.CompileError):
            return None
    return graph if changes else None


def recurrent():
    """A recurrent layer in a NIR file, which has a bias on the way back: SpikingJelly's importer, and ours."""
    rng, n = np.random.default_rng(0), 9
    full = {name: np.full(n, value) for name, value in {"tau": 8e-4, "r": 8.0, "v_threshold": 1.0}.items()}
    affine = {name: nir.Affine(rng.normal(0.2, 0.5, shape), rng.normal(0, 0.1, shape[0]))
              for name, shape in {"fc": (n, 6), "back": (n, n), "out": (5, n)}.items()}  # fmt: skip
    nodes = {"input": nir.Input(np.array([6])), **affine, "output": nir.Output(np.array([5]))}
    nodes["lif"] = nir.LIF(**full, v_leak=np.zeros(n), v_reset=np.zeros(n))
    edges = [("input", "fc"), ("fc", "lif"), ("lif", "back"), ("back", "lif"), ("lif", "out"), ("out", "output")]
    net = nir.NIRGraph(nodes, edges, metadata={"dt": 1e-4, "reset": "value", "fire": ">="}, type_check=False)
    x = torch.tensor(rng.random((T, 3, 6)) < 0.4, dtype=torch.float64)
    module = spikec.compile(net, "spikingjelly")
    again = spikec.load(spikec.compile(net, "nir", dt=1e-4))
    found = {"theirs": imported(net, x[0], x), "graph": spikec.run(spikec.load(net), x), "nir": spikec.run(again, x)}
    found["module"] = torch.stack([module(step) for step in x])
    return {f"recurrent file/{key}": value.detach().numpy() for key, value in found.items()}


def imported(net, example, x):
    """SpikingJelly's importer on the file of the profile for it; soft reset is set as the metadata say."""
    from spikingjelly.activation_based.nir_exchange import import_from_nir

    example = {} if isinstance(net, nir.NIRGraph) else {"example_input": example}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.nir"
        spikec.save(spikec.compile(net, "nir", profile="spikingjelly", dt=1e-4, **example), path)
        theirs, source = import_from_nir(path, dt=1e-4, dtype=torch.float64), nir.read(path)
    for name, node in source.nodes.items():
        if hasattr(node, "v_threshold") and "subtract" in (node.metadata.get("reset"), source.metadata.get("reset")):
            getattr(theirs, name).module.v_reset = None
    outputs, state = [], None
    for step in x:
        y, state = theirs(step, state)
        outputs.append(y)
    return torch.stack(outputs)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    library, target = sys.argv[1:]
    results = {}
    for case, net, shape in {"spikingjelly": jelly_cases, "snntorch": snntorch_cases}[library]():
        results |= run(case, net, shape)
    if library == "spikingjelly":
        results |= recurrent()
    np.savez(target, **results)
