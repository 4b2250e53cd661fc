"""Keeps a few samples of a data set, the same ones in whatever order and parts it comes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import attrs
import numpy as np
import torch
from torch import Tensor

from spikec.ir.types import Array

#: how many samples are kept for passes that look at data themselves
RETAINED = 256


@attrs.frozen(eq=False)
class Retained:
    """At most 256 samples: those whose contents hash to the smallest numbers, in that order.

    Attributes:
        inputs: a tensor [N, ...] on the CPU for each input of the model, float32 at least.
        marks: uint64 [N], the hashes.
    """

    inputs: tuple[Tensor, ...]
    marks: Array

    @classmethod
    def of(cls, batch: Sequence[Tensor]) -> Retained:
        """Keep the samples of one batch."""
        inputs = tuple(x.detach().cpu().to(torch.promote_types(x.dtype, torch.float32)) for x in batch)
        flat = [x.reshape(len(x), -1).contiguous().view(torch.uint8).numpy() for x in inputs]
        marks = np.array([_mark(parts) for parts in zip(*flat, strict=True)], dtype=np.uint64)
        return cls(inputs, marks)._least()

    def merge(self, other: Retained) -> Retained:
        """Keep the samples that would be kept of both sets together."""
        if len(self.marks) == RETAINED and self.marks[-1] <= other.marks[0]:
            return self
        inputs = tuple(torch.cat(pair) for pair in zip(self.inputs, other.inputs, strict=True))
        return Retained(inputs, np.concatenate([self.marks, other.marks]))._least()

    def _least(self) -> Retained:
        order = np.argsort(self.marks, kind="stable")[:RETAINED]
        chosen = torch.from_numpy(order)
        return Retained(tuple(x[chosen] for x in self.inputs), self.marks[order])


def _mark(parts: Sequence[Array]) -> int:
    found = hashlib.sha256()
    for part in parts:
        found.update(part.data)
    return int.from_bytes(found.digest()[:8], "big")
