"""What nodes of an ANN are given on the calibration samples."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from spikec.extend.passbase import Context
from spikec.interpreter.interp import run
from spikec.ir.errors import CalibrationError, Hint, Option
from spikec.ir.graph import Graph, Node
from spikec.ir.op import Op
from spikec.ir.ops import Head

#: calibration samples that are run at once
_BATCH = 32


def on_samples(graph: Graph, nodes: Sequence[Node[Op]], context: Context, look: Callable[[str, Tensor], None]) -> None:
    """Run an ANN on the calibration samples, and show the operands of some nodes.

    Args:
        look: takes an operand's name and its values, [B, ...], for one batch of samples after the other.

    Raises:
        CalibrationError: there are none; it names every node.
    """
    try:
        samples, reason = context.samples, "no calibration data"
    except CalibrationError as error:
        samples, reason = (), error.problems[0].message
    if not samples:
        hint = Hint("pass ", Option("calibration"), ": a tensor, a DataLoader, or a Calibration of this model")
        message = f"{{}} becomes neurons by the values that it is given, and there is {reason}"
        kinds = [str(node.op) if isinstance(node.op, Head) else node.op.kind for node in nodes]
        raise CalibrationError(
            [graph.problem(node.name, message.format(kind), hint) for node, kind in zip(nodes, kinds, strict=True)]
        )
    names = {x for node in nodes for x in graph.operands(node.name)}
    dtype = getattr(torch, graph.type(graph.inputs[0]).dtype)
    for start in range(0, len(samples[0]), _BATCH):
        batch = [x[start : start + _BATCH].to(dtype) for x in samples]
        run(graph, batch, tap=lambda name, value, *_: look(name, value.detach()), nodes=names)
