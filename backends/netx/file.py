"""The HDF5 layout that ``lava.lib.dl.netx.hdf5.Network`` reads, written with h5py alone.

``/layer/0`` is the input's shape, then one group a layer, strictly in order; everything in torch order, which
netx reverses. ``/spikec`` holds what netx ignores: the host's encoder, output scale and names.

Two networks are in a file of one that netx has not (soft reset behind convolutions) with another that stands in for it:
its layers are then in ``/spikec/layer``, and ``/layer`` and the facts in ``/spikec/stock`` are the other's.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import h5py
import numpy as np

from spikec.backends.netx.sim import UNITY, IntegerLayer

#: of a file with one network, and with two
FORMATS = 1, 2

#: the datasets of neurons, and of softReset, that say how they decay and fire, and the fields of a layer
_SOFT = {"iDecay": "current_decay", "vDecay": "voltage_decay", "vThMant": "threshold"}


@attrs.frozen(eq=False)
class Held:
    """A network as a file holds it.

    Attributes:
        input_shape: of what the first layer is fed, in torch order, always-on inputs included.
        layers: in order.
        facts: what netx ignores.
    """

    input_shape: tuple[int, ...]
    layers: Sequence[IntegerLayer]
    facts: Mapping[str, Any]


def write(path: Path, held: Held, fall_back: Held | None = None) -> None:
    """Write a file, which is prepared in memory: HDF5 ends the process where the disk is full.

    Args:
        path: overwritten if it exists.
        held: the network.
        fall_back: what stock netx is to read in its place; None for the same.
    """
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        ours = file.create_group("spikec")
        ours["format"] = FORMATS[fall_back is not None]
        ours["producer"] = "spikec"
        if fall_back is None:
            _write(file, ours, held)
        else:
            _write(ours, ours, held)
            _write(file, ours.create_group("stock"), fall_back)
    path.write_bytes(buffer.getvalue())


def _write(place: Any, ours: Any, held: Held) -> None:
    """Write the layers into one group, and what netx ignores into another."""
    groups = place.create_group("layer")
    _start(groups, "input", held.input_shape)
    before = held.input_shape
    for layer in held.layers:
        if layer.kind != "conv" and len(before) > 1:
            _start(groups, "flatten", (int(np.prod(before)), 1, 1))  # as slayer writes it
        group = _start(groups, layer.kind, layer.shape)
        for key, value in _contents(layer).items():
            group[key] = value
        for key in ("weight", "weight_rec", "bias"):
            if getattr(layer, key) is not None and (key, layer.kind) != ("weight_rec", "conv"):
                group.create_dataset(key, data=getattr(layer, key).astype(np.int32), compression="gzip")
        before = layer.shape
    ours["names"] = [layer.name for layer in held.layers]
    ours["relays"] = [layer.relays for layer in held.layers]
    for key, value in held.facts.items():
        ours[key] = value


def _start(groups: Any, kind: str, shape: tuple[int, ...]) -> Any:
    group = groups.create_group(str(len(groups)))
    group["type"] = np.array([kind.encode()], dtype="S10")
    group["shape"] = np.array(shape, dtype=np.int64)
    return group


def stock(layer: IntegerLayer) -> IntegerLayer:
    """Return what netx makes of a layer by itself: it has no convolution with soft reset, and there it is hard.

    Such a neuron starts at 0, and fires at the threshold that a spike would take off.
    """
    if layer.kind != "conv" or layer.weight_rec is None:
        return layer
    threshold = int(-layer.weight_rec.min()) - 1
    made: IntegerLayer = attrs.evolve(layer, weight_rec=None, threshold=threshold, current_decay=UNITY, voltage_decay=0)
    return made


def _contents(layer: IntegerLayer) -> dict[str, Any]:
    """Return what the group of a layer holds besides its kind and shape, by path."""
    neurons = stock(layer)
    held: dict[str, Any] = {
        "neuron/type": np.array([b"CUBA"], dtype="S10"),
        "neuron/iDecay": neurons.current_decay,
        "neuron/vDecay": neurons.voltage_decay,
        "neuron/vThMant": neurons.threshold,
        "neuron/refDelay": 1,
        "neuron/gradedSpike": False,
    }
    if layer.weight_rec is not None and neurons is not layer:  # what our loader makes of them
        held |= {f"softReset/{key}": getattr(layer, name) for key, name in _SOFT.items()}
        held["softReset/weight"] = np.diagonal(layer.weight_rec)
    if layer.kind != "conv":
        return {**held, "inFeatures": layer.weight.shape[1], "outFeatures": layer.weight.shape[0]}
    held |= {key: np.array(getattr(layer, key), dtype=np.int64) for key in ("stride", "padding", "dilation")}
    return {
        **held,
        "inChannels": layer.weight.shape[1] * layer.groups,
        "outChannels": layer.weight.shape[0],
        "kernelSize": np.array(layer.weight.shape[2:], dtype=np.int64),
        "groups": layer.groups,
    }
