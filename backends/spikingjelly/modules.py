"""Torch modules for ops, in SpikingJelly's habits; they need torch and spikec, not SpikingJelly."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from spikec.extend.backend import StepModule
from spikec.ir.errors import CompileError, InvalidModelError
from spikec.ir.op import is_recorded
from spikec.ir.ops.weighted import elementwise


class RunsOp(nn.Module):
    """A module that computes what an op means, with tensors of its own in place of the op's arrays.

    Attributes:
        kind: the op's class.
        held: names of the fields that are attributes of the module: arrays are buffers, or None.
        fixed: the values of all other fields.
    """

    def __init__(self, kind: type[Any], held: Mapping[str, Any], fixed: Mapping[str, Any]) -> None:
        super().__init__()
        self.kind, self.held, self.fixed = kind, tuple(held), dict(fixed)
        for name, value in held.items():
            if hasattr(type(self), name) or name in (*self.__dict__, "v"):
                raise CompileError(
                    f"{kind.__name__} has a field {name}, which its torch module needs for something else",
                    hint="rename the field",
                )
            if value is None or isinstance(value, Tensor):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)

    @property
    def op(self) -> Any:
        """The op, with the module's attributes as they are now in place of its fields."""
        op = object.__new__(self.kind)  # its own constructor would make arrays of the tensors, and cut gradients
        for name, value in self.fixed.items():
            object.__setattr__(op, name, value)
        buffers = self._buffers  # looked up by torch's __getattr__, each would take four times as long
        for name in self.held:
            object.__setattr__(op, name, buffers[name] if name in buffers else getattr(self, name))
        return op

    def extra_repr(self) -> str:
        """Show the op's kind, its plain fields and the span of its arrays."""
        plain = {k: v for k, v in self.fixed.items() if k != "origin" and isinstance(v, (int, float, str, tuple))}
        arrays = {name: value for name in self.held if (value := getattr(self, name)) is not None}
        shown = [f"{k}={v}" for k, v in plain.items()] + [f"{k}={span(v)}" for k, v in arrays.items()]
        return ", ".join([self.kind.kind, *shown])


class OpModule(RunsOp):
    """Runs an op that has no state."""

    def forward(self, *xs: Tensor) -> Tensor:
        """Run ``op.eval``."""
        result: Tensor = self.op.eval(*xs)
        return result


class Elementwise(nn.Module):
    """Runs a Conv that is elementwise, with its weight and its bias as parameters."""

    bias: nn.Parameter | None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias))

    def forward(self, x: Tensor) -> Tensor:
        """Give a multiple of each number, and add the bias."""
        return elementwise(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Show the sizes as a convolution does."""
        rows, kernel = len(self.weight), tuple(self.weight.shape[2:])
        return f"{rows} channels, kernel_size={kernel}, bias={self.bias is not None}"


class AdaptiveAverage(OpModule):
    """Runs an AdaptiveAvgPool, whose windows may differ in size, which torch's ONNX exporters refuse."""

    def forward(self, *xs: Tensor) -> Tensor:
        """Run ``op.eval``; in an export it is done along one axis after the other, in slices."""
        (x,) = xs
        if not is_exporting():
            return super().forward(x)
        for axis, size in enumerate(self.op.size, start=2):
            old = int(x.shape[axis])
            windows = [(i * old // size, -(-(i + 1) * old // size)) for i in range(size or 0)]
            if windows:
                parts = [x.narrow(axis, start, end - start).mean(axis, keepdim=True) for start, end in windows]
                x = torch.cat(parts, axis)
        return x


def is_exporting() -> bool:
    """Return whether TorchScript, an ONNX exporter or ``torch.export`` records what this thread calls.

    torch says of the process that something is exported. Only the thread that does it has a dispatch mode, or dynamo,
    which reads this function as it stands; another thread may run a network meanwhile.
    """
    if torch.jit.is_tracing():  # type: ignore[no-untyped-call, attr-defined]
        return True
    if not torch.compiler.is_exporting():
        return False
    return torch.compiler.is_dynamo_compiling() or torch._C._len_torch_dispatch_stack() > 0


def is_free() -> bool:
    """Return whether calls may be left out and made in parts: no gradient is asked for, and nothing records them."""
    return not torch.is_grad_enabled() and not is_recorded()


class StatefulModule(StepModule, RunsOp):
    """Runs an op that has a state, which starts anew after ``reset()``.

    Attributes:
        v: the state, None before the first step. It is saved in ``state_dict`` where there is one.
    """

    v: Tensor | None

    def __init__(self, kind: type[Any], held: Mapping[str, Any], fixed: Mapping[str, Any]) -> None:
        super().__init__(kind, held, fixed)
        self.register_buffer("v", None)

    def reset(self) -> None:
        """Forget the state, as before a new batch."""
        self.v = None

    def single_step_forward(self, *xs: Tensor) -> Tensor:
        """Run one step, [B, ...]."""
        state, result = self.op.step(self._before(*xs), *xs)
        if is_free():  # nothing records this, and torch's __setattr__ takes as long as a layer
            self._buffers["v"] = state
        else:
            self.v = state
        return cast(Tensor, result)

    def step_over(self, *xs: Tensor) -> Tensor:
        """Run one step, [B, ...], of operands that nobody else reads, so that the state may be written over them."""
        self._buffers["v"], result = self.op.step_over(self._before(*xs), *xs)
        return cast(Tensor, result)

    def multi_step_forward(self, *xs: Tensor) -> Tensor:
        """Run all steps, [T, B, ...]. An exported model has no state behind the last step."""
        state, results = self.op.steps(self._before(*(x[0] for x in xs)), *xs)
        if not is_exporting():
            self.v = state
        return cast(Tensor, results)

    def _before(self, *xs: Tensor) -> Tensor:
        """Return the state before a step of such operands."""
        state = self.started(self.v, *xs)
        if state.shape[:1] != xs[0].shape[:1]:
            raise InvalidModelError(
                f"the state is of a batch of {state.shape[0]}, the input is a batch of {xs[0].shape[0]}",
                hint="call reset() before the next batch",
            )
        return state

    def started(self, state: Tensor | None, *xs: Tensor) -> Tensor:
        """Return a state, or the initial one for such operands if there is none, or none but what an export left."""
        is_left = isinstance(state, FakeTensor) and not is_exporting()
        return cast(Tensor, self.op.initial(*xs)) if state is None or is_left else state

    def forward(self, *xs: Tensor) -> Tensor:
        """Run one step or all, by ``step_mode``."""
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


class Readout(nn.Module):
    """Puts an output in ANN units: times ``scale``, a buffer, or as it is where there is none."""

    scale: Tensor | None

    def __init__(self, scale: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``scale * x``."""
        return x if self.scale is None else x * self.scale

    def extra_repr(self) -> str:
        """Show the scale."""
        return "" if self.scale is None else f"scale={span(self.scale)}"


class InputPort(nn.Module):
    """Checks that samples have the shape that the model was converted for, and the module's dtype."""

    like: Tensor

    def __init__(self, shape: Sequence[int], dtype: torch.dtype) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.register_buffer("like", torch.empty(0, dtype=dtype), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the input, or raise an InvalidModelError."""
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
        """Show the shape."""
        return f"shape={self.shape}"


def span(values: Tensor) -> str:
    """Show values in short: ``0.5``, or ``0.1..0.9 [8, 1, 1]``."""
    low, high = float(values.min()), float(values.max())
    return f"{low:.6g}" if low == high else f"{low:.6g}..{high:.6g} {list(values.shape)}"
