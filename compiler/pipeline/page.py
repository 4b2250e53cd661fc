"""The page of a dump: ``index.html``, which needs no network, and the same as ``index.json``."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spikec.extend.passbase import Note
from spikec.ir.files import write_text
from spikec.ir.graph import Graph
from spikec.ir.ledger import Ledger
from spikec.ir.printer import attributes, type_text
from spikec.ir.templates import render
from spikec.ir.types import Array
from spikec.pipeline.manager import StageRecord

#: bars of a histogram, and how many numbers of an array it counts at most
_BARS, _COUNTED = 24, 1 << 16


class Page:
    """What ``index.html`` shows of a compilation, or of one that failed: passes, graphs, nodes and the ledger.

    Args:
        title: of the page.
        stages: the graph after the import and after every pass.
        notes: of the passes and of the target.
        ledger: what became of every layer; None where it is not known.
        error: why the model was refused; empty if it was not.
    """

    def __init__(
        self,
        title: str,
        stages: Sequence[StageRecord],
        notes: Sequence[Note],
        ledger: Ledger | None,
        error: str = "",
    ) -> None:
        self.title, self.error = title, error
        self._drawings: list[str] = []
        self._graphs: list[dict[str, int]] = []
        self._records: dict[str, int] = {}  # what is shown of a node, as JSON, and its number
        self._summaries: dict[int, tuple[Array, dict[str, Any]]] = {}
        passes: list[dict[str, Any]] = []
        shown: Graph | None = None
        for record in stages:
            if shown is None or not record.graph.same_as(shown):
                shown = record.graph
                self._add(shown)
            passes.append(
                {
                    "name": record.name,
                    "text": str(record.by or record.name),
                    "graph": len(self._graphs) - 1,
                    "changes": record.changes,
                    "seconds": round(record.seconds, 3),
                    "check": record.check,
                    "notes": [str(note) for note in notes if note.by == record.name],
                    "failed": record.failed,
                }
            )
        why: dict[str, list[str]] = {}
        for note in notes:
            if note.node:
                why.setdefault(note.node, []).append(f"{note.by}: {note.reason}")
        names = {each["name"] for each in passes}
        self.data = {
            "title": title,
            "error": error,
            "passes": passes,
            "graphs": self._graphs,
            "records": [json.loads(record) for record in self._records],
            "why": why,
            "ledger": [
                {"source": str(entry.source), "was": entry.source.kind, "fate": entry.fate, "into": entry.into}
                for entry in ledger or ()
            ],
            "notes": [*(ledger.notes if ledger else ()), *(str(note) for note in notes if note.by not in names)],
        }

    def html(self) -> str:
        """Return the page, which brings all that it needs."""
        data = json.dumps(self.data).replace("<", "\\u003c")  # no text may end the script that holds it
        return render("page.html.j2", page=self, drawings=self._drawings, data=data)

    def write(self, folder: Path) -> Path:
        """Write ``index.html`` and ``index.json`` into a folder that is there, and return the path of the first."""
        index = folder / "index.html"
        for path, text in ((index, self.html()), (folder / "index.json", json.dumps(self.data, indent=1))):
            write_text(path, text)
        return index

    def _add(self, graph: Graph) -> None:
        self._drawings.append(graph.draw(alone=False))
        self._graphs.append({name: self._record(graph, name) for name in graph.names()})

    def _record(self, graph: Graph, name: str) -> int:
        """Return the number of what is shown of a node, the same for nodes that look the same."""
        op = graph[name]
        arrays = {key: value for key, value in op.parameters().items() if isinstance(value, np.ndarray)}
        shown = {
            "kind": op.kind,
            "operands": [f"%{operand}" for operand in graph.operands(name)],
            "type": type_text(graph.type, name),
            "from": [f"{source} {source.kind}".rstrip() for source in op.origin],
            "attributes": attributes(op),
            "numbers": {key: self._summary(value) for key, value in arrays.items() if value.size > 1},
        }
        return self._records.setdefault(json.dumps(shown), len(self._records))

    def _summary(self, array: Array) -> dict[str, Any]:
        """Summarize an array, the same one once; it is held here, so that no other takes its id."""
        if id(array) not in self._summaries:
            self._summaries[id(array)] = array, summary(array)
        return self._summaries[id(array)][1]


def summary(array: Array) -> dict[str, Any]:
    """Return an array's shape, range, mean, standard deviation, share of zeros in %, and a histogram of its range."""
    flat = array.reshape(-1)
    some = flat[:: max(flat.size // _COUNTED, 1)]
    finite = some[np.isfinite(some)].astype(np.float64)
    return {
        "shape": list(array.shape),
        "min": f"{flat.min():.4g}",
        "max": f"{flat.max():.4g}",
        "mean": f"{flat.mean(dtype=np.float64):.4g}",
        "std": f"{flat.std(dtype=np.float64):.4g}",
        "zeros": f"{100 * (1 - np.count_nonzero(flat) / flat.size):.3g}",
        "counts": _counts(finite) if finite.size else [],
    }


def _counts(values: Array) -> list[int]:
    """Count finite numbers in bars of one width, from the least to the largest; equal ones are all in the middle bar.

    numpy refuses a range with fewer floats in it than bars, so the range becomes 0 to 1 first.
    """
    above = values - values.min()
    counts, _ = np.histogram(above / (above.max() or 1.0), _BARS)
    found: list[int] = counts.tolist()
    return found
