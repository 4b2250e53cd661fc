"""Accuracy over time."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spikec.interpreter.inputs import as_input, class_numbers, whole_number, within
from spikec.interpreter.interp import outputs_over_time, run
from spikec.ir.errors import CalibrationError, InvalidModelError
from spikec.ir.graph import Graph
from spikec.ir.op import tensor, tensor_cache
from spikec.ir.types import Array


def evaluate(snn: nn.Module | Graph, loader: Iterable[Any], timesteps: int) -> Array:
    """Top-1 accuracy after each time-step, of the output's running mean up to that step.

    Args:
        snn: a spiking torch module (``step_mode`` "s"), or a Graph with one output; an ANN graph gives the
            same accuracy at every step.
        loader: batches ``(x [B, ...], labels [B])``.
        timesteps: number of steps T; x is fed at each of them.

    Returns:
        [T] accuracies in [0, 1].

    Raises:
        CalibrationError: the loader is empty, its batches are no pairs, or its labels no classes of the model.
        InvalidModelError: not a model with a single output.
    """
    timesteps = whole_number("timesteps", timesteps, 1)
    hits, total = np.zeros(timesteps), 0
    for batch in loader:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise CalibrationError("a batch is not a pair (x, labels)", hint="give a loader of (x, labels)")
        x, labels = as_input(batch[0]), class_numbers(batch[1])
        if len(labels) != len(x):
            raise CalibrationError(f"{len(labels)} labels for a batch of {len(x)} samples")
        mean: Tensor | None = None
        for t, out in enumerate(_outputs(snn, x, timesteps)):
            if out.ndim != 2:
                raise InvalidModelError(f"the output has shape {tuple(out.shape)}, accuracy needs [B, classes]")
            if mean is None:
                within(labels, out.shape[1])
            mean = out if mean is None else mean + (out - mean) / (t + 1)
            hits[t] += int((mean.argmax(1).cpu() == labels).sum())
        total += len(labels)
    if total == 0:
        raise CalibrationError("the loader is empty", hint="give at least one batch")
    return hits / total


def _outputs(snn: nn.Module | Graph, x: Tensor, timesteps: int) -> Iterable[Tensor]:
    if isinstance(snn, Graph):
        if len(snn.outputs) != 1:
            raise InvalidModelError(f"graph {snn.name} has {len(snn.outputs)} outputs, accuracy needs one")
        if not snn.is_spiking:
            out = run(snn, x)
            yield from (out for _ in range(timesteps))
            return
        with torch.no_grad(), tensor_cache():
            for (out,) in outputs_over_time(snn, [x], timesteps):
                yield out * tensor(snn.type(snn.outputs[0]).scale, out)
        return
    reset = getattr(snn, "reset", None)
    if not isinstance(snn, nn.Module) or not callable(reset):
        raise InvalidModelError(
            f"a {type(snn).__name__} is neither a Graph nor a spiking module with reset()",
            hint="give what compile(..., target='spikingjelly') returned",
        )
    like = next((t for t in (*snn.parameters(), *snn.buffers())), x)
    x = x.to(like.device, like.dtype)
    reset()
    with torch.no_grad():
        for _ in range(timesteps):
            yield snn(x)
    reset()
