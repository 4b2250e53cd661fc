"""The target ``spikingjelly``: a self-contained ``torch.nn.Module`` in SpikingJelly's habits."""

import io
import keyword
import math
from pathlib import Path
from typing import Any, ClassVar

import attrs
import torch
from torch import nn

from spikec.backends.spikingjelly.converters import module_for
from spikec.backends.spikingjelly.events import EventLinear
from spikec.backends.spikingjelly.network import ModuleCall, SpikingNetwork
from spikec.extend.backend import NEURON_BUDGET, Backend, at_least_one
from spikec.extend.passbase import Context, rounds
from spikec.ir.graph import Graph


@attrs.frozen
class SpikingJelly(Backend):
    """Emits a :class:`SpikingNetwork`; thresholds may have any shape, and every op of the graph runs.

    Attributes:
        counters: max-pools count spikes, which is nearer to the ANN and takes fewer neurons; False makes them sums of
            neurons that compare, as the exports have them.
        streams: layers take a bias for each step, tuned for ``timesteps``.
        events: linear layers add up the weights of the neurons that fired, whenever few did, see
            :class:`spikec.backends.spikingjelly.events.EventLinear`; the rounding is another one.
        accumulate: products of two signals, norms and softmax are carried as running differences of what they give for
            the means of their operands, see :class:`spikec.ir.ops.RunningDifference`: exact in the limit of many steps,
            but no spikes, and so for simulation only.
        neurons: for each value of a ReLU: k of them say in T steps what one says in k T. With a fraction, such as 1.5,
            how many times as many neurons there may be, see ``replicate-neurons``.
        neuron_budget: how many neurons a product of two matrices of signals may take; one that takes more is refused.
    """

    name: ClassVar[str] = "spikingjelly"
    suffix: ClassVar[str] = ".pt"
    potentials: ClassVar[bool] = True
    weighs: ClassVar[bool] = True
    artifacts: ClassVar[tuple[type, ...]] = (SpikingNetwork,)

    counters: bool = attrs.field(default=True, validator=attrs.validators.instance_of(bool))
    streams: bool = attrs.field(default=False, validator=attrs.validators.instance_of(bool))
    events: bool = attrs.field(default=False, validator=attrs.validators.instance_of(bool))
    accumulate: bool = attrs.field(default=False, validator=attrs.validators.instance_of(bool))
    neurons: float = attrs.field(default=1, validator=at_least_one)
    neuron_budget: int = attrs.field(default=NEURON_BUDGET, validator=rounds())

    @property
    def accumulates(self) -> bool:
        """True where the user asked for it."""
        return self.accumulate

    def emit(self, graph: Graph, context: Context) -> SpikingNetwork:
        """Make the module, on the model's device, in evaluation mode and step mode ``"s"``."""
        plan: list[ModuleCall] = []
        parts: dict[str, nn.Module] = {}
        for name in graph:
            part = _attribute(name, parts)
            made = module_for(graph[name], graph.type(name))
            parts[part] = EventLinear.of(made) if self.events and type(made) is nn.Linear else made
            plan.append(ModuleCall.of(name, part, graph.operands(name), graph[name], math.prod(graph.type(name).shape)))
        network = SpikingNetwork(graph.name, plan, parts, graph.inputs, graph.outputs, graph.imported.structure)
        return network.eval().to(graph.imported.device)

    def save(self, artifact: Any, path: Path) -> None:
        """Pickle the whole module; ``torch.load(path, weights_only=False)`` reads it.

        It is written in memory first, because torch puts the file's name into the file, and refuses some names. What
        is written is the module as it would be read: a pickle also holds which of its equal strings are one object,
        which is not the same in a module that was made and one that was read.
        """
        path.write_bytes(_pickled(torch.load(io.BytesIO(_pickled(artifact)), weights_only=False)))


def _pickled(module: nn.Module) -> bytes:
    buffer = io.BytesIO()
    torch.save(module, buffer)
    return buffer.getvalue()


def _attribute(name: str, taken: dict[str, nn.Module]) -> str:
    """Return the node's name, with underscores behind it where the module or Python has another use for it."""
    while name in taken or name in _RESERVED or keyword.iskeyword(name):
        name += "_"
    return name


_RESERVED = frozenset(dir(SpikingNetwork("", (), {}, (), (), 0)))

backend = SpikingJelly
