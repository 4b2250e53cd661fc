"""Spiking torch modules in SpikingJelly's habits; they need torch and spikec, not SpikingJelly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from spikec.ir.errors import CompileError, InvalidModelError
from spikec.ir.op import Op, StatefulOp, tensor_cache
from spikec.ir.types import Array


class _Atan(torch.autograd.Function):
    """A step forward; backward the derivative of ``atan(pi/2 a u)/pi + 1/2``, a = 2 (Fang et al. 2021)."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, threshold: Tensor, strict: bool) -> Tensor:
        """1 where v reaches (strict: exceeds) the threshold."""
        ctx.save_for_backward(v, threshold)
        return (v > threshold if strict else v >= threshold).to(v.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, None]:
        """``a/2 / (1 + (pi/2 a u)^2)`` times the gradient, with u = v - v_threshold."""
        v, threshold = ctx.saved_tensors
        return gradients[0] / (1 + (math.pi * (v - threshold)) ** 2), None, None


class Stateful(nn.Module):
    """A module with a state that starts anew after ``reset()``; a subclass gives ``initial`` and ``step``.

    Attributes:
        v: the state, None before the first step. It is saved in ``state_dict`` where there is one.
        step_mode: ``"s"``: input [B, ...]; ``"m"``: input [T, B, ...].
    """

    v: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("v", None)
        self._step_mode = "s"

    @property
    def step_mode(self) -> str:
        """See the class."""
        return self._step_mode

    @step_mode.setter
    def step_mode(self, value: str) -> None:
        self._step_mode = checked_step_mode(value)

    def initial(self, *xs: Tensor) -> Tensor:
        """The state before the first step."""
        raise NotImplementedError

    def step(self, state: Tensor, *xs: Tensor) -> tuple[Tensor, Tensor]:
        """(state after the step, result)."""
        raise NotImplementedError

    def reset(self) -> None:
        """Forget the state."""
        self.v = None

    def single_step_forward(self, *xs: Tensor) -> Tensor:
        """One step, [B, ...]."""
        state = self.initial(*xs) if self.v is None else self.v
        if state.shape[:1] != xs[0].shape[:1]:
            raise InvalidModelError(
                f"the state is of a batch of {state.shape[0]}, the input is a batch of {xs[0].shape[0]}",
                hint="call reset() before the next batch",
            )
        self.v, result = self.step(state, *xs)
        return result

    def multi_step_forward(self, *xs: Tensor) -> Tensor:
        """All steps, [T, B, ...]."""
        return torch.stack([self.single_step_forward(*step) for step in zip(*xs, strict=True)])

    def forward(self, *xs: Tensor) -> Tensor:
        """One step or all, by ``step_mode``."""
        return self.single_step_forward(*xs) if self.step_mode == "s" else self.multi_step_forward(*xs)

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        if self.v is not None:
            state["_buffers"] = {**self._buffers, "v": self.v.detach()}
        return state

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any, **kwargs: Any) -> None:
        saved = state_dict.get(f"{prefix}v")
        like = next(buffer for buffer in (*self.buffers(), torch.empty(0)))
        self.v = None if saved is None else like.new_empty(saved.shape)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class IFNode(Stateful):
    """Integrate-and-fire with the equations of :class:`spikec.ir.ops.IF`, and a surrogate gradient (atan).

    Attributes:
        v_threshold: buffer, broadcasts over a sample.
        v_reset: None for soft reset (v - v_threshold), or a buffer with the value after a spike.
        v_init: buffer, the membrane potential before the first step.
        strict: fire at v > v_threshold instead of v >= v_threshold.
    """

    v_threshold: Tensor
    v_reset: Tensor | None
    v_init: Tensor

    def __init__(
        self, v_threshold: Tensor, v_reset: Tensor | None = None, v_init: Tensor | None = None, *, strict: bool = False
    ) -> None:
        super().__init__()
        self.register_buffer("v_threshold", v_threshold)
        self.register_buffer("v_reset", v_reset)
        self.register_buffer("v_init", v_threshold.new_zeros(()) if v_init is None else v_init)
        self.strict = strict

    def initial(self, *xs: Tensor) -> Tensor:
        """``v_init`` for every sample."""
        return torch.zeros_like(xs[0]) + self.v_init

    def spikes(self, v: Tensor) -> Tensor:
        """1 where a potential fires, with the surrogate gradient."""
        result: Tensor = _Atan.apply(v, self.v_threshold, self.strict)  # type: ignore[no-untyped-call]
        return result

    def after(self, v: Tensor, spikes: Tensor) -> Tensor:
        """The potential after the reset of those that fired."""
        if self.v_reset is None:
            return v - self.v_threshold * spikes
        return torch.where(spikes.bool(), self.v_reset, v)

    def step(self, state: Tensor, *xs: Tensor) -> tuple[Tensor, Tensor]:
        """Integrate, fire, reset."""
        v = state + xs[0]
        spikes = self.spikes(v)
        return self.after(v, spikes), spikes

    def extra_repr(self) -> str:
        """Thresholds, reset and step mode."""
        shown = [f"v_threshold={span(self.v_threshold)}"]
        shown.append(f"v_reset={None if self.v_reset is None else span(self.v_reset)}")
        shown.append(f"v_init={span(self.v_init)}, step_mode={self.step_mode!r}")
        return ", ".join(shown + ["strict=True"] * self.strict)


class OpModule(nn.Module):
    """Any stateless op: its own meaning, with its arrays as buffers."""

    def __init__(self, op: Op, dtype: torch.dtype) -> None:
        super().__init__()
        self.op = op
        _hold(self, op, dtype)

    def forward(self, *xs: Tensor) -> Tensor:
        """``op.eval``."""
        with tensor_cache(*_held(self, self.op)):
            return self.op.eval(*xs)

    def extra_repr(self) -> str:
        """The op's kind, its plain fields and the span of its arrays."""
        return _shown(self, self.op)


class StatefulOpModule(Stateful):
    """Any op with a state: its own meaning, with its arrays as buffers."""

    def __init__(self, op: StatefulOp, dtype: torch.dtype) -> None:
        super().__init__()
        self.op = op
        _hold(self, op, dtype)

    def initial(self, *xs: Tensor) -> Tensor:
        """``op.initial``."""
        with tensor_cache(*_held(self, self.op)):
            return self.op.initial(*xs)

    def step(self, state: Tensor, *xs: Tensor) -> tuple[Tensor, Tensor]:
        """``op.step``."""
        with tensor_cache(*_held(self, self.op)):
            return self.op.step(state, *xs)

    def extra_repr(self) -> str:
        """The op's kind, its plain fields and the span of its arrays."""
        return _shown(self, self.op)


def _arrays(op: Op) -> dict[str, Array]:
    names = (field.name for field in attrs.fields(type(op)) if field.metadata.get("array"))
    return {name: value for name in names if (value := getattr(op, name)) is not None}


def _hold(module: nn.Module, op: Op, dtype: torch.dtype) -> None:
    for name, value in _arrays(op).items():
        module.register_buffer(name, torch.tensor(value, dtype=dtype))


def _held(module: nn.Module, op: Op) -> list[tuple[Array, Tensor]]:
    return [(value, getattr(module, name)) for name, value in _arrays(op).items()]


def _shown(module: nn.Module, op: Op) -> str:
    plain = {k: v for k, v in op.parameters().items() if isinstance(v, (int, float, str, tuple))}
    shown = [f"{k}={v}" for k, v in plain.items()] + [f"{k}={span(getattr(module, k))}" for k in _arrays(op)]
    return ", ".join([op.kind, *shown])


class Readout(nn.Module):
    """An output in ANN units: times ``scale``, a buffer, or as it is where there is none."""

    scale: Tensor | None

    def __init__(self, scale: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        """``scale * x``."""
        return x if self.scale is None else x * self.scale

    def extra_repr(self) -> str:
        """The scale."""
        return "" if self.scale is None else f"scale={span(self.scale)}"


class InputPort(nn.Module):
    """Checks that samples have the shape the model was converted for, and the module's dtype."""

    like: Tensor

    def __init__(self, shape: Sequence[int], dtype: torch.dtype) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.register_buffer("like", torch.empty(0, dtype=dtype), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """The input."""
        if tuple(x.shape[1:]) != self.shape:
            size = ", ".join(map(str, self.shape))
            raise InvalidModelError(
                f"a step's input is [B, {size}], got {list(x.shape)}",
                hint=f'in step_mode "s" give [B, {size}], in step_mode "m" [T, B, {size}]',
            )
        if x.dtype != self.like.dtype:
            raise InvalidModelError(
                f"the input is {x.dtype}, the module is {self.like.dtype}", hint="convert one of them with .to(dtype)"
            )
        return x

    def extra_repr(self) -> str:
        """The shape."""
        return f"shape={self.shape}"


def checked_step_mode(value: str) -> str:
    """``"s"`` or ``"m"``, or a CompileError."""
    if value not in ("s", "m"):
        raise CompileError(f"step_mode is {value!r}", hint='give "s" (input [B, ...]) or "m" (input [T, B, ...])')
    return value


def span(values: Tensor) -> str:
    """``0.5``, or ``0.1..0.9 [8, 1, 1]``."""
    low, high = float(values.min()), float(values.max())
    return f"{low:.6g}" if low == high else f"{low:.6g}..{high:.6g} {list(values.shape)}"
