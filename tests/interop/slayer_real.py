"""Compares our blocks, and the target ``lava``, with real slayer; prints a line for each comparison.

    python slayer_real.py FOLDER

runs under a Python with torch, spikec, SpikingJelly, lava-nc 0.10.0 and lava-dl 0.6.0 (see README.md). Exit code 0
only if no spike differs, no gradient by more than 1e-6 of its largest, and no dataset of a file. Leaves files for
netx in FOLDER: ``NAME.net`` and ``NAME.npz``, which holds the spikes that it must make in lava.
"""

import dataclasses
import functools
import importlib
import sys
import types
from pathlib import Path


def make_importable():
    """Let Python 3.11 import lava: it refuses defaults of dataclasses that have no hash, which lava-nc has.

    Slayer imports torchvision and cv2 for object detection only, so that empty modules do.
    """
    if sys.version_info < (3, 11):
        return
    for name in ("torchvision", "torchvision.ops", "torchvision.transforms", "torchvision.models", "cv2"):
        sys.modules[name] = types.ModuleType(name)
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], last, sys.modules[name])
    real = dataclasses.dataclass
    dataclasses.dataclass = functools.partial(real, unsafe_hash=True)
    try:
        importlib.import_module("lava.magma.compiler.var_model")
    finally:
        dataclasses.dataclass = real


make_importable()

import h5py  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from lava.lib.dl import slayer  # noqa: E402
from torch import nn  # noqa: E402

import spikec  # noqa: E402
from leaky_nets import dense_net  # noqa: E402
from spikec.backends import lava  # noqa: E402
from spikec.backends.netx import NetxNetwork  # noqa: E402
from spikec.backends.netx.sim import run_layers  # noqa: E402

T = 30
WRONG = []


def say(name, differ, of, **more):
    """Print a comparison; 0 of 0 is wrong too."""
    shown = "".join(f", {key} {value:.1e}" for key, value in more.items())
    print(f"{name}: {differ} of {of} differ{shown}")
    if differ or not of or any(value > 1e-6 for value in more.values()):
        WRONG.append(name)


def spikes(*shape, rate=0.3):
    """Random spikes [T, N, ...]."""
    return (torch.rand(T, 3, *shape) < rate).float()


DECAYS = {"if": (1.0, 0.0), "lif": (1.0, 1 / 50), "cuba": (0.3, 0.07), "integrator": (0.0, 1.0)}


def containers():
    """A block of each kind, with the shape of its input."""
    for kind, decays in DECAYS.items():
        for bias in (False, True):
            linear, conv = nn.Linear(30, 20, bias=bias), nn.Conv2d(4, 6, (3, 2), (2, 1), 1, (1, 2), groups=2, bias=bias)
            yield f"dense {kind} bias={bias}", lava.BlockContainer(linear, lava.CubaLIFNode(*decays, 1.3)), (30,)
            yield f"conv {kind} bias={bias}", lava.BlockContainer(conv, lava.CubaLIFNode(*decays, 0.7)), (4, 9, 8)
        yield f"pool {kind}", lava.BlockContainer(lava.SumPool2d(2), lava.CubaLIFNode(*decays, 1.7)), (4, 8, 8)
    scaled = lava.CubaLIFNode(0.4, 0.1, 1.2, scale=128, tau_grad=0.5, scale_grad=3.0)
    yield "dense of another scale and gradient", lava.BlockContainer(nn.Linear(30, 20), scaled), (30,)


def compare_blocks():
    """Spikes and gradients by weight, bias and input, of a container and of the slayer block that it makes."""
    for name, block, shape in containers():
        block.step_mode = "m"
        x = spikes(*shape).requires_grad_()
        theirs = block.to_lava_block()
        ours, expected = block(x), lava.nxt_to_tnx(theirs(lava.tnx_to_nxt(x)))
        wish = torch.randn_like(ours)
        (mine,) = torch.autograd.grad((ours * wish).sum(), x, retain_graph=True)
        (right,) = torch.autograd.grad((expected * wish).sum(), x, retain_graph=True)
        errors = {"gradient by input": apart(mine, right)}
        if not isinstance(block.synapse, lava.SumPool2d):
            (mine,) = torch.autograd.grad((ours * wish).sum(), block.synapse.weight)
            (right,) = torch.autograd.grad((expected * wish).sum(), theirs.synapse.weight)
            errors["by weight"] = apart(mine, right.reshape(mine.shape))
        say(name, int((ours != expected).sum()), int(ours.sum()), **errors)


def apart(ours, theirs):
    """The largest difference of two gradients, over the largest number in them."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


#: what SpikingJelly's lava tutorial prints [N, T], and with which seed, which it does not tell, its input gives that
TUTORIAL = {
    "IF": (91, [[0, 0, 1, 0, 1, 0, 0, 0], [0, 1, 0, 1, 0, 1, 0, 1]]),
    "LIF": (50317, [[0, 1, 0, 1, 0, 0, 1, 0], [0, 0, 1, 0, 0, 1, 0, 1]]),
}
#: what it prints of its synapses
SYNAPSES = """\
Conv(3, 4, kernel_size=(3, 3, 1), stride=(1, 1, 1), bias=False)
Dense(4, 2, kernel_size=(1, 1, 1), stride=(1, 1, 1), bias=False)
Pool(1, 1, kernel_size=(2, 2, 1), stride=(2, 2, 1), bias=False)"""


def neurons():
    """SpikingJelly's neurons as slayer's and as ours."""
    from spikingjelly.activation_based import neuron

    made = {
        "IF": neuron.IFNode(v_threshold=1.0, v_reset=0.0, step_mode="m"),
        "LIF, tau=50, decay_input=False": neuron.LIFNode(50.0, False, 1.0, 0.0, step_mode="m"),
    }
    for name, node in made.items():
        node.lava_s_cale = 1 << 6
        x = torch.rand(T, 4, 25)
        x = (x * 64).round() / 64  # currents that the chip has
        theirs = lava.nxt_to_tnx(lava.to_lava_neuron(node)(lava.tnx_to_nxt(x)))
        ours = lava.to_cuba_neuron(node)
        ours.step_mode = "m"
        say(f"{name} as a slayer neuron and as ours", int((ours(x) != theirs).sum()), int(theirs.sum()))
        seed, printed = TUTORIAL[name.split(",")[0]]
        x = torch.rand(8, 2, 1, generator=torch.Generator().manual_seed(seed))
        ours.reset()
        made = {
            "SpikingJelly": node(x),
            "slayer": lava.nxt_to_tnx(lava.to_lava_neuron(node)(lava.tnx_to_nxt(x))),
            "ours": ours(x),
        }
        for by, trains in made.items():
            say(f"{name}, the tutorial's trains by {by}", int((torch.tensor(printed) != trains[:, :, 0].T).sum()), 16)


def compare_neurons_and_synapses():
    """What the field's exchange functions make of SpikingJelly's neurons and of torch's layers."""
    if sys.version_info >= (3, 11):  # SpikingJelly needs it
        neurons()
    linear, conv = nn.Linear(8, 4, bias=False), nn.Conv2d(3, 8, 3, padding=1, bias=False)
    layers = {
        "dense": (linear, lava.linear_to_lava_synapse_dense(linear), (8,)),
        "conv": (conv, lava.conv2d_to_lava_synapse_conv(conv), (3, 28, 28)),
        "pool": (lava.SumPool2d(2), lava.avgpool2d_to_lava_synapse_pool(lava.SumPool2d(2)), (3, 28, 28)),
    }
    for name, (layer, synapse, shape) in layers.items():
        x = torch.rand(T, 2, *shape)
        with torch.no_grad():
            right = layer(x.flatten(0, 1)).unflatten(0, (T, 2))
            found = lava.nxt_to_tnx(synapse(lava.tnx_to_nxt(x)))
        say(f"synapse {name}", 0, found.numel(), error=apart(found, right))
    tutorial = [
        lava.conv2d_to_lava_synapse_conv(nn.Conv2d(3, 4, kernel_size=3, stride=1, bias=False)),
        lava.linear_to_lava_synapse_dense(nn.Linear(4, 2, bias=False)),
        lava.avgpool2d_to_lava_synapse_pool(nn.AvgPool2d(2, 2)),
    ]
    wanted = SYNAPSES.splitlines()
    differ = sum(str(made) != line for made, line in zip(tutorial, wanted, strict=True))
    say("the tutorial's synapses as it prints them", differ, len(wanted))


def written(path):
    """All datasets of a file's layers, flat."""
    found = {}
    with h5py.File(path) as file:
        file["layer"].visititems(lambda name, item: found.update({name: item}) if hasattr(item, "shape") else None)
        return {name: np.ravel(item[()]) for name, item in found.items()}


def compare_target(folder):
    """The target ``lava`` with the target ``netx``: spikes of every layer, output, and file."""
    nets = {
        "mlp": (nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 5)), (20,)),
        "cnn": (
            nn.Sequential(
                nn.Conv2d(2, 5, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(5, 6, 3), nn.ReLU(),
                nn.Flatten(), nn.Linear(24, 4),
            ),
            (2, 8, 8),
        ),
    }  # fmt: skip
    for name, (model, shape) in nets.items():
        for reset in ("soft", "hard"):
            x = torch.rand(12, *shape) - 0.2
            blocks = spikec.compile(model, "lava", calibration=x, timesteps=T, reset=reset)
            net = spikec.compile(model, "netx", calibration=x, timesteps=T, reset=reset)
            trace = net.simulate(x)
            signal, hidden, differ = blocks.encode(x), iter(trace.spikes.values()), 0
            with torch.no_grad():
                for block in list(blocks)[:-1]:
                    signal = block(signal)
                    if hasattr(block, "neuron"):
                        right = next(hidden)
                        differ += int((lava.nxt_to_tnx(signal)[:, :, : right.shape[2]].numpy() != right).sum())
            say(f"{name}, {reset} reset", differ, int(sum(s.sum() for s in trace.spikes.values())))
            say("  its output", int((blocks.run(x) != net.run(x)).sum()), len(x))
            spikec.save(blocks, folder / "theirs.net")
            spikec.save(net, folder / "ours.net")
            theirs, ours = written(folder / "theirs.net"), written(folder / "ours.net")
            differ = [key for key in theirs | ours if not np.array_equal(theirs.get(key), ours.get(key))]
            say(f"  its file {differ or ''}", len(differ), len(theirs))


def compare_leaky():
    """The target ``lava`` with the target ``netx``, of spiking models on events."""
    for kind, recurrent in (("lif", False), ("lif soft", False), ("cuba", True), ("if hard and cuba", False)):
        graph, x = dense_net(kind, recurrent), spikes(8, rate=0.4).double()
        options = {"calibration": x.mean(0), "timesteps": T, "input": "spikes", "verify": "off"}
        blocks, net = spikec.compile(graph, "lava", **options), spikec.compile(graph, "netx", **options)
        fired = int(net.simulate(x).spikes["n1"].sum())
        for call in ("", " once more"):  # slayer's recurrent blocks go on from the call before
            say(f"{kind}{' recurrent' * recurrent}{call}", int((blocks.run(x) != net.run(x)).sum()), fired)


def train_and_write(folder):
    """Trains a small CSNN of blocks, and writes it for netx with the spikes that it makes."""
    torch.manual_seed(1)
    node = functools.partial(lava.CubaLIFNode, 1.0, 0.05)
    net = nn.Sequential(
        lava.BlockContainer(nn.Conv2d(1, 4, 3, padding=1), node(v_threshold=1.0)),
        lava.BlockContainer(lava.SumPool2d(2), node(v_threshold=2.0)),
        lava.BlockContainer(nn.Flatten()),
        lava.BlockContainer(nn.Linear(64, 10, bias=False), node(v_threshold=1.0)),
        lava.BlockContainer(nn.Linear(10, 10, bias=False), node(v_threshold=(1 << 17) / 64 - 1)),
    )
    for block in net:
        block.step_mode = "m"
    x, labels = spikes(1, 8, 8), torch.tensor([0, 1, 2])
    optimizer = torch.optim.Adam(net.parameters(), 0.05)
    losses = []
    for _ in range(10):
        for block in net:
            block.reset()
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net[:-1](x).mean(0), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    say(
        f"training, whose loss went from {losses[0]:.2f} to {losses[-1]:.2f}", int(losses[-1] >= losses[0]), len(losses)
    )
    lava.save_blocks(net, folder / "trained.net", (1, 8, 8))
    hidden, signal = {}, x
    for block in net:
        block.reset()
        with torch.no_grad():
            signal = block(signal)
        if block.neuron is not None:
            hidden[f"hidden_{len(hidden)}"] = signal.numpy().astype(bool)
    _, last = hidden.popitem()
    total = (net[-1].neuron.voltage_state * 64).floor().long()
    say("spikes of the output layer", int(last.sum()), last.size)
    np.savez(folder / "trained.npz", inputs=x.numpy().astype(bool), total=total.numpy(), **hidden)


def own_networks():
    """Networks of slayer's blocks alone, as its users build them, with the shape of their input."""
    blocks = slayer.block.cuba
    lif = {"threshold": 1.1, "current_decay": 0.4, "voltage_decay": 0.06, "scale": 64}
    sharp = {**lif, "threshold": 0.8, "current_decay": 1.0, "voltage_decay": 0.0}
    shape = {"delay_shift": False}
    yield "own_mlp", [blocks.Dense(lif, 30, 20, weight_norm=True, **shape), blocks.Dense(lif, 20, 5, **shape)], (30,)
    convs = [blocks.Conv(sharp, 2, 6, 3, padding=1, **shape), blocks.Conv(lif, 6, 4, (3, 2), (2, 1), groups=2, **shape)]
    yield "own_cnn", [*convs, blocks.Flatten(), blocks.Dense(lif, 3 * 7 * 4, 5, **shape)], (2, 8, 8)
    yield "own_recurrent", [blocks.Recurrent(lif, 30, 20, **shape), blocks.Dense(sharp, 20, 5, **shape)], (30,)


def read_own_files(folder):
    """Files that slayer's blocks export, loaded and simulated here; the spikes are those of the blocks."""
    for name, blocks, shape in own_networks():
        x = spikes(*shape)
        signal, seen = lava.tnx_to_nxt(x), []
        with torch.no_grad():
            for block in blocks:
                signal = block(signal)
                if hasattr(block, "neuron"):
                    seen.append(lava.nxt_to_tnx(signal).numpy())
        with h5py.File(folder / f"{name}.net", "w") as file:
            first = int(len(shape) > 1)
            if first:
                file["layer/0/type"] = np.array([b"input"], dtype="S10")
                file["layer/0/shape"] = np.array(shape)
            for i, block in enumerate(blocks, start=first):
                block.export_hdf5(file.create_group(f"layer/{i}"))
        net = NetxNetwork.load(folder / f"{name}.net")
        trace = net.simulate(x)
        differ = sum(int((a.reshape(b.shape) != b).sum()) for a, b in zip(seen, trace.spikes.values(), strict=True))
        say(f"{name}, a file of slayer", differ, int(sum(s.sum() for s in trace.spikes.values())))
        *hidden, output = trace.spikes.values()
        known = {f"hidden_{i}": each for i, each in enumerate(hidden)}
        total = run_layers(net.layers, trace.inputs)[-1].voltage
        np.savez(folder / f"{name}.npz", inputs=trace.inputs, output=output, total=total, **known)


def main(folder):
    """Compare everything."""
    torch.manual_seed(0)
    compare_blocks()
    compare_neurons_and_synapses()
    compare_target(folder)
    compare_leaky()
    train_and_write(folder)
    read_own_files(folder)
    assert slayer.neuron.cuba.Neuron.__module__.startswith("lava.")
    print("WRONG: " + "; ".join(WRONG) if WRONG else "nothing is wrong")
    return 1 if WRONG else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
