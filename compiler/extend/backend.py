"""What a backend is: a final Graph in, the target's own object out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import attrs

from spikec.extend.passbase import Context, Pass
from spikec.ir.errors import Problem
from spikec.ir.graph import Graph
from spikec.ir.stages import FINAL


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

    @property
    def potentials(self) -> bool:
        """True if every neuron of a layer may start at a potential of its own."""
        return False

    @property
    def streams(self) -> bool:
        """True if currents that differ from step to step can be fed to a layer, and are wanted."""
        return False

    @property
    def counters(self) -> bool:
        """True if a max-pool that counts spikes can be run, and is wanted."""
        return False

    def before_tuning(self, timesteps: int | None) -> tuple[Pass | str, ...]:
        """What feeds the net in another way (an encoder of inputs): it runs before the passes that tune for it."""
        return ()

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
