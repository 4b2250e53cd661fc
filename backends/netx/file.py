"""The HDF5 layout that ``lava.lib.dl.netx.hdf5.Network`` reads, written and read with h5py alone.

``/layer/0`` is the input's shape, then one group a layer, strictly in order; everything in torch order, which
netx reverses. ``/spikec`` holds what netx ignores: the host's encoder, output scale and names.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np

from spikec.backends.netx.plan import WEIGHT
from spikec.backends.netx.sim import IntegerLayer
from spikec.ir.errors import InvalidModelError
from spikec.ir.types import ints

_FORMAT = 1


def write(path: Path, input_shape: tuple[int, ...], layers: Sequence[IntegerLayer], facts: Mapping[str, Any]) -> None:
    """Write a file, which is prepared in memory: HDF5 ends the process where the disk is full.

    Args:
        path: overwritten if it exists.
        input_shape: of what the first layer is fed, in torch order, always-on inputs included.
        layers: in order.
        facts: datasets of ``/spikec``.
    """
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        groups = file.create_group("layer")
        _start(groups, "input", input_shape)
        before = input_shape
        for layer in layers:
            if layer.kind != "conv" and len(before) > 1:
                _start(groups, "flatten", (int(np.prod(before)),))
            group = _start(groups, layer.kind, layer.shape)
            for key, value in _contents(layer).items():
                group[key] = value
            for key in ("weight", "weight_rec", "bias"):
                if getattr(layer, key) is not None:
                    group.create_dataset(key, data=getattr(layer, key).astype(np.int32), compression="gzip")
            before = layer.shape
        ours = file.create_group("spikec")
        ours["format"] = _FORMAT
        ours["producer"] = "spikec"
        ours["names"] = [layer.name for layer in layers]
        ours["relays"] = [layer.relays for layer in layers]
        for key, value in facts.items():
            ours[key] = value
    path.write_bytes(buffer.getvalue())


def _start(groups: Any, kind: str, shape: tuple[int, ...]) -> Any:
    group = groups.create_group(str(len(groups)))
    group["type"] = np.array([kind.encode()], dtype="S10")
    group["shape"] = np.array(shape, dtype=np.int64)
    return group


def _contents(layer: IntegerLayer) -> dict[str, Any]:
    """Return what the group of a layer holds besides its kind and shape, by path."""
    held: dict[str, Any] = {
        "neuron/type": np.array([b"CUBA"], dtype="S10"),
        "neuron/iDecay": layer.current_decay,
        "neuron/vDecay": layer.voltage_decay,
        "neuron/vThMant": layer.threshold,
        "neuron/refDelay": 1,
        "neuron/gradedSpike": False,
    }
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


def read(path: Path) -> tuple[tuple[int, ...], list[IntegerLayer], dict[str, Any]]:
    """Return the input's shape, the layers and the facts that :func:`write` was given.

    Raises:
        InvalidModelError: not such a file, or netx would skip, clip or misread a part of it.
    """
    try:
        with h5py.File(path, "r") as file:
            if "layer" not in file or "spikec" not in file:
                raise InvalidModelError(
                    f"{path} was not written by spikec: it does not say how its input is encoded",
                    hint="run it in lava.lib.dl.netx",
                )
            facts = {key: _value(dataset[()]) for key, dataset in file["spikec"].items()}
            groups = file["layer"]
            return _read_layers(path, [groups[str(i)] for i in range(len(groups))], facts)
    except (OSError, KeyError) as error:
        raise InvalidModelError(f"{path} is not a netx file: {error}") from None


def _value(stored: Any) -> Any:
    """Return a string, a number or an array, as it was before it was written."""
    plain = stored.decode() if isinstance(stored, bytes) else stored
    return plain.item() if isinstance(plain, np.generic) else plain


def _read_layers(
    path: Path, groups: Sequence[Any], facts: dict[str, Any]
) -> tuple[tuple[int, ...], list[IntegerLayer], dict[str, Any]]:
    if facts["format"] != _FORMAT:
        raise InvalidModelError(f"{path} has format {facts['format']}, this spikec reads {_FORMAT}")
    names = iter([name.decode() for name in facts.pop("names")])
    relays = iter(facts.pop("relays").tolist())
    layers = []
    for group in groups:
        kind = np.ravel(group["type"][()])[0].decode()
        if kind in ("dense", "dense_rec", "conv"):
            layers.append(_layer(group, kind, next(names), next(relays)))
            _guard(path, group.name, layers[-1])
        elif kind not in ("input", "flatten"):
            raise InvalidModelError(f"{path}: {group.name} is a {kind!r}, which netx has not")
    return ints(groups[0]["shape"]), layers, facts


def _guard(path: Path, where: str, layer: IntegerLayer) -> None:
    largest = max(int(np.abs(w).max(initial=0)) for w in (layer.weight, layer.weight_rec) if w is not None)
    if largest > WEIGHT:
        raise InvalidModelError(f"{path}: {where} has a weight of {largest}, netx takes up to {WEIGHT} unchanged")
    if layer.kind != "conv" and largest == 0:
        raise InvalidModelError(f"{path}: {where} has weights of zero only, netx cannot load it")


def _layer(group: Any, kind: str, name: str, relays: int) -> IntegerLayer:
    optional: dict[str, Any] = {key: group[key][()] for key in ("weight_rec", "bias") if key in group}
    if kind == "conv":
        for key in ("stride", "padding", "dilation"):
            optional[key] = ints(np.broadcast_to(group[key][()], 2))
        optional["groups"] = int(group["groups"][()])
    neuron = group["neuron"]
    return IntegerLayer(
        kind=cast(Any, kind),
        name=name,
        shape=ints(group["shape"]),
        weight=group["weight"][()],
        threshold=int(neuron["vThMant"][()]),
        current_decay=int(neuron["iDecay"][()]),
        voltage_decay=int(neuron["vDecay"][()]),
        relays=relays,
        **optional,
    )
