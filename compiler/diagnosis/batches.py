"""The samples that a network is diagnosed on, with their class numbers."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spikec.calibration.source import Batches
from spikec.interpreter.inputs import as_input, class_numbers
from spikec.ir.errors import CalibrationError

#: samples of a single tensor are run in batches of this size
BATCH = 64


def batches_of(x: Any, names: Sequence[str], labels: Any) -> Iterator[tuple[tuple[Tensor, ...], Tensor | None]]:
    """Input tensors and class numbers, batch by batch; the latter stand behind a batch's inputs, or in ``labels``."""
    if isinstance(x, (Tensor, np.ndarray)):
        x = list(torch.split(as_input(x, CalibrationError, "x"), BATCH))
    beside: list[Any] = []

    def set_aside(batches: Iterable[Any]) -> Iterator[Any]:
        for batch in batches:
            behind = isinstance(batch, (tuple, list)) and len(batch) > len(names)
            beside.append(batch[len(names)] if behind else None)
            yield batch

    in_batches = isinstance(x, Iterable) and not isinstance(x, (str, Mapping, tuple))
    given = None if labels is None else class_numbers(labels)
    done = 0
    for i, xs in enumerate(Batches(set_aside(x) if in_batches else x, names, "x")):
        truth = beside[i] if in_batches else None
        if given is not None:
            truth = given[done : done + len(xs[0])]
        elif truth is not None:
            truth = class_numbers(truth)
        done += len(xs[0])
        if truth is not None and len(truth) != len(xs[0]):
            message = f"{len(truth)} labels for a batch of {len(xs[0])} samples"
            raise CalibrationError(message, hint="give one class number a sample")
        yield xs, truth
    if given is not None and len(given) != done:
        raise CalibrationError(f"{len(given)} labels for {done} samples", hint="give one class number a sample")
