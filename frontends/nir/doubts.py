"""What there is to say of how a NIR graph was read, and whether a doubt about its reset matters."""

from collections.abc import Collection

import attrs
import torch

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


def note_reset(graph: Graph, doubtful: Collection[str], unset: Collection[str], version: str, notes: Notes) -> None:
    """Say how neurons reset of which nothing says it, and by a short random run whether it matters.

    Args:
        graph: in which they reset to 0.
        doubtful: their names.
        unset: those whose file has no ``v_reset``.
        version: of nir, which wrote the file, or ``""``.
        notes: where it is said.
    """
    if not any(name in doubtful for name in unset):
        stored = "the NIR graph stores v_reset = 0 and no reset mode"
    else:
        by = f", and nir {version} wrote it" if version else ""
        stored = f"the NIR file has no v_reset{by}: nir before 1.0.6 called a reset one by subtraction"
    other = ("one by subtraction is ", Option("reset", "subtract"))
    share = _differing(graph, doubtful)
    if share == 0:
        end = f"; in a run of {_STEPS} random steps subtraction gives the same outputs"
        notes.add(Hint(f"{stored}: it is read as a reset to zero; ", *other, end))
    elif share is None:
        notes.doubt(Hint(f"{stored}: it is read as a reset to zero; ", *other))
    else:
        end = f" ({share:.0%} of the outputs differ in a run of {_STEPS} random steps)"
        notes.doubt(Hint(f"{stored}: it is read as a reset to zero; ", *other, end))


def _differing(graph: Graph, doubtful: Collection[str]) -> float | None:
    """Return how many outputs differ if these neurons reset by subtraction; None where no run tells."""
    if affordable(graph) < _STEPS * _SAMPLES:
        return None
    soft = graph.copy()
    for name in doubtful:
        soft.set_op(name, attrs.evolve(soft.get(name, Neuron), v_reset=None))
    random, fired = torch.Generator().manual_seed(0), False
    for gain in _GAINS:
        xs = [
            gain * torch.rand(_STEPS, _SAMPLES, *graph.type(name).shape, generator=random, dtype=torch.float64)
            for name in graph.inputs
        ]
        ours, theirs = (interp.run(each, xs) for each in (graph, soft))
        pairs = list(zip(*(y if isinstance(y, tuple) else (y,) for y in (ours, theirs)), strict=True))
        different = sum(int((a != b).sum()) for a, b in pairs)
        if different:
            return float(different / sum(a.numel() for a, _ in pairs))
        fired = fired or any(bool(a.any()) for a, _ in pairs)
    return 0.0 if fired else None
