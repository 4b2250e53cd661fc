"""What became of every node of the user's model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import attrs

from spikec.graph import Graph
from spikec.op import Op
from spikec.ops import Head, Output
from spikec.origin import Source

Fate = Literal["converted", "folded", "lowered", "kept"]


@attrs.frozen
class Entry:
    """The fate of one source node.

    Attributes:
        source: the node.
        fate: ``kept`` as it was, ``converted`` into another op, ``lowered`` into several, or ``folded``
            into another node's op or dropped because it does nothing. A refused node is in the error.
        into: the ops that stand for it now, or the reason why there is none.
    """

    source: Source
    fate: Fate
    into: str


class Ledger:
    """All entries, in the order of the model."""

    def __init__(self, entries: list[Entry]) -> None:
        self.entries = tuple(entries)

    @classmethod
    def of(cls, imported: Graph, final: Graph) -> Ledger:
        """Read off the origins: an op's first source is the node that it stands for."""
        kinds = {source: node.op.kind for node in imported.match(Op) for source in node.op.origin}
        entries = [
            cls._entry(source, kinds.get(source), final) for source in dict.fromkeys([*kinds, *imported.dropped])
        ]
        return cls(entries)

    @staticmethod
    def _entry(source: Source, kind: str | None, final: Graph) -> Entry:
        own = [node for node in final.match(Op) if node.op.origin and node.op.origin[0] == source]
        within = [node for node in final.match(Op) if source in node.op.origin]
        outside = [node.name for node in within if isinstance(node.op, Output)]
        if outside and kind == Head.kind:
            return Entry(source, "kept", f"outside the network, behind %{outside[0]}")
        if len(own) == 1:
            fate: Fate = "kept" if own[0].op.kind == kind else "converted"
            return Entry(source, fate, f"%{own[0].name} = {own[0].op.kind}")
        if own:
            return Entry(source, "lowered", f"into {len(own)} ops, %{own[0].name} to %{own[-1].name}")
        if within:
            names = ", ".join(f"%{node.name}" for node in within[:3])
            more = f" and {len(within) - 3} more" if len(within) > 3 else ""
            return Entry(source, "folded", f"into {names}{more}")
        return Entry(source, "folded", final.dropped[source])

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __str__(self) -> str:
        rows = [(e.source.label, e.source.kind, e.fate, e.into, e.source.place) for e in self.entries]
        widths = [max((len(row[i]) for row in rows), default=0) for i in range(4)]
        padded = ([f"{text:<{width}}" for text, width in zip(row, [*widths, 0], strict=True)] for row in rows)
        return "\n".join("  ".join(cells).rstrip() for cells in padded)
