"""What became of every node of the user's model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import attrs

from spikec.ir.errors import CompileError, Problem
from spikec.ir.graph import Graph, Node
from spikec.ir.op import Op, Role
from spikec.ir.ops import Head, Output
from spikec.ir.origin import Source
from spikec.ir.packages import frame
from spikec.ir.templates import table

Fate = Literal["converted", "folded", "lowered", "kept", "refused", "unread"]


@attrs.frozen
class Entry:
    """The fate of one source node.

    Attributes:
        source: the node.
        fate: ``kept`` as it was, ``converted`` into another op, ``lowered`` into several, or ``folded``
            into another node's op or dropped because it does nothing. In a model that is refused also
            ``refused``, and ``unread`` behind a refused node, where shapes are not known.
        into: the ops that stand for it now with their neurons, or the reason why there is none.
        neurons: how many it costs for one sample; 0 where it takes none, or was refused before that was known.
    """

    source: Source
    fate: Fate
    into: str
    neurons: int = 0


class Ledger:
    """All entries, in the order of the model.

    Attributes:
        entries: one a source node.
        notes: what the frontend has to say about how it read the model.
        neurons: of the whole network, those in front of its layers too, such as a target's encoder of the input.
    """

    HEADINGS = ("layer", "was", "is", "as")

    def __init__(self, entries: Sequence[Entry], notes: Sequence[str] = (), neurons: int = 0) -> None:
        self.entries = tuple(entries)
        self.notes = tuple(notes)
        self.neurons = neurons

    @classmethod
    def of(cls, start: Graph, final: Graph, problems: Sequence[Problem] = ()) -> Ledger:
        """Read off the origins: an op's first source is the node that it stands for.

        Args:
            start: as the frontend gave it.
            final: behind the last pass that ran.
            problems: for which the model was refused.
        """
        kinds = {source: node.op.kind for node in start.match(Op) for source in node.op.origin}
        refused = {problem.origin[0]: problem.message for problem in reversed(problems) if problem.origin}
        within: dict[Source, list[Node[Op]]] = {}
        for node in final.match(Op):
            for source in node.op.origin:
                within.setdefault(source, []).append(node)
        entries = [
            Entry(source, "refused", refused[source])
            if source in refused
            else _entry(source, kinds.get(source), within.get(source, []), final)
            for source in dict.fromkeys([*start.imported.order, *reversed(refused)])
        ]
        return cls(entries, start.imported.notes, _neurons(final, final.match(Op)))

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __repr__(self) -> str:
        counts = Counter(entry.fate for entry in self)
        return f"<spikec ledger: {', '.join(f'{count} {fate}' for fate, count in counts.items()) or 'empty'}>"

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Return for each layer: its name with the user's line, what it was, its fate, and what stands for it now."""
        return [(str(entry.source), entry.source.kind, entry.fate, entry.into) for entry in self]

    def to_pandas(self) -> Any:
        """Return a ``pandas.DataFrame`` of :meth:`rows`, and of the number of neurons that each layer costs.

        Raises:
            MissingDependencyError: pandas is not installed.
        """
        rows = [(*row, entry.neurons) for row, entry in zip(self.rows(), self, strict=True)]
        return frame((*self.HEADINGS, "neurons"), rows)

    def _repr_html_(self) -> str:
        return table("what became of each layer", self.HEADINGS, self.rows(), self.notes)

    def __str__(self) -> str:
        rows = [(e.source.label, e.source.kind, e.fate, e.into, e.source.place) for e in self.entries]
        widths = [max((len(row[i]) for row in rows), default=0) for i in range(4)]
        padded = ([f"{text:<{width}}" for text, width in zip(row, [*widths, 0], strict=True)] for row in rows)
        lines = ["  ".join(cells).rstrip() for cells in padded]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def _entry(source: Source, kind: str | None, within: list[Node[Op]], final: Graph) -> Entry:
    """Tell the fate of a source node: which ops carry it, or why none does."""
    dropped = final.imported.dropped.get(source)
    own = [node for node in within if node.op.origin[0] == source]
    outside = [node.name for node in within if isinstance(node.op, Output)]
    if outside and kind == Head.kind:
        return Entry(source, "kept", f"outside the network, behind %{outside[0]}")
    neurons = _neurons(final, own)
    cost = f", with {neurons:,} neurons" if neurons else ""
    if len(own) == 1:
        fate: Fate = "kept" if own[0].op.kind == kind else "converted"
        return Entry(source, fate, f"%{own[0].name} = {own[0].op.kind}{cost}", neurons)
    if own:
        return Entry(source, "lowered", f"into {len(own)} ops, %{own[0].name} to %{own[-1].name}{cost}", neurons)
    if within:
        names = ", ".join(f"%{node.name}" for node in within[:3])
        more = f" and {len(within) - 3} more" if len(within) > 3 else ""
        return Entry(source, "folded", f"into {names}{more}")
    if dropped is not None:
        return Entry(source, "folded", dropped)
    return Entry(source, "unread", "it takes the result of a refused node")


def _neurons(graph: Graph, nodes: Sequence[Node[Op]]) -> int:
    return sum(math.prod(graph.type(node.name).shape) for node in nodes if node.op.role is Role.NEURON)


def account(error: CompileError, imported: Graph | None, final: Graph | None) -> None:
    """Give an error the ledger of what it refuses, as far as that was read."""
    imported = imported or error.graph
    if imported is not None:
        error.ledger = Ledger.of(imported, final or imported, error.problems)
