"""Inputs become spikes on the host, so that every signal behind them is one."""

import attrs
import numpy as np

from spikec.extend.passbase import Context, Pass
from spikec.ir.errors import CalibrationError, UnsupportedOpError
from spikec.ir.graph import Graph, Node
from spikec.ir.ops import IF, Input, Rescale
from spikec.ir.ops.weighted import pointwise
from spikec.ir.stages import SPIKING


@attrs.frozen
class EncodeInput(Pass):
    """``input`` becomes ``input -> if(v_threshold=m, v_init=m/2) -> rescale(m)``, m the largest calibrated value.

    With negative values, x is first split into ``(x_c, -x_c)`` for every channel c, interleaved, and behind
    the neurons joined again as ``m (s_2c - s_2c+1)``: two 1x1 depthwise convolutions, matrices at rank 1.
    The rates are the clipped inputs to 1/(2T).

    Attributes:
        spikes: the inputs are spikes, 0 or 1 at each step: the neuron's threshold is 1, so that it repeats them, and no
            host needs it.
    """

    name = "encode-input"
    contract = "approximate"
    needs = (SPIKING,)

    spikes: bool = False

    def run(self, graph: Graph, context: Context) -> int:
        """Encode every input."""
        nodes = graph.match(Input)
        for position, node in enumerate(nodes):
            find = _range_of_spikes if self.spikes else _range
            low, high = find(graph, node, position, context)
            name, rank = node.name, len(node.op.shape)
            peak = np.full((1,) * rank, max(high, -low))
            neuron = IF(peak, v_init=peak / 2)
            last = name
            if low < 0 and not 1 <= rank <= 4:
                message = f"negative values of samples of shape {node.op.shape} have no channels of their own"
                raise UnsupportedOpError(graph.problem(name, message, "use samples with 1 to 4 axes"))
            if low < 0:
                channels, scale = node.op.shape[0], peak.item()
                signs = np.tile([1.0, -1.0], channels)
                split = pointwise(signs[:, None], None, rank, channels)
                join = pointwise(scale * signs.reshape(-1, 2), None, rank, channels, in_scale=scale)
                last = graph.insert_after(last, split, new=f"{name}_split")
                last = graph.insert_after(last, neuron, new=f"{name}_spikes")
                graph.insert_after(last, join, new=f"{name}_join")
            else:
                last = graph.insert_after(last, neuron, new=f"{name}_spikes")
                graph.insert_after(last, Rescale(peak), new=f"{name}_value")
        return len(nodes)


def _range_of_spikes(graph: Graph, node: Node[Input], position: int, context: Context) -> tuple[float, float]:
    """0 and 1, between which samples of spikes lie, or of their mean over time."""
    context.note(node.name, "its input is spikes, 0 or 1 at each step: no encoder is put in front")
    for samples in context.samples[position : position + 1]:
        if samples.min() < 0 or samples.max() > 1:
            message = f"its input is said to be spikes, and samples lie in [{samples.min():g}, {samples.max():g}]"
            hint = "give spikes 0 and 1, or their mean over time; both polarities of events as channels of their own"
            raise CalibrationError(graph.problem(node.name, message, hint))
    return 0.0, 1.0


def _range(graph: Graph, node: Node[Input], position: int, context: Context) -> tuple[float, float]:
    """Smallest and largest value seen, or (0, 1)."""
    if not context.samples:
        context.note(node.name, "no calibration samples: its values are taken to lie in [0, 1]; others are clipped")
        return 0.0, 1.0
    samples = context.samples[position]
    low, high = float(samples.min()), float(samples.max())
    if low == high == 0:
        raise CalibrationError(
            graph.problem(node.name, "every calibration sample is zero here", "calibrate on real data")
        )
    return min(low, 0.0), high
