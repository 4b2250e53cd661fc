"""The integer arithmetic of netx's layers in fixed point, in numpy.

Time-steps are aligned: layer l's column t here is its column t + 1 + l in lava, where every synapse takes a
step. Nothing else differs.
"""

from collections.abc import Sequence
from typing import Any, Literal

import attrs
import numpy as np

from spikec.ir.types import Array, readonly

#: 2^23: currents wrap and voltages saturate here
_LIMIT = 1 << 23
_UNITY = 4096
#: weights, thresholds and biases count in units of 2^6
_SHIFT = 6


def _integers(value: Array | None) -> Array | None:
    return None if value is None else readonly(np.trunc(value), np.int64)


@attrs.frozen(eq=False)
class IntegerLayer:
    """One layer of a file with its neurons.

    Attributes:
        kind: the format's name of it.
        name: of the neuron or output in the graph.
        shape: of its neurons in torch order, the relays included.
        weight: (O, I), or (O, I/groups, kh, kw) for a conv.
        weight_rec: (O, O), from its own spikes of the step before.
        bias: (O,), added to the voltage at every step, or None.
        stride, padding, dilation, groups: of a conv.
        threshold: ``vThMant``; a neuron fires above it.
        current_decay, voltage_decay: of 4096; 4096 forgets all at every step.
        relays: that many of the last neurons repeat the always-on input for the next layer's bias.
    """

    kind: Literal["dense", "dense_rec", "conv"]
    name: str
    shape: tuple[int, ...]
    weight: Array = attrs.field(converter=_integers)
    threshold: int
    current_decay: int
    voltage_decay: int
    weight_rec: Array | None = attrs.field(default=None, converter=_integers)
    bias: Array | None = attrs.field(default=None, converter=_integers)
    stride: tuple[int, ...] = (1, 1)
    padding: tuple[int, ...] = (0, 0)
    dilation: tuple[int, ...] = (1, 1)
    groups: int = 1
    relays: int = 0


@attrs.frozen(eq=False)
class Response:
    """What a layer did over all steps.

    Attributes:
        spikes: bool [T, B, ...].
        voltage: int32 [B, ...], after the last step, in weight units.
        overflows: how often a current wrapped or a voltage saturated.
    """

    spikes: Array
    voltage: Array
    overflows: int


def run_layer(layer: IntegerLayer, spikes: Array) -> Response:
    """Run one layer over all steps.

    Args:
        layer: its integers.
        spikes: bool [T, B, ...], those of the layer before at the same (aligned) steps.
    """
    if layer.kind == "conv":
        currents = _conv(layer, spikes)
    else:
        currents = _product(spikes.reshape(-1, layer.weight.shape[1]), layer.weight).reshape(*spikes.shape[:2], -1)
    bias = np.zeros((), dtype=np.int32)
    if layer.bias is not None:
        bias = layer.bias.astype(np.int32).reshape(-1, *[1] * (len(layer.shape) - 1)) << _SHIFT
    feedback = _feedback(layer)
    u = np.zeros(currents.shape[1:], dtype=np.int32)
    v = np.zeros_like(u)
    fired = np.zeros(currents.shape, dtype=bool)
    overflows = 0
    last = fired[0]
    for t, current in enumerate(currents):
        if feedback is not None:
            current = current + (last * feedback if feedback.ndim == 1 else _product(last, feedback))
        u, wrapped = _wrap(_decay(u, layer.current_decay) + (current << _SHIFT))
        v = _decay(v, layer.voltage_decay) + u + bias
        v, saturated = _saturate(v)
        last = fired[t] = v > layer.threshold << _SHIFT
        v[last] = 0
        overflows += wrapped + saturated
    return Response(fired, v >> _SHIFT, overflows)


def run_layers(layers: Sequence[IntegerLayer], spikes: Array) -> list[Response]:
    """Run layers one behind the other; see :func:`run_layer`."""
    responses: list[Response] = []
    for layer in layers:
        responses.append(run_layer(layer, spikes))
        spikes = responses[-1].spikes
    return responses


def _decay(x: Array, decay: int) -> Array:
    """Return ``x (4096 - decay) / 4096``, rounded towards zero."""
    if decay == 0:
        return x
    if decay == _UNITY:
        return np.zeros_like(x)
    kept: Array = np.sign(x) * ((np.abs(x).astype(np.int64) * (_UNITY - decay)) >> 12).astype(np.int32)
    return kept


def _wrap(x: Array) -> tuple[Array, int]:
    """Wrap currents beyond 24 bits to the other end, and count them."""
    if x.max() <= _LIMIT and x.min() > -_LIMIT:
        return x, 0
    high, low = x > _LIMIT, x <= -_LIMIT
    return np.where(high, x - 2 * _LIMIT, np.where(low, x + 2 * _LIMIT, x)), int(high.sum() + low.sum())


def _saturate(x: Array) -> tuple[Array, int]:
    """Clip voltages to the last number of 24 bits, and count them."""
    if x.max() < _LIMIT and x.min() > -_LIMIT:
        return x, 0
    return np.clip(x, 1 - _LIMIT, _LIMIT - 1), int((np.abs(x) >= _LIMIT).sum())


def _feedback(layer: IntegerLayer) -> Array | None:
    """Return the recurrent weights, as a vector where they are diagonal."""
    matrix = layer.weight_rec
    if matrix is None:
        return None
    diagonal = np.diagonal(matrix)
    alone = np.count_nonzero(matrix) == np.count_nonzero(diagonal)
    return diagonal.astype(np.int32) if alone else matrix


def _product(spikes: Array, weight: Array) -> Array:
    """Multiply [N, I] spikes by [O, I] integers: with BLAS, in floats that hold every sum exactly."""
    exact = np.float32 if np.abs(weight).sum(1).max() < 1 << 24 else np.float64
    sums: Array = (spikes.astype(exact) @ weight.T.astype(exact)).astype(np.int32)
    return sums


def _conv(layer: IntegerLayer, spikes: Array) -> Array:
    """Cross-correlate, as a matrix product over patches; sums are wrapped to 24 bits."""
    pads = [(p, p) for p in layer.padding]
    x = np.pad(spikes.reshape(-1, *spikes.shape[2:]), [(0, 0), (0, 0), *pads])
    spans = [d * (k - 1) + 1 for d, k in zip(layer.dilation, layer.weight.shape[2:], strict=True)]
    cells: tuple[Any, ...] = (..., *(slice(None, None, step) for step in (*layer.stride, *layer.dilation)))
    windows = np.lib.stride_tricks.sliding_window_view(x, spans, axis=(2, 3))[cells]
    parts = []
    for read, weight in zip(np.split(windows, layer.groups, axis=1), np.split(layer.weight, layer.groups), strict=True):
        matrix = weight.reshape(len(weight), -1)
        parts.append(_product(read.transpose(0, 2, 3, 1, 4, 5).reshape(-1, matrix.shape[1]), matrix))
    sums = np.concatenate(parts, axis=1).reshape(*spikes.shape[:2], *layer.shape[1:], layer.shape[0])
    sums = np.ascontiguousarray(np.moveaxis(sums, 4, 2))
    return (sums + _LIMIT) % (2 * _LIMIT) - _LIMIT
