"""Files of NIR: HDF5, of any version of nir, read without nir's own checker, which refuses or invents."""

from pathlib import Path
from typing import Any

import nir
import numpy as np

from spikec.frontends.nir import meaning
from spikec.ir.errors import InvalidModelError, Problem
from spikec.ir.untrusted import read_hdf5

_REFUSAL = "cannot be read as NIR"
_REWRITE = "write it with nir.write"


def read(path: Path, max_bytes: int | None) -> Any:
    """The graph of a file, node by node as ``nir.read`` makes it."""
    problems: list[Problem] = []
    graph = _graph_of(path, "node", read_hdf5(path, ["node"], _REFUSAL, _REWRITE, max_bytes).get("node"), problems)
    if problems:
        raise InvalidModelError(problems)
    return graph


def _graph_of(path: Path, place: str, tree: Any, problems: list[Problem]) -> Any:
    """The graph that a group of a file holds, or a graph in it; what is wrong with its nodes joins the problems."""
    fields = tree if isinstance(tree, dict) else {}
    held, edges = fields.get("nodes"), fields.get("edges")
    if not isinstance(held, dict) or not isinstance(edges, np.ndarray):
        raise InvalidModelError(f"{path} {_REFUSAL}: it has no {place}/nodes and {place}/edges", hint=_REWRITE)
    if edges.dtype != object or edges.shape != (len(edges), 2):
        raise InvalidModelError(f"{path} {_REFUSAL}: {place}/edges are no pairs of names", hint=_REWRITE)
    nodes: dict[str, Any] = {}
    problems += meaning.check_metadata(fields.get("metadata", {}))
    for name, node in held.items():
        if found := meaning.check_fields(name, node):
            problems += found
        elif node["type"] == "NIRGraph":
            nodes[name] = _graph_of(path, f"{place}/nodes/{name}", node, problems)
        else:
            try:
                nodes[name] = nir.dict2NIRNode(node)
            except Exception as error:  # whatever nir makes of wrong or missing fields
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                problems.append(Problem(f"{path} {_REFUSAL}: {reason}", name, hint=_REWRITE))
    named = [(start, end) for start, end in edges.tolist()]
    return nir.NIRGraph(nodes, named, metadata=fields.get("metadata", {}), type_check=False)
