"""What a graph's metadata say of its inputs and outputs, whose nodes have no metadata before nir 1.0.5."""

import copy
from collections.abc import Mapping
from typing import Any

import nir

from spikec.ir.errors import InvalidModelError, shown


def with_ports(graph: Any) -> Any:
    """Return a graph whose Input and Output nodes hold what the graph's metadata say of them under ``ports``.

    A node's own metadata come first, where files of spikec before 0.2 have them.

    Raises:
        InvalidModelError: ``ports`` is no table of tables.
    """
    ports = graph.metadata.get("ports") if isinstance(graph.metadata, Mapping) else None
    if ports is None:
        return graph
    if not isinstance(ports, Mapping) or not all(isinstance(each, Mapping) for each in ports.values()):
        raise InvalidModelError(f"its metadata ports are {shown(ports)}", hint="give a table of each input and output")
    nodes = dict(graph.nodes)
    for name, stated in ports.items():
        node = nodes.get(name)
        if isinstance(node, (nir.Input, nir.Output)):
            nodes[name] = copy.copy(node)
            nodes[name].metadata = {**stated, **node.metadata}
    return nir.NIRGraph(nodes, graph.edges, metadata=graph.metadata, type_check=False)
