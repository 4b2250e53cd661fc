"""Says as text what a run of the compiler did."""

import attrs

from spikec.extend.passbase import Note
from spikec.pipeline.manager import StageRecord


@attrs.frozen
class Report:
    """The passes with their checks, and every note.

    Attributes:
        target: the backend's name.
        stages: one row a pass.
        notes: why rewrites did not fire, and what choices cost.
    """

    target: str
    stages: tuple[StageRecord, ...]
    notes: tuple[Note, ...]

    @property
    def passes(self) -> str:
        """The passes with their options, as :meth:`spikec.Pipeline.parse` reads them to run the same again."""
        return ", ".join(str(record.by) for record in self.stages if record.by is not None)

    def __str__(self) -> str:
        first, last = self.stages[0].graph, self.stages[-1].graph
        width = max(len(record.name) for record in self.stages)
        lines = [f"{first.name} -> {self.target}: {len(first)} ops in, {len(last)} ops out"]
        for record in self.stages[1:]:
            changes = f"{record.changes:4d} change{'s' if record.changes != 1 else ' '}"
            lines.append(f"  {record.name:<{width}} {changes} {record.seconds:7.3f} s  {record.check}".rstrip())
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join([*lines, f"  passes: {self.passes}"])
