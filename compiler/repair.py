"""Files written anew for the tool that is to read them, without a change of what the network does."""

from __future__ import annotations

import os
from typing import Any

import attrs

from spikec.driver import Compiler
from spikec.ir.errors import Hint, Problem, without_warnings
from spikec.readers import differences
from spikec.saving import save


@attrs.frozen(eq=False, repr=False)
class Repair:
    """What became of a file.

    Attributes:
        artifact: the graph for the reader, to :func:`spikec.save`.
        mended: what the reader had refused, left out or run otherwise, and takes now.
        left: what it still runs otherwise: no form of the graph says it.
        notes: what the passes that rewrote the graph have to say.

    Examples:
        >>> graph = spikec.compile(model, "nir", calibration=images, timesteps=8)
        >>> spikec.repair(graph, "norse").save("for_norse.nir")
    """

    artifact: Any
    mended: tuple[Problem, ...]
    left: tuple[Problem, ...]
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        return f"<spikec.Repair {len(self.mended)} mended, {len(self.left)} left, {len(self.notes)} notes>"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file; see :func:`spikec.save`."""
        save(self.artifact, path)

    def __str__(self) -> str:
        """Return everything, a finding a line."""
        parts = (("mended", self.mended), ("left", self.left))
        lines = [f"{word}: {_line(problem)}" for word, problems in parts for problem in problems]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)]) or "there was nothing to mend"


def repair(model: Any, profile: str, **options: Any) -> Repair:
    """Write a spiking network for the tool that is to read it, by exact rewriting only: nothing is tuned.

    Units and the length of a step stay as the file says them.

    Args:
        model: a ``nir.NIRGraph``, or the path of a .nir file.
        profile: the reader, as the target ``nir`` calls it.
        options: on how the file is read, as :func:`spikec.load` takes them.

    Raises:
        CompileError: the file cannot be read, or its network has no form that the reader takes; with every reason.

    Examples:
        >>> graph = spikec.compile(model, "nir", calibration=images, timesteps=8)
        >>> spikec.repair(graph, "spikingjelly")
        <spikec.Repair ... mended, ... left, ... notes>
    """
    compiler = Compiler("nir", profile=profile, **options)
    reader = compiler.backend.reader
    before = differences(model, reader, **options) if reader else []
    with without_warnings():
        compilation = compiler.run(model)
        after = differences(compilation.artifact, reader) if reader else []
    kinds = {_kind(problem) for problem in after}
    mended = tuple(problem for problem in before if _kind(problem) not in kinds)
    notes = tuple(Hint(str(attrs.evolve(note, reason="")), note.reason) for note in compilation.report.notes)
    return Repair(compilation.artifact, mended, tuple(after), notes)


def _kind(problem: Problem) -> tuple[str, str]:
    """Return what a finding is about, wherever it is: nodes of the new file have other names."""
    return problem.message, problem.op


def _line(problem: Problem) -> str:
    return f"{problem.location}: {problem.message}" if problem.location else problem.message
