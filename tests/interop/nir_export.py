"""Runs under a Python that has one exporter of NIR: its models' own outputs, and the files that it writes of them.

``nir_export.py TOOL FOLDER`` leaves CASE.nir and CASE.npz with x and output, [T, B, ...] each, of every case.
"""

import sys
from pathlib import Path

import nir
import numpy as np
import torch
from torch import nn

T, B = 32, 3


def spikingjelly(keep):
    from spikingjelly.activation_based import functional, layer, neuron
    from spikingjelly.activation_based.nir_exchange import export_to_nir

    def case(name, net, shape):
        def run(x):
            functional.reset_net(net)
            return torch.stack([net(step) for step in x])

        def export(path):
            functional.reset_net(net)
            export_to_nir(net, torch.rand(B, *shape), path, dt=1e-4)

        keep(name, shape, run, export)

    def mlp(first, second=None):
        net = nn.Sequential(layer.Linear(6, 9), first, layer.Linear(9, 5), second or neuron.IFNode())
        nn.init.uniform_(net[2].weight, -0.5, 1.5)
        return net

    for reset in (0.0, -0.25):
        case(f"if {reset}", mlp(neuron.IFNode(v_threshold=0.7, v_reset=reset)), (6,))
        for decay in (True, False):
            options = {"decay_input": decay, "v_reset": reset, "v_threshold": 0.3}
            leaky = mlp(neuron.LIFNode(3.0, **options), neuron.ParametricLIFNode(2.5, **options))
            case(f"lif {reset} {decay}", leaky, (6,))
        case(f"cuba {reset}", mlp(neuron.CUBALIFNode(0.4, 0.7, v_threshold=0.8, v_reset=reset)), (6,))
    maps = nn.Sequential(
        layer.Conv2d(2, 4, 3, padding=1), neuron.IFNode(0.4), layer.AvgPool2d(2), layer.Flatten(),
        layer.Linear(64, 5), neuron.LIFNode(v_threshold=0.2)
    )  # fmt: skip
    case("maps", maps, (2, 8, 8))


def snntorch(keep):
    import snntorch
    from snntorch import utils
    from snntorch.export_nir import export_to_nir

    def case(name, first, second):
        net = nn.Sequential(nn.Linear(6, 9), first, nn.Linear(9, 5), second)

        def run(x):
            utils.reset(net)
            return torch.stack([first_of(net(step)) for step in x])

        def export(path):
            utils.reset(net)
            nir.write(path, export_to_nir(net, torch.rand(1, 6), ignore_dims=[0]))

        keep(name, (6,), run, export)

    def options(n, **more):
        return {"beta": torch.rand(n) * 0.9, "threshold": torch.full((n,), 0.25), "init_hidden": True, **more}

    # the files do not say when a neuron resets: these are snnTorch's default, and the reset that its importer has
    for reset, delay in (("subtract", True), ("zero", False)):
        more = {"reset_mechanism": reset, "reset_delay": delay}
        case(f"leaky {reset}", *(snntorch.Leaky(**options(n, **more), output=n == 5) for n in (9, 5)))
        synaptic = (snntorch.Synaptic(alpha=torch.rand(n), **options(n, **more), output=n == 5) for n in (9, 5))
        case(f"synaptic {reset}", *synaptic)
    recurrent = snntorch.RLeaky(**options(9, **more), all_to_all=True, linear_features=9)
    case("recurrent zero", recurrent, snntorch.Leaky(**options(5, **more), output=True))


def norse(keep):
    import norse.torch as nt

    def case(name, *layers):
        net = nt.SequentialState(nn.Linear(6, 9), layers[0], nn.Linear(9, 5), layers[1])
        nn.init.uniform_(net[2].weight, -0.5, 1.5)

        def run(x):
            state, outputs = None, []
            for step in x:
                y, state = net(step, state)
                outputs.append(y)
            return torch.stack(outputs)

        # norse writes tau = dt / tau_mem_inv, which is seconds for dt = 1 only
        keep(name, (6,), run, lambda path: nir.write(path, nt.to_nir(net, torch.rand(1, 6), dt=1.0)))

    def integrate(n):
        return nt.IAFCell(nt.IAFParameters(v_th=torch.rand(n) + 0.2))

    def leaky(n, leak=0.0):
        inverse = 100 + 700 * torch.rand(n)
        return nt.LIFBoxCell(nt.LIFBoxParameters(inverse, torch.full((n,), leak), 0.1 + 0.2 * torch.rand(n)))

    def readout(n):
        return nt.LIBoxCell(nt.LIBoxParameters(100 + 700 * torch.rand(n), torch.zeros(n)))

    case("if", integrate(9), integrate(5))
    case("lif", leaky(9), leaky(5, 0.05))
    case("li", leaky(9), readout(5))


def sinabs(keep):
    import sinabs.layers as sl
    from sinabs import reset_states
    from sinabs.nir import to_nir

    def case(name, shape, *layers):
        net = nn.Sequential(*layers)

        def run(x):
            reset_states(net)
            return torch.stack([net(step) for step in x])

        def export(path):
            reset_states(net)
            nir.write(path, to_nir(net, torch.rand(B, *shape)))

        keep(name, shape, run, export)

    def linear(inputs, outputs):
        made = nn.Linear(inputs, outputs)
        nn.init.uniform_(made.weight, -0.5, 1.5)
        return made

    def integrate(threshold):
        return sl.IAFSqueeze(batch_size=B, spike_threshold=torch.tensor(threshold), min_v_mem=-threshold)

    def leaky(tau):
        return sl.LIFSqueeze(tau_mem=tau, batch_size=B, spike_threshold=torch.tensor(0.8), norm_input=False)

    case("if", (6,), linear(6, 9), integrate(0.7), linear(9, 5), integrate(1.0))
    case("lif", (6,), linear(6, 9), leaky(4.0), linear(9, 5), leaky(2.5))
    case(
        "li",
        (6,),
        linear(6, 9),
        leaky(4.0),
        linear(9, 5),
        sl.ExpLeakSqueeze(tau_mem=3.0, batch_size=B, norm_input=False),
    )


def first_of(result):
    return result[0] if isinstance(result, tuple) else result


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tool, folder = sys.argv[1], Path(sys.argv[2])

    def keep(name, shape, run, export):
        x = torch.rand(T, B, *shape)
        with torch.no_grad():
            export(folder / f"{name}.nir")
            np.savez(folder / f"{name}.npz", x=x.numpy(), output=run(x).numpy())

    {"spikingjelly": spikingjelly, "snntorch": snntorch, "norse": norse, "sinabs": sinabs}[tool](keep)
