"""What a frontend is: a model in, a Graph out."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from spikec.interpreter.imported import Reference
from spikec.ir.graph import Graph


class Frontend:
    """Reads one kind of model. A file in ``frontends/``, or in a folder there, holds an instance as ``frontend``.

    Attributes:
        takes: what it reads, for error messages.
    """

    takes: ClassVar[str]

    def accepts(self, model: Any) -> bool:
        """True for a model of this kind."""
        raise NotImplementedError

    def opened(self, model: Any) -> Any:
        """The model that all methods below take: a frontend that reads files makes of a path what the file holds.

        Options on how a model is read are keyword arguments of a frontend's own method.

        Args:
            model: one that ``accepts``, maybe opened already.
        """
        return model

    def input_names(self, model: Any) -> list[str]:
        """Names of the model's inputs, in order: the keys that calibration dicts have."""
        raise NotImplementedError

    def batches(self, model: Any, examples: Sequence[Tensor] | None) -> Sequence[Tensor] | None:
        """Examples [B, ...] from what the model takes: one that runs all time-steps in a call takes [T, B, ...]."""
        return examples

    def load(self, model: Any, examples: Sequence[Tensor] | None) -> Graph:
        """The model as a graph.

        Args:
            model: one that ``accepts``.
            examples: an input [B, ...] each, or None where the format gives shapes.

        Raises:
            UnsupportedOpError: with every node that cannot be read.
            InvalidModelError: the model itself is wrong, or its input's shape cannot be known.
        """
        raise NotImplementedError

    def reference(self, model: Any) -> Reference | None:
        """The model as it runs by itself, which the imported graph is compared with; None if it cannot."""
        return None

    def layer_results(self, model: Any, graph: Graph, xs: Sequence[Tensor]) -> Mapping[str, Tensor]:
        """What the model's own layers give, by which the first op of a wrong import is found.

        Args:
            model: one that ``accepts``.
            graph: as :meth:`load` gave it.
            xs: as ``reference`` takes them.

        Returns:
            Results [B, ...] (of a spiking model [T, B, ...]) by ``Source.path``. Layers may be missing: the fewer are
            known, the more ops are named as possibly wrong.
        """
        return {}
