"""What a network need not compute again from step to step, because its input is as it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor, nn

from spikec.backends.spikingjelly.events import EventLinear
from spikec.backends.spikingjelly.modules import AdaptiveAverage, Elementwise, InputPort, OpModule, Readout

_AXES = (1, 2, 3)
_TORCHS = ("Conv{}d", "ConvTranspose{}d", "ConstantPad{}d", "AvgPool{}d", "AdaptiveAvgPool{}d")
#: the classes, but no subclass, whose result follows from operands and parameters: a user's own may draw numbers
_FUNCTIONS = {
    *(getattr(nn, name.format(axes)) for name in _TORCHS for axes in _AXES),
    *(nn.Linear, EventLinear, nn.Flatten, nn.Upsample, nn.Sequential),
    *(AdaptiveAverage, Elementwise, InputPort, OpModule, Readout),
}


def is_function(part: nn.Module) -> bool:
    """Return whether what a part gives follows from its operands and parameters alone, and nobody sees it called."""
    inside = part.modules() if part._modules else (part,)
    return all(type(each) in _FUNCTIONS and not is_hooked(each) for each in inside)


def is_constant(x: Tensor) -> bool:
    """Return whether an input [T, B, ...] is the same at each step; on a GPU, whether that is known without waiting."""
    return x.stride(0) == 0 or (x.device.type == "cpu" and is_same(x[1:], x[:-1]))


def is_same(x: Tensor, y: Tensor) -> bool:
    """Return ``torch.equal`` of tensors of one dtype on the CPU: where numpy has it, a fifth of the time is enough."""
    if x.dtype not in (torch.float32, torch.float64):
        return torch.equal(x, y)
    one, other = (each.detach().resolve_neg().numpy() for each in (x, y))
    return np.array_equal(one, other)


@attrs.frozen(eq=False)
class Constants:
    """Values of a step, and what they were made of.

    Attributes:
        values: [B, ...], by node.
        inputs: copies of the inputs, as somebody may write into them, through an array of numpy's for instance.
        made_of: the parts, and what they hold: each as (table, name in it, what is there).
        versions: of the parameters and the values, which tell whether they were written to.
    """

    values: dict[str, Tensor]
    inputs: tuple[Tensor, ...]
    made_of: tuple[tuple[Mapping[str, Any], str, Any], ...]
    versions: tuple[tuple[Tensor, int | None], ...]

    @classmethod
    def of(cls, xs: Sequence[Tensor], network: nn.Module, parts: Sequence[str], values: dict[str, Tensor]) -> Constants:
        """Keep values that parts of a network have just made of inputs [B, ...]."""
        found: list[tuple[Mapping[str, Any], str, Any]]
        found = [(network._modules, name, network._modules[name]) for name in parts]
        for _, _, part in found:  # grows by what a part holds
            if isinstance(part, nn.Module):
                tables: tuple[Mapping[str, Any], ...] = (part._parameters, part._buffers, part._modules)
                found += [(table, name, held) for table in tables for name, held in table.items()]
        tensors = [*(held for *_, held in found if isinstance(held, Tensor)), *values.values()]
        versions = tuple((x, _version(x)) for x in tensors)
        return cls(values, tuple(x.clone() for x in xs), tuple(found), versions)

    def hold_for(self, xs: Sequence[Tensor]) -> bool:
        """Return whether the parts would give the values for these inputs too, without being seen to be called."""
        return (
            all(x.dtype == old.dtype and is_same(x, old) for x, old in zip(xs, self.inputs, strict=True))
            and all(table.get(name) is held for table, name, held in self.made_of)
            and not any(isinstance(held, nn.Module) and is_hooked(held) for *_, held in self.made_of)
            and all(_version(x) == version for x, version in self.versions)
        )


def is_hooked(part: nn.Module) -> bool:
    """Return whether somebody sees what a part is called with."""
    return bool(part._forward_hooks or part._forward_pre_hooks)


def _version(x: Tensor) -> int | None:
    """Return how often a tensor was written to; torch does not count it in inference mode."""
    return None if x.is_inference() else x._version
