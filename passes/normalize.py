"""Every ReLU gets the scale that its neuron's spikes will stand for."""

from collections.abc import Sequence

import attrs
import numpy as np

from spikec.calibration import scales
from spikec.calibration.normalization import Normalization
from spikec.extend.passbase import Context, Pass
from spikec.ir.errors import Hint, InvalidModelError, Option
from spikec.ir.graph import Graph
from spikec.ir.op import Op, Role
from spikec.ir.ops import Input, Relu, Weighted
from spikec.ir.stages import CALIBRATED, FOLDED
from spikec.ir.types import Array


@attrs.frozen
class Normalize(Pass):
    """Choose scales by a statistic of each ReLU's values on calibration data, or from the weights alone.

    A scale never exceeds a clip's bound. A channel whose percentile is 0 takes its maximum, a silent one
    its layer's scale, a silent layer 1; no scale is below 1e-3 of its layer's.
    """

    name = "normalize"
    needs = (FOLDED,)
    gives = CALIBRATED

    normalization: Normalization = Normalization()

    def run(self, graph: Graph, context: Context) -> int:
        """Set ``scale`` on every ReLU."""
        nodes = graph.match(Relu)
        if self.normalization.method == "model":
            context.warn(
                Hint(
                    "no calibration data: thresholds follow from the weights alone, for inputs in [0, 1] "
                    "(Diehl et al. 2015, model-based); expect to need many time-steps, or pass ",
                    Option("calibration"),
                )
            )
            found = scales.from_bounds(self.normalization, graph, _upper_bounds(graph), context.warn)
        else:
            statistics = context.gather(graph, {node.name: scales.channel_axis(graph, node.name) for node in nodes})
            steps = dict.fromkeys((node.name for node in graph.match(Relu)), context.steps)
            found = scales.from_statistics(self.normalization, graph, statistics, steps, context.warn)
        for node in nodes:
            graph.set_op(node.name, attrs.evolve(node.op, scale=found[node.name]))
        return len(nodes)


def _upper_bounds(graph: Graph) -> dict[str, Array]:
    """The greatest value of every signal for inputs in [0, 1]: interval arithmetic through the graph."""
    found: dict[str, tuple[Array, Array]] = {}  # (least, greatest)
    for name in graph:
        op = graph[name]
        if isinstance(op, Input):
            found[name] = np.zeros(op.shape), np.ones(op.shape)
            continue
        lows = [found[x][0] for x in graph.operands(name)]
        highs = [found[x][1] for x in graph.operands(name)]
        if isinstance(op, Weighted):
            positive = attrs.evolve(op, weight=np.maximum(op.weight, 0))
            negative = attrs.evolve(op, weight=np.minimum(op.weight, 0), bias=None)
            found[name] = (
                positive.on_arrays(*lows) + negative.on_arrays(*highs),
                positive.on_arrays(*highs) + negative.on_arrays(*lows),
            )
        elif op.role is Role.LINEAR and not _is_monotone(op, lows):
            raise InvalidModelError(
                graph.problem(
                    name, f"{op.kind} subtracts, so the weights alone do not bound it", "pass calibration data"
                )
            )
        else:
            found[name] = op.on_arrays(*lows), op.on_arrays(*highs)
    return {name: high for name, (_, high) in found.items()}


def _is_monotone(op: Op, like: Sequence[Array]) -> bool:
    """Whether a linear op gives nothing negative for positive operands, tried on some that differ by large factors.

    So few of them outweigh all others that a negative weight shows.
    """
    generator = np.random.default_rng(0)
    for _ in range(3):
        result = op.on_arrays(*(np.exp(4 * generator.standard_normal(x.shape)) for x in like))
        if result.min(initial=0) < -1e-9 * np.abs(result).max(initial=0):
            return False
    return True
