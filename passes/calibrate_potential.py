"""Initial potentials that make each neuron's mean rate that of the ANN."""

from __future__ import annotations

from typing import ClassVar

import attrs
import numpy as np

from spikec.graph import Graph
from spikec.ops import Neuron
from spikec.passbase import Context, Contract, Pass
from spikec.stages import SPIKING, Stage
from spikec.sweep import Sweep, gap, tunable


@attrs.frozen
class CalibratePotential(Pass):
    """``v_init_i += step T (mean a_i - mean r_i)`` for each neuron, layer after layer.

    a is the ANN's activation and r what the spikes of T steps stand for, averaged over the samples (Li et al. 2021,
    sec. 4.3: potential calibration). Neurons that compare are left alone.

    Attributes:
        rounds: how often each layer is measured and set.
        step: share of the difference that is made up for at once.
    """

    name: ClassVar[str] = "calibrate-potential"
    contract: ClassVar[Contract] = "tuned"
    needs: ClassVar[tuple[Stage, ...]] = (SPIKING,)

    rounds: int = 1
    step: float = 1.0

    def run(self, graph: Graph, context: Context) -> int:
        """Set the potentials of every layer."""
        targets = tunable(graph, context)
        changes = 0
        for name in (sweep := Sweep(graph, context.tuning_samples(graph), context.steps)):
            if name not in targets:
                continue
            (current,) = graph.operands(name)
            for _ in range(self.rounds):
                op = graph[name]
                assert isinstance(op, Neuron)
                missing = gap(sweep, name, targets[name]) / graph.type(current).scale
                graph.set_op(name, attrs.evolve(op, v_init=op.v_init + self.step * context.steps * missing))
                changes += 1
        return changes
