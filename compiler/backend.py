"""What a backend is: a final Graph in, the target's own object out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import attrs

from spikec.errors import Problem
from spikec.graph import Graph
from spikec.passbase import Context, Pass
from spikec.stages import FINAL


@attrs.frozen
class Backend:
    """A target. Subclass it with ``@attrs.frozen``; the fields are the target's options.

    A file ``backends/<name>.py`` holds the class as ``backend``; ``spikec.compile`` also takes an instance.

    Attributes:
        name: what users say; the file's name.
        suffix: of the files that ``save`` writes.
    """

    name: ClassVar[str]
    suffix: ClassVar[str] = ""

    def passes(self, timesteps: int | None) -> tuple[Pass | str, ...]:
        """What must still be done to a spiking graph before this target can carry it, in order."""
        return ("avgpool-to-sumpool", "fold-rescale", "cast-parameters")

    def check(self, graph: Graph) -> list[Problem]:
        """Every reason why this target cannot carry the final graph; a cast between scales is one."""
        return FINAL.problems(graph)

    def emit(self, graph: Graph, context: Context) -> Any:
        """The artifact; called only with a graph in which ``check`` finds nothing."""
        raise NotImplementedError

    def owns(self, artifact: Any) -> bool:
        """True for an artifact of this target."""
        return False

    def save(self, artifact: Any, path: Path) -> None:
        """Write an artifact to a path that nobody else looks at yet."""
        raise NotImplementedError
