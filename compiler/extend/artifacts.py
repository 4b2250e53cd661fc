"""What users may rely on in the artifacts of our targets: the types that ``spikec.compile`` is declared to return."""

import os
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

from spikec.ir.types import Array

DataT = TypeVar("DataT", Tensor, Array)


class SpikingModule(nn.Module):
    """A spiking network as a torch module, in the habits of SpikingJelly; ``spikingjelly`` emits a subclass.

    In step mode ``"s"`` a call is one time-step, [B, ...] in and out; in ``"m"`` it is all of them, [T, B, ...] in and
    out. The state goes on from call to call until :meth:`reset`.
    """

    @property
    def step_mode(self) -> str:
        """``"s"`` or ``"m"``, of this module and all its parts."""
        raise NotImplementedError

    @step_mode.setter
    def step_mode(self, value: str) -> None:
        raise NotImplementedError

    def reset(self) -> None:
        """Forget every state: call it before each new batch."""
        raise NotImplementedError


class IntegerModel(Protocol):
    """An integer network with the host's encoder in front of it; ``netx`` emits one."""

    def run(self, x: DataT, timesteps: int | None = None) -> DataT:
        """The mean output over T steps, in the ANN's units."""

    def simulate(self, x: Tensor | Array, timesteps: int | None = None) -> Any:
        """The outputs and every layer's spikes."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the target's file."""
