"""What there is to say of how a NIR graph was read, and whether a doubt about its reset matters."""

from collections.abc import Collection

import attrs
import numpy as np
import torch

from spikec.frontends.nir.files import File
from spikec.interpreter import interp
from spikec.interpreter.probe import affordable
from spikec.ir.errors import Hint, Option
from spikec.ir.graph import Graph
from spikec.ir.ops import Neuron

#: steps and samples of a run that decides, and what its inputs are multiplied by until neurons fire
_STEPS, _SAMPLES, _GAINS = 24, 2, (1.0, 8.0, 64.0)


class Notes:
    """What there is to say; ``doubts`` are those that the user is warned with."""

    def __init__(self) -> None:
        self.all: list[str] = []
        self.doubts: list[str] = []

    def add(self, note: str) -> None:
        """Add a note."""
        self.all.append(note)

    def doubt(self, note: str) -> None:
        """Add a note that the user is warned with."""
        self.all.append(note)
        self.doubts.append(note)


def note_reset(graph: Graph, doubtful: Collection[str], file: File, notes: Notes) -> None:
    """Say how neurons reset of which nothing says it, and by a short random run whether it matters.

    Args:
        graph: in which they reset to 0, or by subtraction where the version of nir does so that wrote them.
        doubtful: their names.
        file: that the graph is from.
        notes: where it is said.
    """
    old = [name for name in doubtful if name in file.subtracting]
    _note(graph, [name for name in doubtful if name not in old], file, notes, "a reset to zero", "one by subtraction")
    _note(graph, old, file, notes, "one by subtraction", "a reset to zero")


def _note(graph: Graph, names: Collection[str], file: File, notes: Notes, read: str, other: str) -> None:
    if not names:
        return
    if not any(name in names for name in file.unset):
        stored = "the NIR graph stores v_reset = 0 and no reset mode"
    else:
        by = f", and nir {file.version} wrote it" if file.version else ""
        stored = f"the NIR file has no v_reset{by}: nir before 1.0.6 called a reset one by subtraction"
    said = (f"{stored}: it is read as {read}; {other} is ", Option("reset", "subtract" if "zero" in read else "value"))
    share = _differing(graph, names)
    if share == 0:
        notes.add(Hint(*said, f"; in a run of {_STEPS} random steps {other.split()[-1]} gives the same outputs"))
    elif share is None:
        notes.doubt(Hint(*said))
    else:
        notes.doubt(Hint(*said, f" ({share:.0%} of the outputs differ in a run of {_STEPS} random steps)"))


def _differing(graph: Graph, doubtful: Collection[str]) -> float | None:
    """Return how many outputs differ if these neurons reset the other way; None where no run tells."""
    if affordable(graph) < _STEPS * _SAMPLES:
        return None
    other = graph.copy()
    for name in doubtful:
        op = other.get(name, Neuron)
        other.set_op(name, attrs.evolve(op, v_reset=np.zeros(()) if op.v_reset is None else None))
    random, fired = torch.Generator().manual_seed(0), False
    for gain in _GAINS:
        xs = [
            gain * torch.rand(_STEPS, _SAMPLES, *graph.type(name).shape, generator=random, dtype=torch.float64)
            for name in graph.inputs
        ]
        ours, theirs = (interp.run(each, xs) for each in (graph, other))
        pairs = list(zip(*(y if isinstance(y, tuple) else (y,) for y in (ours, theirs)), strict=True))
        different = sum(int((a != b).sum()) for a, b in pairs)
        if different:
            return float(different / sum(a.numel() for a, _ in pairs))
        fired = fired or any(bool(a.any()) for a, _ in pairs)
    return 0.0 if fired else None
