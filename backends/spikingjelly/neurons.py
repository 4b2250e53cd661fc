"""Neurons as torch modules with SpikingJelly's names and habits; each runs the step of its op."""

from typing import Any

import attrs
import numpy as np
from torch import Tensor

from spikec.backends.spikingjelly.modules import StatefulModule, span
from spikec.ir.ops import IF, LIF, CubaLIF, Neuron

#: fields that a module does not hold: the graph says where a neuron is from, and what its spikes stand for
OF_THE_GRAPH = {"origin": (), "out_scale": None}


class NeuronNode(StatefulModule):
    """Runs any neuron; the fields of its op are attributes, which may be changed. Arrays are buffers, or None."""

    v_threshold: Tensor
    v_reset: Tensor | None
    v_init: Tensor

    def __init__(self, kind: type[Neuron], **fields: Any) -> None:
        held: dict[str, Any] = {}
        for field in attrs.fields(kind):
            if field.name in OF_THE_GRAPH:
                continue
            value = fields.pop(field.name, field.default)
            if value is attrs.NOTHING:
                raise TypeError(f"{type(self).__name__} of {kind.__name__} needs {field.name}")
            held[field.name] = held["v_threshold"].new_tensor(value) if isinstance(value, np.ndarray) else value
        if fields:
            raise TypeError(f"{type(self).__name__} of {kind.__name__} has no {', '.join(fields)}")
        super().__init__(kind, held, OF_THE_GRAPH)

    def extra_repr(self) -> str:
        """Show threshold, reset and step mode, then what else is not as it is by default."""
        values = {name: getattr(self, name) for name in self.held}
        first = {name: values.pop(name) for name in ("v_threshold", "v_reset", "v_init")}
        defaults = {field.name: field.default for field in attrs.fields(self.kind)}
        others = {k: v for k, v in values.items() if isinstance(v, Tensor) or v != defaults[k]}
        shown = {**first, "step_mode": self.step_mode, **others}
        texts = (f"{k}={span(v) if isinstance(v, Tensor) else repr(v)}" for k, v in shown.items())
        return ", ".join([self.kind.kind] * (type(self) is NeuronNode) + list(texts))


class IFNode(NeuronNode):
    """Integrate-and-fire, see :class:`spikec.ir.ops.IF`."""

    def __init__(
        self, v_threshold: Tensor, v_reset: Tensor | None = None, v_init: Tensor | None = None, *, strict: bool = False
    ) -> None:
        start = {} if v_init is None else {"v_init": v_init}
        super().__init__(IF, v_threshold=v_threshold, v_reset=v_reset, strict=strict, **start)


class LIFNode(NeuronNode):
    """Leaky integrate-and-fire, see :class:`spikec.ir.ops.LIF`; ``tau`` is in steps."""

    def __init__(self, v_threshold: Tensor, *, tau: Tensor, **fields: Any) -> None:
        super().__init__(LIF, v_threshold=v_threshold, tau=tau, **fields)


class CubaLIFNode(NeuronNode):
    """Current-based LIF, see :class:`spikec.ir.ops.CubaLIF`; ``v`` holds the potential and the current, [B, 2, ...]."""

    def __init__(self, v_threshold: Tensor, *, decay_syn: Tensor, decay: Tensor, **fields: Any) -> None:
        super().__init__(CubaLIF, v_threshold=v_threshold, decay_syn=decay_syn, decay=decay, **fields)
