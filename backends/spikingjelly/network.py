"""The outer module: runs the parts in the graph's order, step by step or all steps at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from spikec.backends.spikingjelly.modules import Stateful, StatefulOpModule, checked_step_mode
from spikec.extend.artifacts import SpikingModule
from spikec.ir.errors import InvalidModelError
from spikec.ir.op import Op


@attrs.frozen
class Call:
    """One line of the plan.

    Attributes:
        node: the graph's node.
        part: name of the submodule that stands for it.
        operands: nodes whose values it takes.
        kind: the op's class.
        fields: of the op, all but the arrays: those are the part's, under the same names.
    """

    node: str
    part: str
    operands: tuple[str, ...]
    kind: type[Op]
    fields: dict[str, Any]

    @classmethod
    def of(cls, node: str, part: str, operands: tuple[str, ...], op: Op) -> Call:
        """The line for an op."""
        arrays = {field.name for field in attrs.fields(type(op)) if field.metadata.get("array")}
        values = {field.name: getattr(op, field.name) for field in attrs.fields(type(op))}
        kept = {name: value for name, value in values.items() if name not in arrays or value is None}
        return cls(node, part, operands, type(op), kept)


class SpikingNetwork(SpikingModule):
    """A spiking network as a torch module.

    In step mode ``"s"`` a call is one time-step, [B, ...] in and out; in ``"m"`` it is all of them,
    [T, B, ...] in and out. The state goes on from call to call until :meth:`reset`. The mean of the output
    over T approximates the ANN's output: it is in the ANN's units and in the model's own container.

    Args:
        name: of the model.
        plan: the calls in order.
        parts: a module for each name in the plan.
        inputs, outputs: nodes, in the model's order.
        structure: the model's output container, with positions of ``outputs`` as leaves.
    """

    def __init__(
        self,
        name: str,
        plan: Sequence[Call],
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
        self._step_mode = "s"
        for key, part in parts.items():
            self.add_module(key, part)

    @property
    def step_mode(self) -> str:
        """``"s"`` or ``"m"``, of this module and all its parts."""
        return self._step_mode

    @step_mode.setter
    def step_mode(self, value: str) -> None:
        self._step_mode = checked_step_mode(value)
        for part in self._stateful():
            part.step_mode = value

    def reset(self) -> None:
        """Forget every state: call it before each new batch."""
        for part in self._stateful():
            part.reset()

    def forward(self, *xs: Tensor) -> Any:
        """One step or all, by ``step_mode``; one tensor an input."""
        if len(xs) != len(self.inputs):
            raise InvalidModelError(f"the model has {len(self.inputs)} input(s), got {len(xs)}")
        if len({x.shape[: 1 if self.step_mode == "s" else 2] for x in xs}) > 1:
            found = ", ".join(str(list(x.shape)) for x in xs)
            raise InvalidModelError(f"the inputs differ in batch size or steps: {found}")
        if self.step_mode == "s":
            results = self._sweep(xs, 0)
        elif any(self._is_register(call) for call in self.plan):
            results = self._stepwise(xs)
        else:
            steps = _steps(xs)
            flat = self._sweep([x.flatten(0, 1) for x in xs], steps)
            results = [_unfold(y, steps) for y in flat]
        return _fill(self.structure, results)

    def _sweep(self, xs: Sequence[Tensor], steps: int) -> list[Tensor]:
        """Every call once; with ``steps`` the values are [T*B, ...] and stateful parts see [T, B, ...]."""
        values: dict[str, Tensor] = {}
        feeds = dict(zip(self.inputs, xs, strict=True))
        for call in self.plan:
            part = self.get_submodule(call.part)
            if self._is_register(call):
                values[call.node] = self._emitted(part, xs[0])
                continue
            operands = [feeds[call.node]] if call.node in feeds else [values[x] for x in call.operands]
            if steps and isinstance(part, Stateful):
                result = part(*[_unfold(x, steps) for x in operands]).flatten(0, 1)
            else:
                result = part(*operands)
            values[call.node] = result
        for call in self.plan:
            if self._is_register(call):
                self.get_submodule(call.part)(*[values[x] for x in call.operands])
        return [values[name] for name in self.outputs]

    def _stepwise(self, xs: Sequence[Tensor]) -> list[Tensor]:
        """A recurrent graph: the whole of it step after step."""
        self.step_mode = "s"
        try:
            steps = [self._sweep(step, 0) for step in zip(*xs, strict=True)]
        finally:
            self.step_mode = "m"
        return [torch.stack(column) for column in zip(*steps, strict=True)]

    def _is_register(self, call: Call) -> bool:
        part = self.get_submodule(call.part)
        return isinstance(part, StatefulOpModule) and part.op.register

    @staticmethod
    def _emitted(part: nn.Module, like: Tensor) -> Tensor:
        """What a register gives at this step: its state."""
        assert isinstance(part, StatefulOpModule)
        if part.v is None:
            part.v = part.initial(like)
        return part.v

    def _stateful(self) -> list[Stateful]:
        return [part for part in self.modules() if isinstance(part, Stateful)]

    def extra_repr(self) -> str:
        """The model's name and the step mode."""
        return f"{self.name}, step_mode={self.step_mode!r}"


def _steps(xs: Sequence[Tensor]) -> int:
    """T of inputs [T, B, ...]."""
    if any(x.ndim < 2 or len(x) != len(xs[0]) for x in xs) or len(xs[0]) < 1:
        shapes = ", ".join(str(list(x.shape)) for x in xs)
        raise InvalidModelError(f'in step_mode "m" an input is [T, B, ...] with at least one step, got {shapes}')
    return len(xs[0])


def _unfold(x: Tensor, steps: int) -> Tensor:
    """[T*B, ...] as [T, B, ...]."""
    return x.reshape(steps, len(x) // steps, *x.shape[1:])


def _fill(structure: Any, results: Sequence[Tensor]) -> Any:
    """The container with each position replaced by that output."""
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
