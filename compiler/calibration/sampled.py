"""An even sample of one node's values, which tells how they are distributed."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from spikec.ir.errors import CalibrationError
from spikec.ir.types import Array

#: values that are kept of a node at most
KEPT = 1 << 16
#: every so many-th value stays where there are more; odd, so that the places of a map, mostly powers of two, take turns
_THINNED = 3


class Sampler:
    """Keeps at most 65,536 of a node's values: evenly dealt ones, the least and the greatest of all among them."""

    def __init__(self) -> None:
        self._stride = 1
        self._kept = torch.zeros(0, dtype=torch.float64)
        self._ends: tuple[float, ...] = ()

    def add(self, values: Tensor) -> None:
        """Take in the values of a batch, of any shape.

        Raises:
            CalibrationError: one is not finite.
        """
        if not values.numel():
            return
        flat = values.detach().reshape(-1)
        ends = torch.stack(flat.aminmax()).double().cpu().tolist()
        if not np.isfinite(ends).all():
            raise CalibrationError("a value is not finite", hint="mend the data or the weights")
        self._ends = (min(self._ends[:1] + (ends[0],)), max(self._ends[1:] + (ends[1],)))
        self._kept = torch.cat([self._kept, flat[:: self._stride].double().cpu()])
        while len(self._kept) > KEPT:
            self._kept = self._kept[::_THINNED]
            self._stride *= _THINNED

    def result(self) -> Array:
        """Return the kept values, rising, float64; the outer ones are the least and the greatest of all."""
        values = np.sort(self._kept.numpy())
        values[0], values[-1] = self._ends
        return values
