"""Initial potentials spread over each map, so that equal currents do not spike in step."""

import math
from typing import Literal

import attrs
import numpy as np

from spikec.extend.passbase import Context, Pass, number
from spikec.extend.sweep import tunable
from spikec.ir.graph import Graph
from spikec.ir.ops import Neuron
from spikec.ir.rewrite import is_behind
from spikec.ir.stages import SPIKING

GOLDEN = (math.sqrt(5) - 1) / 2


@attrs.frozen
class DitherPotential(Pass):
    """``v_init_i += amplitude v_threshold (frac(i g) - 1/2)``, i the neuron's number in its layer, g the golden ratio.

    The additive recurrence spreads evenly over every run of neighbours; each neuron rounds its rate at another place,
    and the next layer's sums average the errors. Needs no T. Several neurons that share a ReLU are spread together,
    each by its part. Neurons that compare are left alone.

    Attributes:
        amplitude: of the spread, as a share of the threshold.
        layers: ``all``, or the ``first`` ones: those that see the input's constant currents.
    """

    name = "dither-potential"
    contract = "tuned"
    needs = (SPIKING,)

    amplitude: float = attrs.field(default=1.0, validator=number(0))
    layers: Literal["all", "first"] = attrs.field(default="all", validator=attrs.validators.in_(("all", "first")))

    def run(self, graph: Graph, context: Context) -> int:
        """Spread the potentials of every layer."""
        found = list(tunable(graph, context).values())
        if self.layers == "first":
            found = [neurons for neurons in found if not is_behind(graph, neurons[0], Neuron)]
        for neurons in found:
            for name in neurons:
                op, shape = graph.get(name, Neuron), graph.type(name).shape
                spread = np.modf(GOLDEN * np.arange(math.prod(shape)))[0].reshape(shape) - 0.5
                step = self.amplitude * op.v_threshold / len(neurons)
                graph.set_op(name, attrs.evolve(op, v_init=op.v_init + step * spread))
        return len(found)
