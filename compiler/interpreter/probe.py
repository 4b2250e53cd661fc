"""The probe: the few inputs on which graphs are compared, and how much of it a graph of some size can afford."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from spikec.ir.graph import Graph
from spikec.ir.op import Role
from spikec.ir.ops import ConvTranspose, Weighted

#: steps for which spiking graphs are compared, and for the largest of them
STEPS, FEWEST_STEPS = 16, 4
#: fewest samples of a whole graph: a real and a random one, which are told apart
FEWEST_SAMPLES = 2
#: steps of single neurons in a comparison, and its multiply-accumulates in each of both graphs, about a tenth of a
#: second of float64: larger graphs see fewer samples and steps; so do graphs of many nodes, for each of which Python
#: takes as long as for thousands of neurons
WORK, PRODUCTS, NODES = 2**20, 2**30, 2**14


def probe(graph: Graph, samples: Sequence[Tensor] | None, seed: int) -> tuple[Tensor, ...]:
    """Make a small float64 batch for every input.

    Args:
        graph: gives the shapes.
        samples: real inputs [N, ...], of which six are taken, or None.
        seed: of the random samples that are added: uniform over the range of the real ones, or over a range of
            1 where there is none.
    """
    generator = torch.Generator().manual_seed(seed)
    batch = []
    for i, name in enumerate(graph.inputs):
        random = torch.rand((2, *graph.type(name).shape), dtype=torch.float64, generator=generator)
        if samples is not None:
            real = samples[i][:6].to("cpu", torch.float64)
            low, width = real.min(), real.max() - real.min()
            batch.append(torch.cat([real, low + (width if width > 0 else 1.0) * random]))
        else:
            batch.append(torch.cat([random, 1 - random.flip(0) ** 2, random * 0.5]))
    count = min(len(x) for x in batch)
    return tuple(x[:count] for x in batch)


def neuron_count(graph: Graph) -> int:
    """Count the single neurons of a graph, or activations that are to become some."""
    roles = (Role.NEURON, Role.ACTIVATION)
    return sum(math.prod(graph.type(name).shape) for name, op in graph.items() if op.role in roles)


def macs(graph: Graph) -> dict[str, int]:
    """Multiply-accumulates of each affine op for one sample and one step, with the padding's zeros."""
    found = {}
    for name, op in graph.items():
        if isinstance(op, Weighted):
            spreads = isinstance(op, ConvTranspose)
            features, at = (op.in_features, graph.operands(name)[0]) if spreads else (op.out_features, name)
            found[name] = math.prod(graph.type(at).shape) // features * op.weight.size
    return found


def affordable(graph: Graph) -> int:
    """Count the samples, or steps of one, for which a graph of this size may be run in a comparison."""
    by_work = min(WORK // max(1, neuron_count(graph)), PRODUCTS // max(1, sum(macs(graph).values())))
    return min(by_work, NODES // max(1, len(graph)))


def is_wide(graph: Graph, runs: int) -> bool:
    """Whether what a run of a graph, of which so many are affordable, costs is its work, and not its many nodes."""
    return runs < NODES // max(1, len(graph))


def within_budget(runs: int, xs: Sequence[Tensor]) -> tuple[list[Tensor], int]:
    """Choose those samples of a probe, and the number of steps, on which a graph is compared.

    They are the fewest where even those cost more than the ``runs`` that are :func:`affordable`.
    """
    count = len(xs[0])
    samples = min(count, max(FEWEST_SAMPLES, runs // STEPS))
    steps = min(STEPS, max(FEWEST_STEPS, runs // samples))
    chosen = torch.linspace(0, count - 1, samples).round().long()
    return [x[chosen] for x in xs], steps


def in_own_dtype(graph: Graph, xs: Sequence[Tensor]) -> list[Tensor]:
    """Return samples in the dtype that the graph's inputs are declared with, which is the model's."""
    return [x.to(getattr(torch, graph.type(name).dtype)) for name, x in zip(graph.inputs, xs, strict=True)]
