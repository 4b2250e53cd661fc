"""Files of NIR: HDF5, of any version of nir, read without nir's own checker, which refuses or invents."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import nir
import numpy as np

from spikec.frontends.nir import meaning
from spikec.frontends.nir.ports import with_ports
from spikec.frontends.nir.rules import with_fields
from spikec.ir.errors import InvalidModelError, Problem
from spikec.ir.untrusted import read_hdf5

#: the first version of nir whose neurons have a v_reset
_RESETS_TO_A_VALUE = (1, 0, 6)
_REFUSAL = "cannot be read as NIR"
_REWRITE = "write it with nir.write"


@attrs.frozen
class File:
    """What a file holds.

    Attributes:
        graph: of nir, unchecked; its inputs and outputs hold what its metadata say of them.
        version: of nir, that wrote it, or ``""``.
        unset: places of the neurons, as messages name them, for which it has no ``v_reset``.
    """

    graph: Any = attrs.field(converter=with_ports)
    version: str
    unset: frozenset[str]

    @property
    def subtracting(self) -> frozenset[str]:
        """The neurons among them that a version wrote whose documents call a reset one by subtraction."""
        numbers = tuple(map(int, re.findall(r"\d+", self.version)[:3]))
        return self.unset if () < numbers < _RESETS_TO_A_VALUE else frozenset()


def read(path: Path, max_bytes: int | None) -> File:
    """Read a file.

    Raises:
        InvalidModelError: with everything that is wrong with its nodes.
    """
    tree = read_hdf5(path, ["node", "version"], _REFUSAL, _REWRITE, max_bytes)
    problems: list[Problem] = []
    unset: set[str] = set()
    graph = _graph(path, "node", "", tree.get("node"), problems, unset)
    if problems:
        raise InvalidModelError(problems)
    version = tree.get("version", "")
    return File(graph, version if isinstance(version, str) else "", frozenset(unset))


def _graph(path: Path, place: str, outer: str, tree: Any, problems: list[Problem], unset: set[str]) -> Any:
    """The graph that a group of a file holds, or a graph in it; what is wrong with its nodes joins the problems."""
    fields = tree if isinstance(tree, dict) else {}
    held, edges = fields.get("nodes"), fields.get("edges")
    if not isinstance(held, dict) or not isinstance(edges, np.ndarray):
        raise InvalidModelError(f"{path} {_REFUSAL}: it has no {place}/nodes and {place}/edges", hint=_REWRITE)
    if edges.size and (edges.dtype != object or edges.shape != (len(edges), 2)):
        raise InvalidModelError(f"{path} {_REFUSAL}: {place}/edges are no pairs of names", hint=_REWRITE)
    nodes: dict[str, Any] = {}
    problems += meaning.check_metadata(fields.get("metadata", {}))
    for key, node in held.items():
        name = outer + key
        if found := meaning.check_fields(name, node) or _unknown(name, node):
            problems += found
        elif node["type"] == "NIRGraph":
            nodes[key] = _graph(path, f"{place}/nodes/{key}", f"{name}.", node, problems, unset)
        else:
            nodes[key] = _node(node)
            if hasattr(nodes[key], "v_threshold") and "v_reset" not in node:
                unset.add(name)
    named = [(start, end) for start, end in edges.tolist()]
    return nir.NIRGraph(nodes, named, metadata=fields.get("metadata", {}), type_check=False)


def _unknown(name: str, stored: Mapping[str, Any]) -> list[Problem]:
    """Refuse what is stored of a node beside the fields that nir gives it."""
    kind = stored["type"]
    fields = {field.name for field in dataclasses.fields(getattr(nir, kind))} | {"type", "shape"}
    if not (more := sorted(stored.keys() - fields)):
        return []
    hint = "leave it out, or read the file with a nir that has it"
    return [Problem(f"it has {', '.join(more)}, which a node of its type has not", name, f"nir.{kind}", hint)]


def _node(stored: Mapping[str, Any]) -> Any:
    """Make a node of what is stored of it, with nir's defaults for what older versions of nir did not write."""
    fields: dict[str, Any] = {"metadata": {}, "input_type": None, "output_type": None, "bias": None, **stored}
    kind = fields.pop("type")
    shape = fields.pop("shape", None)
    if kind in ("Input", "Output"):
        fields["input_type"] = fields["output_type"] = {"input": shape, "output": shape}
    if "v_threshold" in fields:
        fields.setdefault("v_reset", np.zeros_like(np.asarray(fields["v_threshold"])))
    if kind in ("CubaLI", "CubaLIF"):
        fields.setdefault("w_in", np.ones_like(np.asarray(fields["tau_syn"])))
    return with_fields(getattr(nir, kind), fields)
