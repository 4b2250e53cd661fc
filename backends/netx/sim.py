"""The integer arithmetic of netx's layers in fixed point, on torch.

Time-steps are aligned: layer l's column t here is its column t + 1 + l in lava, where every synapse takes a
step. Nothing else differs.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, Literal

import attrs
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from spikec.ir.types import Array, readonly

#: 2^23: currents wrap and voltages saturate here
_LIMIT = 1 << 23
#: decays count in units of 1/4096
UNITY = 4096
#: the largest ``vThMant``: a neuron with it never fires, unless its voltage saturates
NEVER = (1 << 17) - 1
#: weights, thresholds and biases count in units of 2^6
_SHIFT = 6
#: numbers that are made at a time: they should fit into the cache
_CELLS = 1 << 19


def _decay(value: Any) -> int | Array:
    array = readonly(value, np.int64)
    return int(array.flat[0]) if (array == array.flat[0]).all() else array


def _integers(value: Array | None) -> Array | None:
    return None if value is None else readonly(np.trunc(value), np.int64)


@attrs.frozen(eq=False, repr=False)
class IntegerLayer:
    """One layer of a file with its neurons.

    Attributes:
        kind: the format's name of it.
        name: of the neuron or output in the graph.
        shape: of its neurons in torch order, the relays included.
        weight: (O, I), or (O, I/groups, kh, kw) for a conv.
        weight_rec: (O, O), from its own spikes of the step before; of a conv between channels, in each cell of the
            map, which lava has only where :func:`spikec.backends.netx.lava_script.load` adds it.
        bias: (O,), added to the voltage at every step, or None.
        stride, padding, dilation, groups: of a conv.
        threshold: ``vThMant``; a neuron fires above it.
        current_decay, voltage_decay: of 4096; 4096 forgets all at every step. One number, or one for each feature.
        relays: that many of the last neurons repeat the always-on input for the next layer's bias.
    """

    kind: Literal["dense", "dense_rec", "conv"]
    name: str
    shape: tuple[int, ...]
    weight: Array = attrs.field(converter=_integers)
    threshold: int
    current_decay: int | Array = attrs.field(converter=_decay)
    voltage_decay: int | Array = attrs.field(converter=_decay)
    weight_rec: Array | None = attrs.field(default=None, converter=_integers)
    bias: Array | None = attrs.field(default=None, converter=_integers)
    stride: tuple[int, ...] = (1, 1)
    padding: tuple[int, ...] = (0, 0)
    dilation: tuple[int, ...] = (1, 1)
    groups: int = 1
    relays: int = 0

    def __repr__(self) -> str:
        shapes = " -> ".join("x".join(map(str, shape)) for shape in (self.weight.shape, self.shape))
        return f"<spikec netx layer {self.name}: {self.kind} {shapes}>"

    @property
    def fires(self) -> bool:
        """Whether it is made to spike; else its voltage is what it is read for."""
        return self.threshold < NEVER


@attrs.frozen(eq=False)
class Response:
    """What a layer did over all steps.

    Attributes:
        spikes: bool [T, B, ...].
        voltages: int32 [T, B, ...], after each step, in weight units; of a layer that fires only after the last one,
            [1, B, ...].
        overflows: how often a current wrapped or a voltage saturated.
    """

    spikes: Array
    voltages: Array
    overflows: int

    @property
    def voltage(self) -> Array:
        """The voltages after the last step, int32 [B, ...]."""
        return np.asarray(self.voltages[-1])


def run_layer(layer: IntegerLayer, spikes: Array) -> Response:
    """Run one layer over all steps.

    Args:
        layer: its integers.
        spikes: bool [T, B, ...], those of the layer before at the same (aligned) steps.
    """
    inputs = torch.tensor(spikes, dtype=torch.bool)
    recurrent = None if layer.weight_rec is None else _Recurrent(layer.weight_rec, len(layer.shape))
    bias = None
    if layer.bias is not None:
        bias = _int32(layer.bias << _SHIFT).reshape(-1, *[1] * (len(layer.shape) - 1))
    u, v = (_State(inputs.shape[1], layer.shape, decay) for decay in (layer.current_decay, layer.voltage_decay))
    fired = torch.zeros((len(inputs), *v.value.shape), dtype=torch.bool)
    voltages: list[Tensor] = []
    most = _largest(layer.weight) << _SHIFT
    for t, current in enumerate(_currents(layer, inputs)):
        if recurrent is not None and t:
            current = current + recurrent(fired[t - 1])
        u.add(current, most + (recurrent.most if recurrent else 0), _wrap)
        v.add(u.value.clone() if v.forgets else u.value, u.reach, _saturate, bias)
        v.reset(layer.threshold << _SHIFT, fired[t])
        if not layer.fires or t == len(inputs) - 1:
            voltages.append(v.value >> _SHIFT)
    return Response(fired.numpy(), torch.stack(voltages).numpy(), u.overflows + v.overflows)


def run_layers(layers: Sequence[IntegerLayer], spikes: Array) -> list[Response]:
    """Run layers one behind the other; see :func:`run_layer`."""
    responses: list[Response] = []
    for layer in layers:
        responses.append(run_layer(layer, spikes))
        spikes = responses[-1].spikes
    return responses


class _State:
    """Currents or voltages of a layer, int32 [B, ...] in units of 1/64 of a weight.

    Attributes:
        value: what they are now.
        reach: no value is further from zero; nothing is searched for overflows before it reaches the limit.
        overflows: how often a value wrapped or saturated.
    """

    def __init__(self, batch: int, shape: tuple[int, ...], decay: int | Array) -> None:
        self.value = torch.zeros((batch, *shape), dtype=torch.int32)
        self.kept = UNITY - torch.tensor(decay).reshape(-1, *[1] * (len(shape) - 1))
        self.forgets, self.leaks = not self.kept.any(), bool((self.kept < UNITY).any())
        self.reach = self.overflows = 0

    def add(
        self, x: Tensor, most: int, limit: Callable[[Tensor], tuple[Tensor, int]], bias: Tensor | None = None
    ) -> None:
        """Decay, rounding towards zero, and add x, none of which is further from zero than ``most``."""
        if self.forgets:
            self.value, self.reach = x, most
        else:
            if self.leaks:
                kept = (self.value.abs().long() * self.kept) >> 12
                self.value = (self.value.sign() * kept).int()
            self.value.add_(x)
            self.reach += most
        if bias is not None:
            self.value.add_(bias)
            self.reach += int(bias.abs().max())
        if self.reach >= _LIMIT:
            self.reach = max(map(abs, map(int, self.value.aminmax())))
        if self.reach >= _LIMIT:
            self.value, found = limit(self.value)
            self.overflows += found

    def reset(self, threshold: int, fired: Tensor) -> None:
        """Note in ``fired``, bool [B, ...], which values are above the threshold, and set those to 0."""
        # torch's gt and masked_fill take six and four times as long
        np.greater(self.value.numpy(), threshold, out=fired.numpy())
        self.value.sub_(F.threshold(self.value, threshold, 0))


def _wrap(x: Tensor) -> tuple[Tensor, int]:
    """Wrap currents beyond 24 bits to the other end, and count them."""
    above, below = x > _LIMIT, x <= -_LIMIT
    return x - 2 * _LIMIT * above.int() + 2 * _LIMIT * below.int(), int(above.sum() + below.sum())


def _saturate(x: Tensor) -> tuple[Tensor, int]:
    """Clip voltages to the last number of 24 bits, and count them."""
    return x.clamp(1 - _LIMIT, _LIMIT - 1), int((x.abs() >= _LIMIT).sum())


def _int32(value: Array) -> Tensor:
    return torch.tensor(value.astype(np.int32))


def _largest(weight: Array) -> int:
    """Return the largest absolute value that the sum of a step can have, whatever spikes."""
    return int(np.abs(weight).reshape(len(weight), -1).sum(1).max())


def _floats(weight: Array) -> Tensor:
    """Return weights in units of currents, in floats that hold every sum exactly in any order of summing."""
    exact = torch.float32 if _largest(weight) << _SHIFT < 1 << 24 else torch.float64
    return torch.tensor(weight << _SHIFT).to(exact)


class _Recurrent:
    """A layer's weights from its own spikes to samples of some rank; a vector where they are diagonal, as on maps."""

    def __init__(self, matrix: Array, rank: int) -> None:
        diagonal = np.diagonal(matrix)
        alone = np.count_nonzero(matrix) == np.count_nonzero(diagonal)
        along = _int32(diagonal << _SHIFT).reshape(-1, *[1] * (rank - 1))
        self.alone, self.weight = alone, along if alone else _floats(matrix).T
        self.most = _largest(matrix) << _SHIFT

    def __call__(self, fired: Tensor) -> Tensor:
        """Return the currents [B, O, ...] of spikes [B, O, ...]."""
        ones = fired.view(torch.uint8)
        return ones * self.weight if self.alone else (ones.to(self.weight) @ self.weight).int()


def _currents(layer: IntegerLayer, spikes: Tensor) -> Iterator[Tensor]:
    """Give the weighted input of every step, int32 [B, ...], of spikes [T, B, ...]; a few steps are made at a time.

    Channels that are silent in all of these steps are left out. The first step stands alone, because some channels
    spike in that only: those that charge neurons.
    """
    synapses = None
    several = max(1, _CELLS // max(spikes[0].numel(), spikes.shape[1] * int(np.prod(layer.shape))))
    for start, end in pairwise((0, *range(1, len(spikes), several), len(spikes))):
        x = spikes[start:end].flatten(0, 1)
        if layer.kind != "conv":
            x = x.flatten(1)
        # numpy's any is ten times faster than torch's
        active = np.asarray(x.numpy().any(0).reshape(x.shape[1], -1).any(1) | (layer.groups > 1))
        active[0] = True  # one at least must be left
        if synapses is None or not np.array_equal(active, synapses.active):
            synapses = _Synapses(layer, active)
        # torch turns bytes into floats six times faster than bool
        yield from synapses(x.view(torch.uint8)).reshape(end - start, -1, *layer.shape)


class _Synapses:
    """A layer's weights from the input channels that are ``active``, bool [I], made ready for many steps.

    The last channels of the layer that hear none of these, such as relays, are left out. A pool that was folded into a
    convolution left weights that are equal within blocks that the stride steps over: where such are, spikes are added
    up in blocks first, which saves most of the products.
    """

    def __init__(self, layer: IntegerLayer, active: Array) -> None:
        self.layer, self.active = layer, active
        self.wraps = _largest(layer.weight) >= _LIMIT
        weight = _floats(layer.weight)
        self.channels = len(weight)
        if layer.groups == 1:
            weight = weight if active.all() else weight[:, torch.from_numpy(active)]
            heard = np.flatnonzero(weight.numpy().reshape(len(weight), -1).any(1))
            weight = weight[: heard[-1] + 1 if len(heard) else 1]
        self.weight, self.pool = weight, (1, 1)
        if layer.kind == "conv" and layer.dilation == (1, 1):
            height, width = map(math.gcd, layer.stride, weight.shape[2:])
            coarse = weight[..., ::height, ::width]
            blocks = coarse.repeat_interleave(height, 2).repeat_interleave(width, 3)
            if 1 < height * width < 256 and torch.equal(blocks, weight):  # sums are bytes
                self.weight, self.pool = coarse.contiguous(), (height, width)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the currents, int32 [N, O, ...], of ones and zeros, uint8 [N, I, ...]."""
        if not self.active.all():
            x = x[:, torch.from_numpy(self.active)]
        sums = self._conv(x) if self.layer.kind == "conv" else x.to(self.weight) @ self.weight.T
        if len(self.weight) == self.channels:
            return sums.int()
        currents = torch.zeros((len(x), self.channels, *sums.shape[2:]), dtype=torch.int32)
        currents[:, : len(self.weight)] = sums
        return currents

    def _conv(self, x: Tensor) -> Tensor:
        """Cross-correlate, and wrap sums to 24 bits where they may reach beyond.

        Sums of integers are exact, but there are algorithms (Winograd's) that multiply by fractions. They give
        themselves away by results that are no integers; then patches are multiplied by a matrix.
        """
        layer, weight, stride, padding = self.layer, self.weight, self.layer.stride, self.layer.padding
        if self.pool != (1, 1):
            x = _pooled(F.pad(x, (padding[1], padding[1], padding[0], padding[0])), self.pool)
            stride, padding = (stride[0] // self.pool[0], stride[1] // self.pool[1]), (0, 0)
        x = x.to(weight)
        sums = F.conv2d(x, weight, None, stride, padding, layer.dilation, layer.groups)
        if any(map(bool, sums.frac().aminmax())):
            patches = F.unfold(x, weight.shape[2:], layer.dilation, padding, stride)
            products = weight.reshape(layer.groups, len(weight) // layer.groups, -1) @ patches.reshape(
                len(x), layer.groups, -1, patches.shape[2]
            )
            sums = products.reshape(sums.shape)
        if not self.wraps:
            return sums
        wide = _LIMIT << _SHIFT
        return torch.remainder(sums + wide, 2 * wide) - wide


def _pooled(x: Tensor, pool: tuple[int, int]) -> Tensor:
    """Add up blocks of ones and zeros, uint8 [N, C, H, W]; what is left over at the end belongs to no block."""
    for axis, size in zip((2, 3), pool, strict=True):
        first, *others = x.unfold(axis, size, size).unbind(-1)
        x = sum(others, first)
    return x
