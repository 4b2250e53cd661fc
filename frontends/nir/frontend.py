"""Reads NIR: an ``nir.NIRGraph``, or a file of one, as a spiking graph."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import attrs
import nir
from torch import Tensor

from spikec.extend.frontend import Frontend
from spikec.frontends.nir import files
from spikec.frontends.nir.differences import differences
from spikec.frontends.nir.loader import Loader, called
from spikec.frontends.nir.stated import Stated
from spikec.ir.errors import Problem, advising
from spikec.ir.graph import Graph
from spikec.ir.untrusted import SPARE, allowed_bytes

_MEND = "mend that node, and if it comes from a file, write it again with nir.write"


@attrs.frozen
class _Opened:
    """A NIR graph, and what its user says of it.

    Attributes:
        file: the graph, unchecked, and what its file says beside it.
        name: of the model.
        stated: what the user says of it.
        max_bytes: that the signals of one sample may take.
    """

    file: files.File
    name: str
    stated: Stated
    max_bytes: int


class NirFrontend(Frontend):
    """Graphs of Affine, Linear, Scale, Conv1d, Conv2d, SumPool2d, AvgPool2d, Flatten, IF, LIF and CubaLIF.

    Graphs in a graph are inlined. Several edges into a node are summed; those back in a cycle are late by one step,
    see :func:`spikec.frontends.nir.recurrence.delayed`. IF has unit gain: r = 1, or r = 1/dt throughout. The reset is
    soft where the metadata of node or graph say ``reset="subtract"`` over a ``v_reset`` of zeros, else hard; nir reads
    zeros where a file has no ``v_reset``. The length of a step is the metadata's ``dt``, or the user's, or what the
    gains imply, with a warning: r = 1/dt of an IF, r = tau/dt of a LIF, w_in = tau_syn/dt of a CubaLIF, if they agree.
    """

    takes: ClassVar[str] = "an nir.NIRGraph or a path ending in .nir or .h5"

    def accepts(self, model: Any) -> bool:
        """A NIRGraph, or a Path with NIR's suffixes."""
        is_file = isinstance(model, Path) and model.suffix in (".nir", ".h5")
        return is_file or isinstance(model, (nir.NIRGraph, _Opened))

    def opened(
        self,
        model: Any,
        dt: float | None = None,
        reset: str | None = None,
        fire: str | None = None,
        v_init: Any = None,
        reader: str | None = None,
        max_bytes: int | None = None,
    ) -> _Opened:
        """The graph that a file holds, or the one that is given, with what the user says of it.

        What the user says overrides what ``reader`` means, and both what the graph's metadata say; the graph's notes
        name it then.

        Args:
            model: one that ``accepts``.
            dt: seconds a step.
            reset: of all neurons: ``"subtract"`` (or ``"soft"``), ``"value"`` (or ``"hard"``) for one to v_reset.
            fire: ``">"`` or ``">="``: whether neurons fire above their threshold, or also at it.
            v_init: potential before step 0, of all neurons or by name.
            reader: the tool whose way of running the file is meant, see
                :data:`spikec.frontends.nir.readers.READERS`; ``"nir"`` for the format's equations.
            max_bytes: that the arrays of a file may take in memory, and the signals of one sample; None for half a
                gigabyte more than the file takes.

        Raises:
            InvalidModelError: one of these makes no sense, or the file is none of NIR.
        """
        if isinstance(model, _Opened):
            return model
        stated = Stated.of(dt, reset, fire, v_init, reader)
        if isinstance(model, Path):
            with advising(_MEND):
                return _Opened(files.read(model, max_bytes), model.stem, stated, allowed_bytes(model, max_bytes))
        given = files.File(model, "", frozenset())
        return _Opened(given, "nir", stated, SPARE if max_bytes is None else max_bytes)

    def input_names(self, model: Any) -> list[str]:
        """Of the Input nodes: as their metadata say the model called them, else of the nodes."""
        source = self.opened(model).file.graph
        return [called(name, source.nodes[name]) for name in source.inputs]

    def load(self, model: Any, examples: Sequence[Tensor] | None) -> Graph:
        """The graph, spiking; shapes come from the Input nodes."""
        with advising(_MEND):
            opened = self.opened(model)
            return Loader(opened.file, opened.name, opened.stated, opened.max_bytes).graph()

    def differences(self, model: Any) -> list[Problem]:
        """What the reader refuses, leaves out, or runs otherwise than the graph's fields and metadata say."""
        opened = self.opened(model)
        if opened.stated.reader is None:
            return []
        return differences(opened.file, opened.name, opened.stated, opened.max_bytes)


frontend = NirFrontend()
