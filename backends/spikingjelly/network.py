"""The outer module, which runs its parts in the graph's order, step by step or all steps at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, cast

import attrs
import torch
from torch import Tensor, nn

from spikec.backends.spikingjelly.constants import Constants, is_constant, is_function, is_hooked
from spikec.backends.spikingjelly.modules import StatefulModule, is_exporting, is_free
from spikec.backends.spikingjelly.neurons import IFNode
from spikec.extend.backend import SpikingModule, StepModule
from spikec.ir.errors import InvalidModelError
from spikec.ir.op import Op
from spikec.ir.ops import Add

#: bytes that the largest value of the steps which go through the network at a time takes, where one step is not more
CHUNK = 2**23


@attrs.frozen
class ModuleCall:
    """What a network does for one node of the graph: it calls a submodule.

    Attributes:
        node: the graph's node.
        part: name of the submodule.
        operands: nodes whose values it takes.
        kind: the class of the node's op.
        fields: the op's fields, but for the arrays: those the submodule has, under the same names.
        size: how many numbers it gives for a sample.
    """

    node: str
    part: str
    operands: tuple[str, ...]
    kind: type[Op]
    fields: dict[str, Any]
    size: int

    @classmethod
    def of(cls, node: str, part: str, operands: tuple[str, ...], op: Op, size: int) -> ModuleCall:
        """Make the call for an op."""
        values = ((field, getattr(op, field.name)) for field in attrs.fields(type(op)))
        fields = {field.name: value for field, value in values if value is None or not field.metadata.get("array")}
        return cls(node, part, operands, type(op), fields, size)


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
        self._last_uses = _last_uses(self.plan, self.outputs)
        sums = (call for call in self.plan if call.kind is Add and len(call.operands) > 1)
        calls = {call.node: call for call in (*sums, *(call for call in self.plan if call.kind.fresh))}
        #: where a call's only operand is memory that another call gave to it alone: that other call
        self._sole_sources = {user: calls[xs[0]] for user, xs in self._last_uses.items() if xs[0] in calls}
        self._constants: Constants | None = None

    def reset(self) -> None:
        """Forget every state: call it before each new batch."""
        for part in self._stateful():
            part.reset()
        self._exported_from_reset = is_exporting()
        self._constants = None

    def keep(self, samples: Tensor) -> None:
        """Go on with some samples of the batch: indices [B'], or a bool for each, [B]."""
        for part in self._stateful():
            part.v = None if part.v is None else part.v[samples]

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
        if self._exported_from_reset and not is_exporting():
            self._exported_from_reset = False
        if self.step_mode == "s":
            self._refuse_lost_state()
            results = self._step(xs)
        else:
            at_once = self._steps_at_once(xs)
            results = self._all_steps(xs, at_once) if at_once else self._stepwise(xs)
        return _fill(self.structure, results)

    def _refuse_lost_state(self) -> None:
        """Raise an InvalidModelError where a step is exported alone: what is exported would do step 0 at each call."""
        if is_exporting() and not self._exported_from_reset and self._stateful():
            raise InvalidModelError(
                "a single step is exported, and what is exported has no state for the next one",
                hint='set step_mode = "m" and give all steps, or export a module that calls reset() and then each step',
            )

    def _step(self, xs: Sequence[Tensor]) -> list[Tensor]:
        """Return the outputs of one step, [B, ...]; what is as it was at the last step is not computed again."""
        if not is_free() or any(x.device.type != "cpu" for x in xs):  # elsewhere comparing is waiting
            return self._sweep(xs, 0, {})
        if self._constants is None or not self._constants.hold_for(xs):
            calls = self._constant_calls()
            self._constants = Constants.of(xs, self, [call.part for call in calls], self._values(calls, xs))
        given = self._constants.values
        results = self._sweep(xs, 0, given)
        return [y.clone() if name in given else y for name, y in zip(self.outputs, results, strict=True)]

    def _steps_at_once(self, xs: Sequence[Tensor]) -> int:
        """Return how many steps go through the network at a time; 0 where it is run as a whole, step after step."""
        steps = _steps(xs)
        if any(self._is_register(call) for call in self.plan):
            return 0
        if not is_free() or any(is_hooked(part) for part in self.modules() if part is not self):
            return steps
        largest = max(call.size for call in self.plan) * max(xs[0].shape[1], 1) * xs[0].element_size()
        return min(steps, CHUNK // largest) if 2 * largest <= CHUNK else 0

    def _all_steps(self, xs: Sequence[Tensor], at_once: int) -> list[Tensor]:
        """Return the outputs of all steps, [T, B, ...], some steps at a time."""
        given: dict[str, Tensor] = {}
        if is_free() and all(is_constant(x) for x in xs):
            given = self._values(self._constant_calls(), [x[0] for x in xs])
        chunks = zip(*(torch.split(x, at_once) for x in xs), strict=True)
        results = [self._sweep(chunk, len(chunk[0]), given) for chunk in chunks]
        return [column[0] if len(column) == 1 else torch.cat(column) for column in zip(*results, strict=True)]

    def _constant_calls(self) -> list[ModuleCall]:
        """Return the calls that give the same at each step as long as the inputs do."""
        found: dict[str, ModuleCall] = {}
        for call in self.plan:
            if all(x in found for x in call.operands) and is_function(self._part(call)):
                found[call.node] = call
        return list(found.values())

    def _values(self, calls: Sequence[ModuleCall], xs: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return what these calls, the first of the plan, give for inputs [B, ...], by node."""
        values = dict(zip(self.inputs, xs, strict=True))
        for call in calls:
            operands = [values[x] for x in call.operands or (call.node,)]
            values[call.node] = self._part(call)(*operands)
        return values

    def _sweep(self, xs: Sequence[Tensor], steps: int, given: dict[str, Tensor]) -> list[Tensor]:
        """Make every call once, and return the outputs; a value is let go of after its last use.

        Without ``steps`` this is one step, of values [B, ...]. With it, it is all steps at once: values are [T*B, ...],
        so that layers without a state run once, and parts with a state are given [T, B, ...].

        Args:
            xs: the inputs, [B, ...] or [T, B, ...].
            steps: T, or 0.
            given: values [B, ...] that are the same at each step, by node: their calls are not made.
        """
        feeds = dict(zip(self.inputs, xs, strict=True))
        values: dict[str, Tensor] = dict(given)
        registers = []
        may_write = not steps and is_free()
        for call in self.plan:
            if call.node in given:
                continue
            part = self._part(call)
            stateful = isinstance(part, StatefulModule)
            if stateful and call.kind.register:
                values[call.node] = self._emitted(part, xs[0])
                registers.append(call)
                continue
            if call.node in feeds:
                operands = [feeds[call.node].flatten(0, 1) if steps else feeds[call.node]]
            elif steps:
                operands = [_in_steps(values[x], steps, flat=not stateful, same=x in given) for x in call.operands]
            else:
                operands = [values[x] for x in call.operands]
            if may_write and type(part) is IFNode and self._is_spent(call, given):
                result = part.step_over(*operands)
            else:
                result = part(*operands)
            values[call.node] = result.flatten(0, 1) if steps and stateful else result
            del operands, result
            for name in self._last_uses.get(call.node, ()):
                del values[name]
        for call in registers:
            self._part(call)(*[values[x] for x in call.operands])
        if steps:
            return [_in_steps(values[name], steps, flat=False, same=name in given) for name in self.outputs]
        return [values[name] for name in self.outputs]

    def _is_spent(self, call: ModuleCall, given: Mapping[str, Tensor]) -> bool:
        """Return whether nobody but this call will look at its operand's memory, also where the user changed parts."""
        source = self._sole_sources.get(call.node)
        if source is None or source.node in given or is_hooked(self._part(call)):
            return False
        return is_function(self._part(source))

    def _stepwise(self, xs: Sequence[Tensor]) -> list[Tensor]:
        """Return the outputs of all steps, [T, B, ...], the network being run as a whole step after step."""
        before = [(part, part.v) for part in self._stateful()]
        try:
            for part, _ in before:
                part._step_mode = "s"
            steps = [self._step(step) for step in zip(*xs, strict=True)]
        finally:
            for part, _ in before:
                part._step_mode = "m"
        if is_exporting():
            for part, state in before:
                part.v = state
        return [torch.stack(column) for column in zip(*steps, strict=True)]

    def _stateful(self) -> list[StatefulModule]:
        return [part for part in self.modules() if isinstance(part, StatefulModule)]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_constants": None}

    def _part(self, call: ModuleCall) -> nn.Module:
        return cast(nn.Module, self._modules[call.part])

    def _is_register(self, call: ModuleCall) -> bool:
        return call.kind.register and isinstance(self._part(call), StatefulModule)

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


def _last_uses(plan: Sequence[ModuleCall], outputs: Sequence[str]) -> dict[str, list[str]]:
    """Return the values that nobody reads after each call, by its node; those of registers are read at the end."""
    last = {x: call.node for call in plan for x in call.operands}
    for call in plan:
        if call.kind.register:
            last |= dict.fromkeys(call.operands, "")
    last |= dict.fromkeys(outputs, "")
    found: dict[str, list[str]] = {}
    for x, node in last.items():
        if node:
            found.setdefault(node, []).append(x)
    return found


def _in_steps(x: Tensor, steps: int, *, flat: bool, same: bool) -> Tensor:
    """Give a value [T*B, ...], or one [B, ...] that is the same at each step, as [T, B, ...], flat as [T*B, ...]."""
    if same:
        x = x.expand(steps, *x.shape)
        return x.flatten(0, 1) if flat else x
    return x if flat else x.reshape(steps, x.shape[0] // steps, *x.shape[1:])


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
