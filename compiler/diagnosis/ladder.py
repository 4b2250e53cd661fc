"""The networks between the ANN and the SNN, each with one more source of error, and what each of them answers."""

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import attrs
import numpy as np
from torch import Tensor

from spikec.diagnosis.layers import Layers, clip, ideal
from spikec.diagnosis.record import OWN, Moments, Rung
from spikec.interpreter.inputs import within
from spikec.interpreter.interp import run
from spikec.interpreter.results import as_tuple, in_ann_units, outputs
from spikec.ir.errors import CalibrationError, InvalidModelError
from spikec.ir.graph import Graph
from spikec.ir.op import Op, Role, StatefulOp
from spikec.ir.ops import Relu
from spikec.ir.types import Array

#: what the network is once it has the source of error that each rung adds, in the order of ``OWN``
_RUNGS = (
    "the ANN with the SNN's thresholds",
    "+ T steps, each layer after the other",
    "+ all layers at once: the SNN",
)


@attrs.frozen(eq=False)
class _Analog(Op):
    """A neuron's or a ReLU's place in a network without time."""

    kind: ClassVar[str] = "analog"
    role: ClassVar[Role] = Role.LINEAR
    arity: ClassVar[int | None] = None

    meaning: Callable[..., Tensor]

    def eval(self, *xs: Tensor) -> Tensor:
        return self.meaning(*xs)


def clipped(layers: Layers) -> Graph:
    """The ANN with every ReLU clipped at its neurons' scale: the limit for T to infinity."""
    found = layers.ann.copy()
    for node in found.match(Relu):
        if names := layers.makers[node.name]:
            meaning = functools.partial(clip, ceiling=layers.ceiling(node.name), shape=layers.sums[names[0]].shape)
            found.set_op(node.name, _Analog(meaning, origin=node.op.origin))
    return found


def synchronous(graph: Graph, timesteps: int) -> Graph:
    """A spiking graph with every stateful op replaced by what it puts out on average: each layer waits for all T."""
    found = graph.copy()
    for node in graph.match(StatefulOp):
        found.set_op(node.name, _Analog(functools.partial(ideal, node.op, timesteps), origin=node.op.origin))
    return found


class Ladder:
    """What each network answers, summed over batches: the clipped ANN, the synchronous one, the SNN up to each step.

    Args:
        model: the ANN as imported.
        layers: of the final graph.

    Attributes:
        samples: how many were run.
    """

    def __init__(self, model: Graph, layers: Layers) -> None:
        self.model, self.graph = model, layers.graph
        self._clipped, self._synchronous = clipped(layers), synchronous(layers.graph, layers.timesteps)
        self.samples, self._labelled, self._ann_right = 0, False, 0.0
        self._ann = [Moments() for _ in model.outputs]
        networks, outs = 2 + layers.timesteps, len(model.outputs)
        # samples with the ANN's argmax, and with the label; squared differences from the ANN, and from the rung before
        self._agreed, self._right, self._squares = np.zeros(networks), np.zeros(networks), np.zeros((networks, outs))
        self._steps = np.zeros((len(_RUNGS), outs))

    def add(self, xs: Sequence[Tensor], truth: Tensor | None, over_time: Iterable[list[Tensor]]) -> None:
        """Take a batch, its labels, and what the SNN says of it up to each step.

        Raises:
            CalibrationError: only some batches have labels, or they are no classes of the model.
            InvalidModelError: there are labels, and not one output with classes.
        """
        if self.samples and self._labelled != (truth is not None):
            raise CalibrationError("some batches have labels, and some have none")
        self._labelled = truth is not None
        wanted = outputs(self.model, xs, 1)
        if truth is not None:
            if len(wanted) != 1 or wanted[0].ndim != 2:
                shapes = " and ".join(str(["B", *out.shape[1:]]).replace("'", "") for out in wanted)
                raise InvalidModelError(f"labels need one output [B, classes], the model gives {shapes}")
            within(truth, wanted[0].shape[1])
            self._ann_right += _hits(wanted[0], truth)
        for moments, output in zip(self._ann, wanted, strict=True):
            moments.add(output)
        bound = outputs(self._clipped, xs, 1)
        waiting = said = in_ann_units(self.graph, as_tuple(run(self._synchronous, xs)))
        for i, said in enumerate(itertools.chain([bound, waiting], over_time)):
            self._squares[i] += _squares(said, wanted)
            self._agreed[i] += sum(_hits(a, _class(b)) for a, b in zip(said, wanted, strict=True)) / len(wanted)
            self._right[i] += 0 if truth is None else _hits(said[0], truth)
        self._steps += [_squares(bound, wanted), _squares(waiting, bound), _squares(said, waiting)]
        self.samples += len(xs[0])

    def figures(self, tolerance: float) -> dict[str, Any]:
        """Those fields of :class:`spikec.diagnosis.diagnosis.Diagnosis` that are about answers, over all batches."""
        agreement, right = self._agreed / self.samples, self._right / self.samples
        error, step = self._relative(self._squares), self._relative(self._steps)
        rungs = tuple(
            Rung(name, kind, float(step[i]), float(error[at]), float(agreement[at]), accuracy)
            for i, (at, kind, name) in enumerate(zip((0, 1, -1), OWN, _RUNGS, strict=True))
            for accuracy in [float(right[at]) if self._labelled else None]
        )
        single = all(moments.total.numel() == 1 for moments in self._ann)
        return {
            "samples": self.samples,
            "rungs": rungs,
            "agreement": agreement[2:],
            "error": error[2:],
            "accuracy": right[2:] if self._labelled else None,
            "ann_accuracy": self._ann_right / self.samples if self._labelled else None,
            "tolerance": tolerance,
            "enough": _enough(error[2:] if single else 1 - agreement[2:], tolerance),
        }

    def _relative(self, squares: Array) -> Array:
        """Root mean squares of differences [..., outputs], relative to the outputs' spread over the samples."""
        spreads = [each.spread or float(each.squares.sum()) or 1.0 for each in self._ann]
        return np.asarray(np.sqrt((squares / spreads).mean(-1)))


def _enough(off: Array, tolerance: float) -> int | None:
    """The first step from which on the tolerance is kept."""
    broken = np.flatnonzero(off > tolerance)
    first = int(broken[-1]) + 2 if len(broken) else 1
    return first if first <= len(off) else None


def _class(output: Tensor) -> Tensor:
    return output.flatten(1).argmax(1)


def _hits(output: Tensor, classes: Tensor) -> float:
    return float((_class(output) == classes).sum())


def _squares(one: Sequence[Tensor], other: Sequence[Tensor]) -> Array:
    return np.array([float((a - b).square().sum()) for a, b in zip(one, other, strict=True)])
