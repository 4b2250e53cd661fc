"""What every operation of the graph is: a frozen record with one type rule and one meaning."""

from __future__ import annotations

import contextlib
import contextvars
import enum
import functools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, ClassVar

import attrs
import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from spikec.ir import affine
from spikec.ir.affine import THROUGH, Affine, BlockedError
from spikec.ir.errors import CompileError, Hint, Option, TypeMismatchError
from spikec.ir.origin import Origin, label
from spikec.ir.types import Array, Rate, Real, Type, brief, compress, readonly

#: what to do where a real signal comes to an op on spikes, and where scales of one signal differ
SPIKES_FIRST = 'put the pass "relu-to-if" before'
ONE_SCALE = Hint("use one scale for all channels of a layer: ", Option("normalization", "max"))


class Role(enum.Enum):
    """How an op behaves; stages and passes ask for the role, never for a list of ops.

    Examples:
        >>> [node.name for node in spikec.load(model, images[:1]).with_role(spikec.Role.ACTIVATION)]
        ['relu_2']
    """

    IO = "io"
    LINEAR = "linear"
    IDENTITY = "identity"
    NORM = "norm"
    ACTIVATION = "activation"
    NEURON = "neuron"
    CAST = "cast"


def array(*, infinite: bool = False, **options: Any) -> Any:
    """Declare a field that holds a numpy array: the op gets a read-only one. Its numbers may be ``infinite``."""
    read_only, metadata = attrs.converters.optional(readonly), {"array": True, "infinite": infinite}
    return attrs.field(converter=read_only, repr=brief, metadata=metadata, **options)


_tensors: contextvars.ContextVar[dict[tuple[int, torch.dtype, torch.device], tuple[Array, Tensor]] | None]
_tensors = contextvars.ContextVar("tensors", default=None)


@contextlib.contextmanager
def tensor_cache() -> Iterator[None]:
    """Turn each parameter into a tensor once within it; leaving it frees them. Inside another, that one goes on."""
    outer = _tensors.get()
    token = _tensors.set({} if outer is None else outer)
    try:
        yield
    finally:
        _tensors.reset(token)


def tensor(value: Array | Tensor, like: Tensor) -> Tensor:
    """Give a parameter as a tensor of the dtype and device of ``like``; a tensor of a torch module stays as it is."""
    if isinstance(value, Tensor):
        return value
    cache = _tensors.get()
    key = (id(value), like.dtype, like.device)
    if cache is not None and key in cache:
        return cache[key][1]
    # in C order, because torch takes no array that runs backwards
    result = torch.tensor(np.asarray(value, order="C"), dtype=like.dtype, device=like.device)
    if cache is not None:
        cache[key] = (value, result)
    return result


def is_recorded() -> bool:
    """Return whether a compiler or an exporter records what is called, and so wants calls that write into nothing."""
    return torch.compiler.is_compiling() or bool(torch.jit.is_tracing())  # type: ignore[no-untyped-call, attr-defined]


class _ClassName:
    def __get__(self, _: object, cls: type) -> str:
        return cls.__name__.lower()


@attrs.frozen(eq=False)
class Op:
    """One operation. Subclass it with ``@attrs.frozen(eq=False)``; its fields are its parameters.

    Attributes:
        origin: the source nodes it stands for; a pass that merges ops merges their origins, and an op
            that a pass adds for its own needs has none.

    Examples:
        >>> @attrs.frozen(eq=False)
        ... class Double(spikec.Op):
        ...     role = spikec.Role.LINEAR
        ...     def eval(self, x):
        ...         return 2 * x
        >>> graph = spikec.load(model, images[:1])
        >>> name = graph.add(Double(), "linear_4", name="double")
        >>> graph.set_operand("output", 0, name)
        >>> graph.type("double").shape
        (10,)
    """

    #: what dumps and messages call it; a class that says nothing is called by its own name, in lower case
    kind: ClassVar[str] = _ClassName()  # type: ignore[assignment]
    role: ClassVar[Role]
    #: number of operands, or None for one or more
    arity: ClassVar[int | None] = 1
    #: whether ``eval`` always gives memory of its own, never a view of an operand
    fresh: ClassVar[bool] = False
    #: whether each number of the result follows from the numbers in the same place of the operands
    elementwise: ClassVar[bool] = False
    #: whether each channel (axis 0 of a sample) of the result follows from that channel of the operands
    channelwise: ClassVar[bool] = False
    #: whether it has a state that its result at a step follows from, without the operand of that step; such an op may
    #: close a cycle, and declares the type of its result by itself
    register: ClassVar[bool] = False

    origin: Origin = attrs.field(default=(), kw_only=True, repr=label)

    @property
    def timed(self) -> bool:
        """Whether a graph with it runs in time, step by step."""
        return False

    def infer(self, *operands: Type) -> Type:
        """Give the result's type for the operands': the type rule. A linear op moves a rate's scale as it moves a gain.

        Raises:
            TypeMismatchError: the op does not take these operands.
        """
        first, *others = operands
        shape = self.shape_of(*operands)
        if any(isinstance(t.encoding, Rate) != isinstance(first.encoding, Rate) for t in others):
            raise TypeMismatchError(f"{self.kind} of a real and a rate-coded signal", hint=SPIKES_FIRST)
        if isinstance(first.encoding, Real):
            return Type(shape, first.dtype, first.encoding)
        if self.role is not Role.LINEAR:
            raise TypeMismatchError(
                f"{self.kind} of a rate-coded signal",
                hint="a non-linear op on spikes has no meaning here; replace it by a neuron",
            )
        try:
            scale = self.map_result([Affine.scaling(t.scale) for t in operands], operands).gain
        except BlockedError:
            raise TypeMismatchError(f"{self.kind} mixes numbers of different scales", hint=ONE_SCALE) from None
        return Type(shape, first.dtype, Rate(scale))

    def eval(self, *xs: Tensor) -> Tensor:
        """Compute the op, which is its meaning: [B, ...] tensors in and out, of the operands' dtype and device."""
        raise NotImplementedError

    def eval_over(self, x: Tensor) -> Tensor:
        """Do as ``eval``, for one operand that nobody else reads, so that the result may be written over it."""
        return self.eval(x)

    def on_arrays(self, *xs: Array) -> Array:
        """Apply the meaning to one sample without a batch axis, in float64."""
        tensors = [torch.tensor(x, dtype=torch.float64)[None] for x in xs]
        with torch.no_grad():
            return np.asarray(self.eval(*tensors)[0].numpy())

    @property
    def uneven(self) -> str:
        """Why a shift of the operand may come out in different sizes within a channel, as a BlockedError says it."""
        return "does not spread a shift evenly"

    def map_result(self, maps: Sequence[Affine], operands: Sequence[Type]) -> Affine:
        """Move affine maps forwards: return the M with ``op(m_0(x_0), m_1(x_1), ...) = M(op(x_0, x_1, ...))``.

        A linear op's meaning tells it, so a subclass need not.

        Args:
            maps: one an operand.
            operands: their types.

        Raises:
            BlockedError: there is no such map, or the op is not linear.
        """
        if self.role not in (Role.LINEAR, Role.CAST):
            raise BlockedError(THROUGH)
        gains, shapes = [m.gain for m in maps], [t.shape for t in operands]
        with torch.no_grad():
            if all(gain.size == 1 and gain.item() == gains[0].item() for gain in gains):  # goes through any linear op
                gain = gains[0].reshape((1,) * len(self.shape_of(*operands)))
            else:
                gain = self.move_gain(gains, shapes)
            if not any(m.shifts for m in maps):
                return Affine.scaling(gain)
            return Affine(gain, affine.moved_shift(self.eval, [m.shift for m in maps], shapes, self.uneven))

    def move_gain(self, gains: Sequence[Array], shapes: Sequence[tuple[int, ...]]) -> Array:
        """Return the gain of ``map_result``, for gains and operands of these shapes; ``map_result`` says more."""
        return affine.moved_gain(self.eval, gains, shapes)

    def map_operands(self, wanted: Affine, operands: Sequence[Type]) -> list[Affine]:
        """Move an affine map backwards: return the m_i for a given M; see ``map_result``."""
        if self.role not in (Role.LINEAR, Role.CAST):
            raise BlockedError(THROUGH)
        shapes = [t.shape for t in operands]
        with torch.no_grad():
            if wanted.gain.size == 1:
                gains = [wanted.gain.reshape((1,) * len(shape)) for shape in shapes]
            else:
                gains = affine.operand_gains(self.eval, wanted.gain, shapes)
            if not wanted.shifts:
                return [Affine.scaling(gain) for gain in gains]
            shifts = affine.operand_shifts(self.eval, wanted.shift, shapes, self.uneven)
        return [Affine(*pair) for pair in zip(gains, shifts, strict=True)]

    def permuted(self, axes: Sequence[int]) -> Op | None:
        """Return the op that gives, permuted, what this one gives for a permutation of its operand; None if none does.

        Args:
            axes: axis i of the permutation is axis ``axes[i]`` of the operand.
        """
        if not self.elementwise:
            return None
        back = np.argsort(axes)
        return self._with_arrays(lambda x: np.transpose(x.reshape((1,) * (len(axes) - x.ndim) + x.shape), back))

    def split(self, parts: Sequence[slice], operand: Type) -> Sequence[Op] | None:
        """Return ops for parts of the operand's channels whose results, side by side, are this op's, or None.

        Args:
            parts: of axis 0 of the operand, from the first channel to the last.
            operand: its type.
        """
        if not (self.channelwise or self.elementwise):
            return None
        return [self._with_arrays(partial(_cut, rows=rows, shape=operand.shape)) for rows in parts]

    def as_convolution(self, operand: Type) -> Op:
        """Give the :class:`spikec.ir.ops.Conv` that does the same to such an operand.

        Raises:
            BlockedError: there is none; this op says why.
        """
        raise BlockedError(f"a {self.kind} is no convolution")

    def _with_arrays(self, change: Callable[[Array], Array]) -> Self:
        """Return the op with every array among its parameters changed."""
        parameters = self.parameters().items()
        changed: dict[str, Any] = {name: change(x) for name, x in parameters if isinstance(x, np.ndarray)}
        return attrs.evolve(self, **changed)

    def __deepcopy__(self, memo: Any) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        # by its constructor, so that a pickled op has read-only arrays too
        fields = {f.name: getattr(self, f.name) for f in attrs.fields(type(self)) if f.init}
        return partial(type(self), **fields), ()

    def parameters(self) -> dict[str, Any]:
        """Return the values of the fields by name, without the origin."""
        kind: Any = type(self)  # Any, as mypy takes no class for hashable
        return {name: getattr(self, name) for name in _parameter_names(kind)}

    def shape_of(self, *operands: Type) -> tuple[int, ...]:
        """Find the result's shape; a subclass may know it sooner than by trying."""
        return self.tried_shape(*operands)

    def tried_shape(self, *operands: Type) -> tuple[int, ...]:
        """Find the result's shape by running the meaning on tensors without data.

        Raises:
            TypeMismatchError: with what torch says, where it refuses them.
        """
        xs = [torch.empty((1, *t.shape), device="meta") for t in operands]
        try:
            return tuple(self.eval(*xs).shape[1:])
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            reason = str(error).splitlines()[0]
            shapes = ", ".join(str(t.shape) for t in operands)
            raise TypeMismatchError(f"{self.kind} does not take operands of shape {shapes}: {reason}") from None


@functools.cache
def _parameter_names(kind: type[Op]) -> tuple[str, ...]:
    return tuple(field.name for field in attrs.fields(kind) if field.name != "origin")


def _cut(values: Array, rows: slice, shape: tuple[int, ...]) -> Array:
    """Take some channels of values that have an axis for them, and all of other values."""
    return values[rows] if values.ndim == len(shape) and len(values) == shape[0] else values


@attrs.frozen(eq=False)
class StatefulOp(Op):
    """An op with memory: its meaning is an initial state and a step.

    Examples:
        >>> @attrs.frozen(eq=False)
        ... class Total(spikec.StatefulOp):
        ...     role = spikec.Role.LINEAR
        ...     def initial(self, x):
        ...         return torch.zeros_like(x)
        ...     def step(self, state, x):
        ...         return state + x, state + x
        >>> Total().steps(torch.zeros(1, 2), torch.ones(3, 1, 2))[1][:, 0, 0]
        tensor([1., 2., 3.])
    """

    @property
    def timed(self) -> bool:
        """Always: there is a state from step to step."""
        return True

    def initial(self, *xs: Tensor) -> Tensor:
        """Give the state before step 0; the operands of step 0, [B, ...], say its shape, dtype and device."""
        raise NotImplementedError

    def step(self, state: Tensor, *xs: Tensor) -> tuple[Tensor, Tensor]:
        """Advance by one step: returns (the state after it, its result [B, ...])."""
        raise NotImplementedError

    def step_over(self, state: Tensor, *xs: Tensor) -> tuple[Tensor, Tensor]:
        """Do as ``step``, for operands that nobody else reads, so that the state after it may be written over them."""
        return self.step(state, *xs)

    def steps(self, state: Tensor, *xs: Tensor) -> tuple[Tensor, Tensor]:
        """Advance by all steps of [T, B, ...]: returns (the state after the last one, the results [T, B, ...])."""
        results = []
        for step in zip(*xs, strict=True):
            state, result = self.step(state, *step)
            results.append(result)
        return state, torch.stack(results)

    def divided(self, factor: Array) -> Self | None:
        """Return the op that gives ``y / factor`` for ``x / factor``, an array of the operand's rank, or None."""
        return None

    def map_result(self, maps: Sequence[Affine], operands: Sequence[Type]) -> Affine:
        """Let a positive gain pass as it is, for the op becomes ``divided`` by it; a shift does not pass."""
        (only,) = maps
        return self.map_operands(only, operands)[0]

    def map_operands(self, wanted: Affine, operands: Sequence[Type]) -> list[Affine]:
        """Let a positive gain pass backwards, as ``map_result`` does forwards."""
        if self.role is not Role.LINEAR or wanted.shifts or not (wanted.gain > 0).all():
            raise BlockedError("has a state in its operand's units")
        if self.channelwise:
            wanted.in_channels()
        return [wanted]


@attrs.frozen(eq=False)
class Movement(Op):
    """An op that only moves numbers about (flatten, pad, concat): a rate's scale moves the same way.

    Examples:
        >>> @attrs.frozen(eq=False)
        ... class Turn(spikec.Movement):
        ...     def eval(self, x):
        ...         return x.flip(1)
        >>> Turn().infer(spikec.load(model, images[:1]).type("relu_2")).shape
        (8, 6, 6)
    """

    role = Role.LINEAR

    def move_gain(self, gains: Sequence[Array], shapes: Sequence[tuple[int, ...]]) -> Array:
        """Move the gains as the data moves, which is exact."""
        return compress(self.on_arrays(*map(np.broadcast_to, gains, shapes)))


def check_op(op: object) -> None:
    """Refuse what is no op, so that it is found where it is put into a graph."""
    if not isinstance(op, Op):
        hint = "give one of spikec.ir.ops, or of a class derived from spikec.Op"
        raise CompileError(f"a {type(op).__name__} is no op", hint=hint)
    if not isinstance(getattr(op, "role", None), Role):
        raise CompileError(f"{type(op).__name__} states no role", hint="give the class one: role = Role.LINEAR")
