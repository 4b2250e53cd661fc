"""Linear layers behind a map that is flattened become convolutions over all of it."""

from typing import Any

import attrs
import numpy as np

from spikec.extend.passbase import Context, Pass
from spikec.ir.graph import Graph, Node
from spikec.ir.op import Op
from spikec.ir.ops import Add, Conv, Flatten, Linear, Neuron, Reshape
from spikec.ir.stages import FINAL
from spikec.ir.types import Array, Type, channel_scale


@attrs.frozen
class Unflatten(Pass):
    """Move a Flatten of a map, and a reshape to a vector, behind the layers that follow it, up to the output.

    For targets whose readers flatten the batch as well. A Linear becomes a convolution with a kernel as large as the
    map, and its result a map of one cell; neurons and sums take the map as it is. Behind an input it is no layer of
    the target and stays.
    """

    name = "unflatten"
    needs = (FINAL,)

    def run(self, graph: Graph, context: Context) -> int:
        """Move each as far as it goes."""
        changes = 0
        while any(_moved(graph, node) for node in graph.match(Op)):
            changes += 1
        return changes


def _moved(graph: Graph, node: Node[Op]) -> bool:
    """Move one behind its users, if each of them can do without it."""
    if not _flattens(graph, node.name):
        return False
    users = list(dict.fromkeys(user for user, _ in graph.users(node.name)))
    if not users or not all(_takes_map(graph, user) for user in users):
        return False
    flats = list(dict.fromkeys(each for user in users for each in graph.operands(user)))
    for user in users:
        maps = [graph.operands(each)[0] for each in graph.operands(user)]
        graph.set_operands(user, *maps)
        graph.set_op(user, _on_map(graph[user], graph.type(maps[0])))
        graph.insert_after(user, Flatten(origin=node.op.origin), new=f"{user}_flat")
    for each in flats:
        graph.remove_dead(each)
    return True


def _flattens(graph: Graph, name: str) -> bool:
    """Whether a node makes a vector of a map of one or two axes behind the channels."""
    is_shape = isinstance(graph[name], (Flatten, Reshape)) and len(graph.type(name).shape) == 1
    return is_shape and 1 < len(graph.type(graph.operands(name)[0]).shape) <= 3


def _takes_map(graph: Graph, user: str) -> bool:
    """Whether an op has flattened maps of one shape for operands, and could take the maps."""
    flats = graph.operands(user)
    if not isinstance(graph[user], (Linear, Neuron, Add)) or not all(_flattens(graph, each) for each in flats):
        return False
    return len({graph.type(graph.operands(each)[0]).shape for each in flats}) == 1


def _on_map(op: Op, signal: Type) -> Op:
    """Return what does to such a map what an op does to it when it is flattened."""
    shape = signal.shape
    if isinstance(op, Linear):
        scale = channel_scale(signal, 0, "unflatten")
        weight = op.weight.reshape(len(op.weight), *shape)
        # the window has one place; a stride lets legalize-nir put zeros around the kernel
        stride = (max(shape[1:]),) * (len(shape) - 1)
        return Conv(weight, op.bias, stride=stride, in_scale=scale, out_scale=op.out_scale, origin=op.origin)
    if isinstance(op, Neuron):
        fields: dict[str, Any] = {
            name: _shaped(value, shape) for name, value in op.parameters().items() if isinstance(value, np.ndarray)
        }
        return attrs.evolve(op, **fields)
    return op


def _shaped(value: Array, shape: tuple[int, ...]) -> Array:
    """Return a parameter of a vector of neurons for the map of them."""
    if value.ndim == 0:
        return value
    return value.reshape(shape) if value.size > 1 else value.reshape((1,) * len(shape))
