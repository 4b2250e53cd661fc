"""Several neurons for each, which buy with their number what steps would."""

import attrs
import numpy as np

from spikec.extend.passbase import Context, Pass
from spikec.ir.errors import InvalidModelError
from spikec.ir.graph import Graph
from spikec.ir.ops import Add, Neuron, Rescale, Stream
from spikec.ir.rewrite import neurons_by_relu
from spikec.ir.stages import SPIKING


@attrs.frozen
class ReplicateNeurons(Pass):
    """k neurons that integrate the same current, the i-th from ``(v_init + i v_threshold) / k`` on.

    Each spike stands for a k-th of what it did. As ``sum_i floor(x + i/k) = floor(k x)`` (Hermite's identity), they say
    after T steps of a constant current just what one neuron says after k T, for which the passes before this one tune.
    Uneven currents are averaged too, but not away. Neurons that compare signals of k parts compare them part by part.

    Attributes:
        copies: k, at least 2.

    Raises:
        InvalidModelError: the graph streams a bias for each step, which was tuned for k T of them, or has several
            neurons for each already.
    """

    name = "replicate-neurons"
    contract = "approximate"
    needs = (SPIKING,)

    copies: int = attrs.field(default=2, validator=[attrs.validators.instance_of(int), attrs.validators.ge(2)])

    @property
    def speedup(self) -> int:
        """The number of copies: k neurons say after T steps what one says after k T."""
        return self.copies

    def run(self, graph: Graph, context: Context) -> int:
        """Replace every neuron by the sum of its copies."""
        for stream in graph.match(Stream):
            raise InvalidModelError(
                graph.problem(stream.name, "streams a bias for each step of one neuron", "stream biases behind it")
            )
        if context.ann is None:
            context.note("", "the model was spiking from the start: no neuron stands for a ReLU")
            return 0
        found = {relu: neurons for relu, neurons in neurons_by_relu(graph, context.ann).items() if neurons}
        for relu, neurons in found.items():
            if len(neurons) > 1:
                raise InvalidModelError(
                    graph.problem(relu, f"has {len(neurons)} neurons for each already", "replicate once, with copies=")
                )
            (name,) = neurons
            op, (current,) = graph.get(name, Neuron), graph.operands(name)
            share = graph.type(name).scale / self.copies
            starts = ((op.v_init + i * op.v_threshold) / self.copies for i in range(self.copies))
            copies = [graph.add(attrs.evolve(op, v_init=v, out_scale=share), current, name=name) for v in starts]
            graph.set_op(name, Add(origin=op.origin))
            graph.set_operands(name, *copies)
            graph.insert_after(name, Rescale(np.full([1] * share.ndim, 1 / self.copies)), new=f"{name}_mean")
        return len(found)
