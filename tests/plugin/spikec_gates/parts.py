"""A pass, a target and a frontend."""

from pathlib import Path
from typing import Any, ClassVar

import attrs
import numpy as np

import spikec
from spikec.extend.frontend import Frontend
from spikec.ir.ops import IF, Input, Linear, Output, Relu
from spikec_gates.gate import GateOp


@attrs.frozen
class OpenGates(spikec.Pass):
    """Gates that are ``open`` throughout are removed."""

    name: ClassVar[str] = "open-gates"
    least: float = 1.0

    def run(self, graph, context):
        opened = [node.name for node in graph.match(GateOp) if (node.op.mask >= self.least).all()]
        for name in opened:
            graph.bypass(name, "is open")
        return len(opened)


class Listing(str):
    """A line for each layer of neurons: how many there are, and their highest threshold."""


@attrs.frozen
class Thresholds(spikec.Backend):
    """A text with a line for each layer of neurons: how many there are, and their highest threshold."""

    name: ClassVar[str] = "thresholds"
    suffix: ClassVar[str] = ".txt"
    digits: int = 3

    def emit(self, graph, context):
        rows = [(np.prod(graph.type(node.name).shape), node.op.v_threshold.max()) for node in graph.match(IF)]
        return Listing("".join(f"{count} {threshold:.{self.digits}f}\n" for count, threshold in rows))

    def owns(self, artifact: Any) -> bool:
        return isinstance(artifact, Listing)

    def save(self, artifact: Listing, path: Path) -> None:
        path.write_text(artifact)


backend = Thresholds


class _Dense(Frontend):
    """Reads a text file that holds the weight matrix of one layer with ReLUs."""

    takes: ClassVar[str] = "a path ending in .dense"

    def accepts(self, model: Any) -> bool:
        return isinstance(model, Path) and model.suffix == ".dense"

    def input_names(self, model: Path) -> list[str]:
        return ["x"]

    def load(self, model: Path, examples: Any) -> spikec.Graph:
        weight = np.loadtxt(model, ndmin=2)
        graph = spikec.Graph(model.stem)
        x = graph.add(Input((weight.shape[1],), "float64"), name="x")
        graph.add(Output(), graph.add(Relu(), graph.add(Linear(weight), x, name="layer"), name="relu"), name="y")
        return graph


frontend = _Dense()
