"""Names and edges of a NIR graph, and how readers that run it depth first come through it."""

import re
from collections.abc import Iterator

from spikec.backends.nir.layout import Layout
from spikec.ir.graph import Graph
from spikec.ir.ops import Add, Delay, Input, Output
from spikec.ir.walks import run_early

_NUMBER = re.compile(r"n\d+_")


def moved(found: dict[str, Layout]) -> set[str]:
    """Return the nodes that inputs and outputs of another layout stand for."""
    return {name for layout in found.values() for name in layout.moved}


def names(graph: Graph, found: dict[str, Layout]) -> dict[str, str]:
    """Choose NIR names, whose alphabetical order, in which files are read back, is topological.

    Terminals are ``input`` and ``output`` (``input_0``, ... if there are several); the others have a number
    in front, which replaces that of a file that was written like this.
    """
    chosen: dict[str, str] = {}
    left_out = moved(found)
    inner = [
        name for name in graph if not isinstance(graph[name], (Input, Output, Add, Delay)) and name not in left_out
    ]
    numbered = all(_NUMBER.match(name) for name in inner)
    for kind, group in (("input", graph.inputs), ("output", graph.outputs)):
        width = len(str(len(group) - 1))
        chosen.update({name: f"{kind}_{i:0{width}d}" if len(group) > 1 else kind for i, name in enumerate(group)})
    width = len(str(len(inner) - 1))
    for i, name in enumerate(inner):
        bare = _NUMBER.sub("", name, count=1) if numbered else name
        chosen[name] = f"n{i:0{width}d}_{re.sub(r'[^0-9A-Za-z_]', '_', bare)}"
    return {name: chosen[name] for name in graph if name in chosen}


def edges(graph: Graph, found: dict[str, Layout]) -> list[tuple[str, str]]:
    """List the edges between nodes of the graph, main branches first: some readers take the last edge for a skip.

    A register gives what its operand gives: readers find edges back by themselves.
    """
    left_out = moved(found)
    givers = {found[name].inner: name for name in graph.inputs}
    givers |= {node.name: givers.get(back := graph.operands(node.name)[0], back) for node in graph.match(Delay)}
    main: list[tuple[str, str]] = []
    skips: list[tuple[str, str]] = []
    for name in graph:
        if isinstance(graph[name], (Add, Delay)) or name in left_out:
            continue
        operands = (found[name].inner,) if isinstance(graph[name], Output) else graph.operands(name)
        if operands and isinstance(graph[operands[0]], Add):
            operands = graph.operands(operands[0])  # a fan-in is several edges into the node
        for slot, operand in enumerate(operands):
            (skips if slot else main).append((givers.get(operand, operand), name))
    return main + skips


def too_early(graph: Graph, found: dict[str, Layout]) -> Iterator[tuple[str, str]]:
    """Yield (node, operand) wherever a reader that runs the graph depth first runs a node before its operand.

    An edge back from a later node is meant to come late.
    """
    place = {name: i for i, name in enumerate(graph)}
    wired = edges(graph, found)
    late = {(start, end) for start, end in wired if place[start] >= place[end]}
    return run_early(wired, graph.inputs[0], graph.outputs[0], late)
