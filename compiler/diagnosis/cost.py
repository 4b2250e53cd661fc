"""Operations that a network costs: multiply-accumulates of an ANN, synaptic operations of an SNN."""

from collections.abc import Sequence

import attrs
import numpy as np
import torch
from torch import Tensor

from spikec.interpreter.probe import macs
from spikec.ir.graph import Graph
from spikec.ir.op import tensor_cache
from spikec.ir.ops import Input, Neuron, Weighted

#: a weight this near to -1, 0 or 1 passes spikes on as they are
_UNIT = 1e-9
#: float64 rounding of a sum of spikes
_ROUNDING = 1e-9


@attrs.frozen
class Price:
    """Joules that a multiply-accumulate and a synaptic operation are said to cost, and where the figures are from."""

    source: str
    mac: float
    synop: float


#: published prices; they differ about 32-fold in the ratio of SNN to ANN, which is why counts are shown first
PRICES = (
    Price("Horowitz 2014, 45 nm: 4.6 pJ a MAC, 0.9 pJ a SynOp", 4.6e-12, 0.9e-12),
    Price("Bu et al. 2025: 12.5 pJ a MAC, 77 fJ a SynOp", 12.5e-12, 77e-15),
)


@attrs.frozen
class Cost:
    """Counts for one sample.

    Attributes:
        ann_macs: multiply-accumulates of the ANN, zeros of the padding included.
        spikes: of all neurons, over all steps.
        synops: sum over spikes of the synapses (weights that are not zero) that each one reaches.
        macs: multiply-accumulates of the SNN over all steps: layers whose operand is no spike, the first one above
            all, multiply at each step.
    """

    ann_macs: int
    spikes: float
    synops: float
    macs: float

    def energy(self, price: Price) -> tuple[float, float]:
        """The joules that one sample takes by those prices: (ANN, SNN)."""
        return self.ann_macs * price.mac, self.synops * price.synop + self.macs * price.mac


def reached(graph: Graph, name: str) -> Tensor:
    """For each element of an affine op's operand, how many weights that are not zero it meets; float64."""
    op = graph[name]
    assert isinstance(op, Weighted)
    ones = attrs.evolve(op, weight=(op.weight != 0).astype(np.float64), bias=None)
    with tensor_cache(), torch.inference_mode(False), torch.enable_grad():
        x = torch.zeros(1, *graph.type(graph.operands(name)[0]).shape, dtype=torch.float64, requires_grad=True)
        (counts,) = torch.autograd.grad(ones.eval(x).sum(), x)
    return counts[0]


def takes_spikes(graph: Graph) -> dict[str, bool]:
    """For each affine op, whether its operand is made of spikes: moved, pooled or added, but not weighted."""
    spikes: dict[str, bool] = {}
    found: dict[str, bool] = {}
    for name in graph:
        op = graph[name]
        if isinstance(op, (Neuron, Input)):
            spikes[name] = isinstance(op, Neuron)
            continue
        spikes[name] = all(spikes.get(x, True) for x in graph.operands(name))
        if isinstance(op, Weighted):
            found[name] = spikes[name]
            size = np.abs(op.weight)
            spikes[name] &= not op.shift.any() and bool((np.minimum(size, np.abs(size - 1)) <= _UNIT).all())
    return found


class Count:
    """Synaptic operations, counted as spikes arrive at affine ops."""

    def __init__(self, graph: Graph) -> None:
        spiking, products = takes_spikes(graph), macs(graph)
        self.fan_out = {name: reached(graph, name) for name, events in spiking.items() if events}
        self.macs = sum(
            products[node.name] * int(np.count_nonzero(node.op.weight)) // node.op.weight.size
            for node in graph.match(Weighted)
            if not spiking[node.name]
        )
        self.synops = 0.0

    def step(self, name: str, operands: Sequence[Tensor]) -> None:
        """Count one op at one step: a spike is one operation a synapse, and n spikes in one pooled value are n."""
        if name in self.fan_out:
            spikes = (operands[0].abs() - _ROUNDING).ceil()
            self.synops += float((spikes.sum(0) * self.fan_out[name]).sum())

    def cost(self, ann: Graph, spikes: float, samples: int, timesteps: int) -> Cost:
        """What a sample costs, once that many were counted."""
        return Cost(sum(macs(ann).values()), spikes / samples, self.synops / samples, self.macs * timesteps)
