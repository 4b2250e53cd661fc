"""What eight bits cost a leaky spiking net on events, layer by layer: netx's integers beside the model's floats.

Run by a Python with snnTorch, it trains nets of snnTorch first, and says what eight bits cost of their accuracy.
"""

from __future__ import annotations

import importlib.util
import tempfile
import warnings
from pathlib import Path
from typing import Any

import nir
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import spikec
from spikec.backends.netx.sim import run_layer
from spikec.backends.spikingjelly import CubaLIFNode, IFNode, LIFNode

STEPS, SAMPLES, SIZE = 60, 8, 32
#: of the nets that are trained
CLASSES, TRAINED_STEPS, BATCHES = 8, 24, 60


def events(angles: Any, steps: int = STEPS, seed: int = 0) -> Tensor:
    """Edges that move over a sensor: [T, B, 2, H, W] of 0 and 1, on and off as channels, with noise.

    Args:
        angles: [B], in which direction each sample's edges move, in radians.
        steps: T.
        seed: of speeds (0.3 to 0.8 pixels a step) and noise (1 % of the pixels at every step).
    """
    rng, count = np.random.default_rng(seed), len(angles)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    turned = np.asarray(angles)[:, None, None]
    place = np.cos(turned) * columns + np.sin(turned) * rows
    moved = np.arange(steps + 1).reshape(-1, 1, 1, 1) * rng.uniform(0.3, 0.8, (count, 1, 1))
    change = np.diff(((place - moved) % 11 < 4).astype(int), axis=0)
    noise = rng.random((steps, count, 2, SIZE, SIZE)) < 0.01
    return torch.tensor(np.stack([change > 0, change < 0], axis=2) | noise, dtype=torch.float32)


def neuron(kind: str) -> nn.Module:
    """A neuron that leaks, of the kinds that events are run on."""
    one, zero = torch.tensor(1.0), torch.tensor(0.0)
    return {
        "IF": IFNode(one, zero),
        "LIF": LIFNode(one, tau=torch.tensor(5.0), gain=one, v_reset=zero),
        "LIF, soft": LIFNode(one, tau=torch.tensor(5.0), gain=one),
        "CubaLIF": CubaLIFNode(one, decay_syn=torch.tensor(0.5), decay=torch.tensor(0.8), v_reset=zero),
    }[kind]


def net(kind: str) -> nn.Module:
    """Three convolutions and two Linears, with random weights that let every layer fire."""
    torch.manual_seed(1)
    layers: list[nn.Module] = []
    for channels, outputs in ((2, 6), (6, 12), (12, 16)):
        layers += [nn.Conv2d(channels, outputs, 3, stride=2, padding=1), neuron(kind)]
    layers += [nn.Flatten(), nn.Linear(256, 64), neuron(kind), nn.Linear(64, 11)]
    made = nn.Sequential(*layers).eval()
    for layer in made:
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            fan_in = layer.weight[0].numel()
            nn.init.normal_(layer.weight, 0.15 / fan_in**0.5, 1.8 / fan_in**0.5)
            nn.init.zeros_(layer.bias)
    return made


def directions(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Events of edges that move in one of CLASSES directions, within 10 degrees, and which that is [B]."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(CLASSES, size=count)
    angles = 2 * np.pi * labels / CLASSES + np.deg2rad(rng.uniform(-10, 10, count))
    return events(angles, TRAINED_STEPS, seed), torch.tensor(labels)


def trained(kind: str) -> nn.Module:
    """A net of snnTorch that tells directions apart by its output's sum, trained for some seconds."""
    import snntorch

    torch.manual_seed(0)
    options: dict[str, Any] = {"reset_mechanism": "zero", "reset_delay": False, "init_hidden": True}
    layers: list[nn.Module] = []
    for weights in (
        nn.Conv2d(2, 6, 3, stride=2, padding=1),
        nn.Conv2d(6, 12, 3, stride=2, padding=1),
        nn.Conv2d(12, 16, 3, stride=2, padding=1),
        nn.Linear(256, 64),
    ):
        more = {"alpha": 0.5, "beta": 0.7, "threshold": 0.5} if kind == "Synaptic" else {"beta": 0.8, "threshold": 0.2}
        flat = [nn.Flatten()] if isinstance(weights, nn.Linear) else []
        layers += [*flat, weights, getattr(snntorch, kind)(**more, **options)]
    made = nn.Sequential(*layers, nn.Linear(64, CLASSES))
    optimizer = torch.optim.Adam(made.parameters(), 3e-3)
    for step in range(BATCHES):
        x, labels = directions(32, 100 + step)
        for module in made:
            if hasattr(module, "reset_mem"):
                module.reset_mem()
        loss = nn.functional.cross_entropy(sum(made(each) for each in x) / 4, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return made.eval()


def trained_rows() -> list[list[str]]:
    """Compare trained nets: of both kinds of neurons as they are, and one as a NIR file."""
    (x, labels), (seen, _) = directions(256, 1), directions(64, 2)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("Leaky", "Synaptic"):
            made = trained(kind)
            found += rows(f"snnTorch, {kind}", made, x, seen, labels)
            spikec.save(spikec.compile(made, "nir", example_input=x[0]), Path(folder) / f"{kind}.nir")
            found += rows(f"the same from {kind}.nir", Path(folder) / f"{kind}.nir", x, seen, labels)
    return found


def recurrent(kind: str) -> Any:
    """A NIR graph as snnTorch writes one: a layer whose spikes come back to it."""
    rng, n = np.random.default_rng(0), 64
    full = {"v_threshold": np.ones(n), "v_leak": np.zeros(n), "v_reset": np.zeros(n)}
    cuba = {"tau_syn": np.full(n, 2.0), "tau_mem": np.full(n, 5.0), "r": np.full(n, 5.0), "w_in": np.full(n, 2.0)}
    leaky = nir.CubaLIF(**cuba, **full) if kind == "CubaLIF" else nir.LIF(np.full(n, 5.0), np.full(n, 5.0), **full)
    size = 2 * SIZE * SIZE
    nodes = {
        "input": nir.Input(np.array([2, SIZE, SIZE])),
        "flat": nir.Flatten({"input": np.array([2, SIZE, SIZE])}, 0, -1),
        "fc": nir.Affine(rng.normal(0.01, 0.08, (n, size)), np.zeros(n)),
        "n": leaky,
        "back": nir.Affine(rng.normal(-0.03, 0.15, (n, n)), np.zeros(n)),
        "read": nir.Affine(rng.normal(0, 0.2, (11, n)), np.zeros(11)),
        "output": nir.Output(np.array([11])),
    }
    edges = [("input", "flat"), ("flat", "fc"), ("fc", "n"), ("n", "back"), ("back", "n"), ("n", "read")]
    return nir.NIRGraph(nodes, [*edges, ("read", "output")], metadata={"dt": 1.0, "reset": "value"}, type_check=False)


def rows(name: str, model: Any, x: Tensor, seen: Tensor, labels: Tensor | None = None) -> list[list[str]]:
    """Compare every layer: all in integers, and each in integers on its own, fed the spikes of the floats.

    Args:
        name: of the net, in the table.
        model: what spikec reads.
        x: [T, B, ...] events.
        seen: [T, N, ...], the events that it is calibrated with.
        labels: [B], by which the accuracy is told, of floats and of integers.
    """
    options: dict[str, Any] = {"calibration": seen.mean(0), "timesteps": len(x), "input": "spikes", "verify": "off"}
    network: Any = spikec.compile(model, "netx", **options)
    trace, theirs = network.simulate(x), {}

    def tap(node: str, value: Tensor, *_: Any) -> None:
        if node in trace.spikes:
            theirs.setdefault(node, []).append(value.numpy().astype(bool))

    graph = spikec.load(model, x[0]) if isinstance(model, nn.Module) else spikec.load(model)
    wanted = spikec.run(graph, x.double(), tap=tap).mean(0).numpy()
    before, found = network.encode(x), []
    for layer in network.layers[:-1]:
        floats = np.stack(theirs[layer.name]).reshape(trace.spikes[layer.name].shape)
        alone = run_layer(layer, before).spikes
        shares = [
            (each[:, :, : floats.shape[2]] != floats).sum() / floats.sum() for each in (alone, trace.spikes[layer.name])
        ]
        counts, ours = floats.sum(0).ravel(), trace.spikes[layer.name].sum(0).ravel()
        same = np.corrcoef(counts, ours)[0, 1]
        largest = int(np.abs(layer.weight).max())
        found.append(
            [name, layer.name, layer.kind, f"{floats.mean():.3f}", str(layer.threshold), str(largest)]
            + [f"{100 * share:.1f}" for share in shares]
            + [f"{100 * (ours.sum() / counts.sum() - 1):+.1f}", f"{same:.4f}"]
        )
        name, before = "", np.concatenate([floats, alone[:, :, floats.shape[2] :]], axis=2)
    ours, said = trace.output.argmax(1), wanted.argmax(1)
    error = np.abs(trace.output - wanted).mean() / wanted.std()
    output = ["", "output", "", "", "", "", "", "", f"error {error:.3f}", f"{(ours == said).sum()} of {len(said)}"]
    if labels is None:
        return [*found, output]
    right = [f"{100 * (each == labels.numpy()).mean():.1f} %" for each in (said, ours)]
    return [*found, output, ["", "accuracy", "", "", "", "", "", "", *right]]


def main() -> None:
    """Print a table."""
    warnings.simplefilter("ignore", spikec.SpikecWarning)
    headings = ("net", "layer", "as", "rate", "vThMant", "weight", "alone, %", "in the net, %", "spikes, %", "counts")
    table = Table(*headings, title=f"spikes that differ, of the float net's; T={STEPS}, {SAMPLES} samples")
    x = events(np.random.default_rng(0).uniform(0, 2 * np.pi, SAMPLES))
    for kind in ("IF", "LIF", "LIF, soft", "CubaLIF"):
        for row in rows(kind, net(kind), x, x):
            table.add_row(*row)
    for kind in ("LIF", "CubaLIF"):
        for row in rows(f"NIR, recurrent {kind}", recurrent(kind), x, x):
            table.add_row(*row)
    if importlib.util.find_spec("snntorch"):
        for row in trained_rows():
            table.add_row(*row)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
