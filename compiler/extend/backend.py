"""What a backend is: a final Graph in, the target's own object out; what users may rely on in those of our targets."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import attrs
from torch import Tensor, nn

from spikec.extend.configured import Configured
from spikec.extend.passbase import Context, Pass
from spikec.interpreter.inputs import is_number
from spikec.ir.errors import CompileError, Problem, shown
from spikec.ir.graph import Graph
from spikec.ir.stages import FINAL
from spikec.ir.types import Array

#: neurons that a product of two matrices of signals may take, where a target says nothing else
NEURON_BUDGET = 1 << 22

DataT = TypeVar("DataT", Tensor, Array)


def at_least_one(_: Any, attribute: Any, value: Any) -> None:
    """Validate an option that is a number from 1 on, which may have a fraction."""
    if not is_number(value) or not 1 <= value < math.inf:
        raise CompileError(f"{attribute.name} is {shown(value)}", hint="give a number from 1 on, such as 2 or 1.5")


@attrs.frozen
class Backend(metaclass=Configured):
    """A target. Subclass it with ``@attrs.frozen``; the fields are the target's options.

    A folder or file ``backends/<name>`` holds the class as ``backend``; ``spikec.compile`` also takes an instance.
    The properties are what the target can do, for the passes to go by; a field or class variable may stand for one.

    Attributes:
        name: what users say; the folder's name.
        suffix: of the files that ``save`` writes.
        aliases: other suffixes, by which such files are known as well.
        order: the name of its order of passes, of those in ``compiler/pipeline/orders.py``.
        artifacts: the classes of what ``emit`` returns, for ``owns``.
        shared: its options that a frontend of that name means alike; of others the frontend is not told.

    Examples:
        >>> @attrs.frozen
        ... class Thresholds(spikec.Backend):
        ...     name = "thresholds"
        ...     def emit(self, graph, context):
        ...         return [float(node.op.v_threshold.max()) for node in graph.with_role(spikec.Role.NEURON)]
        >>> spikec.compile(model, Thresholds(), calibration=images, normalization="max")
        [1.0]
    """

    what: ClassVar[str] = "target"
    name: ClassVar[str]
    suffix: ClassVar[str] = ""
    aliases: ClassVar[tuple[str, ...]] = ()
    order: ClassVar[str] = "default"
    artifacts: ClassVar[tuple[type, ...]] = ()
    shared: ClassVar[tuple[str, ...]] = ("dt",)

    @property
    def potentials(self) -> bool:
        """True if every neuron of a layer may start at a potential of its own."""
        return False

    @property
    def streams(self) -> bool:
        """True if currents that differ from step to step can be fed to a layer, and are wanted."""
        return False

    @property
    def counters(self) -> bool:
        """True if a max-pool that counts spikes can be run, and is wanted."""
        return False

    @property
    def weighs(self) -> bool:
        """True if outputs may be averages in which later steps count more, see ``weigh-readout``."""
        return False

    @property
    def accumulates(self) -> bool:
        """True if products, norms and softmax are to be carried as running differences, without neurons."""
        return False

    @property
    def neuron_budget(self) -> int:
        """How many neurons a product of two matrices of signals may take; 0 where the shapes for it are missing."""
        return NEURON_BUDGET

    @property
    def thresholds(self) -> str:
        """``"any"`` if a threshold may have any shape, ``"uniform"`` if the neurons of a layer share one."""
        return "any"

    @property
    def averages(self) -> tuple[int, ...]:
        """By their number of spatial axes, the average pools that are run as such; the others become sums."""
        return ()

    @property
    def fires(self) -> str:
        """``">"`` or ``">="``: how a neuron compares its potential with its threshold."""
        return ">="

    @property
    def reset(self) -> str:
        """``"soft"``, ``"hard"``, or ``"auto"`` for what suits: the one kind of reset that all neurons have."""
        return "auto"

    @property
    def neurons(self) -> float:
        """How many neurons stand for each value of a ReLU; with a fraction, how many times as many there may be."""
        return 1

    @property
    def reader(self) -> str:
        """The ``reader`` with which :func:`spikec.load` reads what is emitted as its tool runs it; ``""`` for none."""
        return ""

    def mends(self, graph: Graph) -> str:
        """Return the reader's code by which neurons of the final graph subtract there; ``""`` where there is none."""
        return ""

    @property
    def as_read(self) -> Sequence[Pass | str]:
        """Passes that make the neurons what the target's reader makes of them, before biases are corrected."""
        return ()

    @property
    def takes_spikes(self) -> bool:
        """True if its inputs are spikes, and not numbers that are to be made into spikes."""
        return False

    @property
    def forms(self) -> Sequence[Pass | str]:
        """Passes that write the graph in the forms that the target's readers have, if its order has room for them."""
        return ()

    def passes(self, timesteps: int | None) -> Sequence[Pass | str] | None:
        """An order of its own from spiking graphs on, for a target that none of the orders suits; None for ``order``.

        Args:
            timesteps: the T that the user means to run, or None.
        """
        return None

    def check(self, graph: Graph) -> list[Problem]:
        """Every reason why this target cannot carry the final graph; a cast between scales is one."""
        return FINAL.problems(graph)

    def emit(self, graph: Graph, context: Context) -> Any:
        """The artifact; called only with a graph in which ``check`` finds nothing."""
        raise CompileError(f"target {self.name} emits nothing", hint="define its emit(self, graph, context)")

    def owns(self, artifact: Any) -> bool:
        """True for an artifact of this target."""
        return isinstance(artifact, self.artifacts)

    def save(self, artifact: Any, path: Path) -> None:
        """Write an artifact to a path that nobody else looks at yet."""
        raise NotImplementedError


class StepModule(nn.Module):
    """A module whose input is one step, [B, ...], in step mode ``"s"``, and all of them, [T, B, ...], in ``"m"``."""

    _step_mode = "s"

    @property
    def step_mode(self) -> str:
        """How ``forward`` of this module and all its parts takes its input, ``"s"`` or ``"m"``."""
        return self._step_mode

    @step_mode.setter
    def step_mode(self, value: str) -> None:
        if value not in ("s", "m"):
            raise CompileError(f"step_mode is {value!r}", hint='give "s" (input [B, ...]) or "m" (input [T, B, ...])')
        for part in self.modules():
            if isinstance(part, StepModule):
                vars(part)["_step_mode"] = value  # torch's __setattr__ takes as long as a small layer


class SpikingModule(nn.Module):
    """A spiking network as a torch module, in the habits of SpikingJelly; ``spikingjelly`` emits a subclass.

    In step mode ``"s"`` a call is one time-step, [B, ...] in and out; in ``"m"`` it is all of them, [T, B, ...] in and
    out. The state goes on from call to call until :meth:`reset`.
    """

    #: ``"s"`` or ``"m"``, of this module and all its parts
    step_mode: str

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
