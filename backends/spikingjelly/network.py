"""The outer module, which runs its parts in the graph's order, step by step or all steps at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from spikec.backends.spikingjelly.modules import StatefulModule, is_exporting
from spikec.extend.backend import SpikingModule, StepModule
from spikec.ir.errors import InvalidModelError
from spikec.ir.op import Op


@attrs.frozen
class ModuleCall:
    """What a network does for one node of the graph: it calls a submodule.

    Attributes:
        node: the graph's node.
        part: name of the submodule.
        operands: nodes whose values it takes.
        kind: the class of the node's op.
        fields: the op's fields, but for the arrays: those the submodule has, under the same names.
    """

    node: str
    part: str
    operands: tuple[str, ...]
    kind: type[Op]
    fields: dict[str, Any]

    @classmethod
    def of(cls, node: str, part: str, operands: tuple[str, ...], op: Op) -> ModuleCall:
        """Make the call for an op."""
        values = ((field, getattr(op, field.name)) for field in attrs.fields(type(op)))
        fields = {field.name: value for field, value in values if value is None or not field.metadata.get("array")}
        return cls(node, part, operands, type(op), fields)


class SpikingNetwork(StepModule, SpikingModule):
    """A spiking network as a torch module, see :class:`spikec.extend.backend.SpikingModule`.

    The mean of the output over T approximates the ANN's: it is in the ANN's units and in the model's own container.

    To ONNX, TorchScript and ``torch.export`` it goes in step mode ``"m"``, or called step by step by a module whose
    forward resets it before: what is exported has no state from one call to the next.

    Args:
        name: of the model.
        plan: the calls in order.
        parts: the submodules by name.
        inputs, outputs: nodes, in the model's order.
        structure: the model's output container, with positions of ``outputs`` as leaves.
    """

    def __init__(
        self,
        name: str,
        plan: Sequence[ModuleCall],
        parts: dict[str, nn.Module],
        inputs: Sequence[str],
        outputs: Sequence[str],
        structure: Any,
    ) -> None:
        super().__init__()
        self.name = name
        self.plan = tuple(plan)
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.structure = structure
        for key, part in parts.items():
            self.add_module(key, part)
        self._exported_from_reset = False

    def reset(self) -> None:
        """Forget every state: call it before each new batch."""
        for part in self._stateful():
            part.reset()
        self._exported_from_reset = is_exporting()

    def forward(self, *xs: Tensor) -> Any:
        """Run one step or all, by ``step_mode``; there is one tensor an input."""
        if len(xs) != len(self.inputs):
            hint = f"call it as net({', '.join(self.inputs)})"
            raise InvalidModelError(f"the model has {len(self.inputs)} input(s), got {len(xs)}", hint=hint)
        axes = 1 if self.step_mode == "s" else 2
        if any(x.shape[:axes] != xs[0].shape[:axes] for x in xs[1:]):
            found = ", ".join(str(list(x.shape)) for x in xs)
            hint = 'give one batch size, and in step_mode "m" one number of steps, for all'
            raise InvalidModelError(f"the inputs differ in batch size or steps: {found}", hint=hint)
        self._exported_from_reset &= is_exporting()
        if self.step_mode == "s":
            self._refuse_lost_state()
            results = self._sweep(xs, 0)
        elif any(self._is_register(call) for call in self.plan):
            results = self._stepwise(xs)
        else:
            steps = _steps(xs)
            flat = self._sweep([x.flatten(0, 1) for x in xs], steps)
            results = [_unfold(y, steps) for y in flat]
        return _fill(self.structure, results)

    def _refuse_lost_state(self) -> None:
        """Raise an InvalidModelError where a step is exported alone: what is exported would do step 0 at each call."""
        if is_exporting() and not self._exported_from_reset and self._stateful():
            raise InvalidModelError(
                "a single step is exported, and what is exported has no state for the next one",
                hint='set step_mode = "m" and give all steps, or export a module that calls reset() and then each step',
            )

    def _sweep(self, xs: Sequence[Tensor], steps: int) -> list[Tensor]:
        """Make every call once, and return the outputs.

        Without ``steps`` this is one step, of values [B, ...]. With it, it is all steps at once: values are [T*B, ...],
        so that layers without a state run once, and parts with a state are given [T, B, ...].
        """
        values: dict[str, Tensor] = {}
        feeds = dict(zip(self.inputs, xs, strict=True))
        for call in self.plan:
            part = self.get_submodule(call.part)
            if self._is_register(call):
                values[call.node] = self._emitted(part, xs[0])
                continue
            operands = [feeds[call.node]] if call.node in feeds else [values[x] for x in call.operands]
            if steps and isinstance(part, StatefulModule):
                result = part(*[_unfold(x, steps) for x in operands]).flatten(0, 1)
            else:
                result = part(*operands)
            values[call.node] = result
        for call in self.plan:
            if self._is_register(call):
                self.get_submodule(call.part)(*[values[x] for x in call.operands])
        return [values[name] for name in self.outputs]

    def _stepwise(self, xs: Sequence[Tensor]) -> list[Tensor]:
        """Return the outputs of a recurrent graph, which is run as a whole step after step."""
        _steps(xs)
        before = [(part, part.v) for part in self._stateful()]
        try:
            for part, _ in before:
                part._step_mode = "s"
            steps = [self._sweep(step, 0) for step in zip(*xs, strict=True)]
        finally:
            for part, _ in before:
                part._step_mode = "m"
        if is_exporting():
            for part, state in before:
                part.v = state
        return [torch.stack(column) for column in zip(*steps, strict=True)]

    def _stateful(self) -> list[StatefulModule]:
        return [part for part in self.modules() if isinstance(part, StatefulModule)]

    def _is_register(self, call: ModuleCall) -> bool:
        part = self.get_submodule(call.part)
        return isinstance(part, StatefulModule) and part.kind.register

    @staticmethod
    def _emitted(part: nn.Module, like: Tensor) -> Tensor:
        """Return what a register gives at this step: its state. It takes its operand once all calls are made."""
        assert isinstance(part, StatefulModule)
        part.v = part.started(part.v, like)
        return part.v

    def extra_repr(self) -> str:
        """Show the model's name and the step mode."""
        return f"{self.name}, step_mode={self.step_mode!r}"


def _steps(xs: Sequence[Tensor]) -> int:
    """Return T of inputs [T, B, ...], or raise an InvalidModelError."""
    if any(x.ndim < 2 or len(x) != len(xs[0]) for x in xs) or len(xs[0]) < 1:
        shapes = ", ".join(str(list(x.shape)) for x in xs)
        raise InvalidModelError(
            f'in step_mode "m" an input is [T, B, ...] with at least one step, got {shapes}',
            hint='give [T, B, ...], or set step_mode = "s" and call it once a step',
        )
    return len(xs[0])


def _unfold(x: Tensor, steps: int) -> Tensor:
    """Return [T*B, ...] as [T, B, ...]."""
    return x.reshape(steps, x.shape[0] // steps, *x.shape[1:])


def _fill(structure: Any, results: Sequence[Tensor]) -> Any:
    """Return the container with each position replaced by that output."""
    if isinstance(structure, int):
        return results[structure]
    if isinstance(structure, dict):
        return {key: _fill(value, results) for key, value in structure.items()}
    if isinstance(structure, tuple) and hasattr(structure, "_fields"):
        return type(structure)(*(_fill(value, results) for value in structure))
    if dataclasses.is_dataclass(structure) and not isinstance(structure, type):
        fields = dataclasses.fields(structure)
        return type(structure)(**{field.name: _fill(getattr(structure, field.name), results) for field in fields})
    if isinstance(structure, (list, tuple)):
        return type(structure)(_fill(value, results) for value in structure)
    return structure
