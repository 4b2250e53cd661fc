"""Where a model's inputs and outputs are laid out otherwise than NIR's nodes want them, as channels-last models are.

NIR has no node that transposes or reshapes to a map. Between an input and the first layer, and between the last layer
and an output, none is needed: the file's own input and output have the layout of its nodes, and metadata say how the
model's come of it.
"""

import attrs

from spikec.ir.graph import Graph
from spikec.ir.ops import Flatten, Permute, Reshape


@attrs.frozen
class Layout:
    """How an input or output of the file differs from the model's.

    Attributes:
        inner: the node whose result is what the file's input gives, or its output takes.
        moved: the nodes between that and the model's input or output, which the file has not.
        axes: the file's input is the model's, transposed to these and reshaped; so is the model's output of the file's.
    """

    inner: str
    moved: tuple[str, ...]
    axes: tuple[int, ...]


def layouts(graph: Graph, flattens: bool) -> dict[str, Layout]:
    """Return the layout of every input and output; those that differ have ``moved``.

    Args:
        graph: the final one.
        flattens: whether the file may hold a Flatten.
    """
    found = {name: _of_input(graph, name, flattens) for name in graph.inputs}
    taken = {name for layout in found.values() for name in layout.moved}
    return found | {name: _of_output(graph, name, taken, flattens) for name in graph.outputs}


def _of_input(graph: Graph, name: str, flattens: bool) -> Layout:
    """Follow a permute, and reshapes behind it, as long as nobody else takes their operand."""
    axes, moved, inner = tuple(range(len(graph.type(name).shape))), list[str](), name
    while len(graph.users(inner)) == 1:
        ((user, _),) = graph.users(inner)
        op = graph[user]
        if isinstance(op, Permute) and not moved:
            axes = op.axes
        elif not _is_reshape(graph, user, flattens):
            break
        moved.append(user)
        inner = user
    return Layout(inner, tuple(moved), axes)


def _of_output(graph: Graph, name: str, taken: set[str], flattens: bool) -> Layout:
    """Follow reshapes, and a permute in front of them, as long as nobody else takes their result."""
    moved, axes, inner = list[str](), None, graph.operands(name)[0]
    while axes is None and inner not in taken and len(graph.users(inner)) == 1:
        op = graph[inner]
        if not (isinstance(op, Permute) or _is_reshape(graph, inner, flattens)):
            break
        axes = op.axes if isinstance(op, Permute) else None
        moved.append(inner)
        (inner,) = graph.operands(inner)
    return Layout(inner, tuple(moved), axes or tuple(range(len(graph.type(inner).shape))))


def _is_reshape(graph: Graph, name: str, flattens: bool) -> bool:
    """Return True for a reshape, and for a flatten that the file has no node for, such as one to more than a vector."""
    if isinstance(graph[name], Flatten):
        return not flattens or len(graph.type(name).shape) > 1
    return isinstance(graph[name], Reshape)
