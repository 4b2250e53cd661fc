"""Reads netx files, ours and lava-dl's, and refuses what netx would skip, clip or misread."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, cast

import attrs
import numpy as np

from spikec.backends.netx.file import FORMATS, Held
from spikec.backends.netx.sim import NEVER, UNITY, IntegerLayer
from spikec.ir.errors import InvalidModelError, shown, warn
from spikec.ir.loihi import WEIGHT
from spikec.ir.types import Array, fits, ints
from spikec.ir.untrusted import Numbers, allowed_bytes, read_hdf5, too_large

_REFUSAL = "is not a netx file"
_SAVED = "give a file that spikec.save wrote for the target netx, or one of lava-dl that netx runs"
_RUNS = "netx runs input, flatten, dense, dense_rec and conv; a pool can be a conv with a group a channel"
_AGAIN = 'compile it again: spikec.compile(model, "netx")'
#: the largest number that counts or sizes anything
_MOST = (1 << 31) - 1
#: slayer's smallest weight, which netx clips where no weight is positive
_SMALLEST = -256
#: what netx takes unchanged; lava keeps a bias in 16 bits
_WEIGHT = Numbers(f"within {_SMALLEST} and {WEIGHT}; netx takes up to {WEIGHT} unchanged", _SMALLEST, WEIGHT)
_BIAS = Numbers("within -32767 and 32767, as lava keeps them in 16 bits", -32767, 32767)


def read(path: Path, max_bytes: int | None = None) -> tuple[Held, Held | None]:
    """Return what :func:`write` was given.

    Args:
        path: of the file.
        max_bytes: what its arrays, and the signals of one sample, may take in memory; None for half a gigabyte more
            than the file takes.

    Raises:
        InvalidModelError: not such a file, or netx would skip, clip or misread a part of it.
    """
    tree = read_hdf5(path, ["layer", "spikec"], _REFUSAL, _SAVED, max_bytes)
    parts = {name: _Part(path, name, tree[name]) for name in tree if isinstance(tree[name], dict)}
    if "layer" not in parts:
        raise InvalidModelError(f"{path} {_REFUSAL}: it has no group layer", hint=_SAVED)
    ours = parts.get("spikec")
    if ours is not None and (found := ours.whole("format", 0)) not in FORMATS:
        hint = "read it with the spikec that wrote it, or compile again"
        raise InvalidModelError(f"{path} has format {found}, this spikec reads {FORMATS}", hint=hint)
    most = allowed_bytes(path, max_bytes)
    if ours is None or "layer" not in ours.values:
        return _read(parts["layer"], ours, most), None
    return _read(ours.part("layer"), ours, most), _read(parts["layer"], ours.part("stock"), most)


@attrs.frozen
class _Part:
    """A group of a file, whose values are asked for by what they must be.

    Attributes:
        path: of the file.
        place: of the group in it.
        values: by name.
    """

    path: Path
    place: str
    values: dict[str, Any]

    def refuse(self, why: str, hint: str = _SAVED) -> NoReturn:
        """Raise an InvalidModelError about this part of the file."""
        raise InvalidModelError(f"{self.path} {_REFUSAL}: {why}", location=f"/{self.place}", hint=hint)

    def part(self, name: str) -> "_Part":
        """Return a group in this one."""
        found = self.values.get(name)
        if not isinstance(found, dict):
            self.refuse(f"it has no group {name}")
        return _Part(self.path, f"{self.place}/{name}", found)

    def texts(self, name: str) -> list[str]:
        """Return a text, or all of an array of them."""
        found = np.asarray(self.values.get(name), dtype=object)
        if not all(isinstance(text, str) for text in found.flat):
            self.refuse(f"its {name} is {shown(self.values.get(name))}, and must be a text")
        return [str(text) for text in found.flat]

    def numbers(self, name: str, kind: Numbers) -> Array:
        """Return numbers, of any rank."""
        found = self.values.get(name)
        if found is None:
            self.refuse(f"it has no {name}")
        if wrong := kind.wrong(name, found):
            self.refuse(wrong[0], _AGAIN)
        return np.asarray(found)

    def one(self, name: str, kind: Numbers) -> Any:
        """Return one number."""
        found = self.numbers(name, kind)
        if found.size != 1:
            self.refuse(f"its {name} has shape {found.shape}, and must be {kind.called}")
        return found.item()

    def whole(self, name: str, least: int, most: int = _MOST) -> int:
        """Return one whole number."""
        return int(self.one(name, Numbers(f"a whole number within {least} and {most}", least, most, whole=True)))

    def sizes(self, name: str, least: int, count: int | None = None, most: int = _MOST) -> tuple[int, ...]:
        """Return whole numbers: so many, for which one may stand, or any number of them."""
        found = self.numbers(name, Numbers(f"whole numbers from {least} on", least, most, whole=True)).reshape(-1)
        if count is not None and found.size not in (1, count):
            self.refuse(f"its {name} has {found.size} numbers, and must have {count}")
        return ints(found if count is None else np.broadcast_to(found, count))


def _read(groups: _Part, ours: _Part | None, max_bytes: int) -> Held:
    shape, layers = _read_layers(groups, ours, max_bytes)
    facts = _facts_of_others(groups.path, layers) if ours is None else _read_facts(ours, shape, layers)
    return Held(shape, layers, facts)


def _read_layers(groups: _Part, ours: _Part | None, max_bytes: int) -> tuple[tuple[int, ...], list[IntegerLayer]]:
    """Return the shape of what the first layer is fed, and the layers; each fits the one before."""
    parts = [groups.part(str(i)) for i in range(len(groups.values))]
    before, parts = _first(groups, parts)
    kinds = [part.texts("type")[:1] for part in parts]
    count = len(parts) - kinds.count(["flatten"])
    places = (part.place for part, kind in zip(parts, kinds, strict=True) if kind != ["flatten"])
    names, relays = [f"layer_{place.rpartition('/')[2]}" for place in places], (0,) * count
    if ours is not None:
        names, relays = ours.texts("names"), ours.sizes("relays", 0)
    if not count or not count == len(set(names)) == len(relays):
        (ours or groups).refuse(f"it has {count} layer(s) of neurons, and must name each in a way of its own")
    if kinds[0] != ["conv"]:
        before = (math.prod(before),)
    first = before
    _check_size(groups, first, max_bytes)
    layers: list[IntegerLayer] = []
    truncated: list[str] = []
    for part, kind in zip(parts, kinds, strict=True):
        if kind == ["flatten"]:
            if layers and len(layers[-1].shape) == 1:
                part.refuse("it flattens a vector, which netx cannot", "leave that block out")
            before = (math.prod(before),)
            continue
        layers.append(_layer(part, before, names[len(layers)], relays[len(layers)], truncated))
        before = layers[-1].shape
        _check_size(part, before, max_bytes)
    if layers[-1].relays:
        groups.refuse("its last layer repeats inputs for a next one")
    if truncated:
        warn(f"{groups.path}: fractions are cut off, as netx does, of {', '.join(truncated)}")
    return first, layers


def _check_size(part: _Part, shape: tuple[int, ...], max_bytes: int) -> None:
    """Refuse a signal of which one sample takes too much memory."""
    if (needed := 4 * math.prod(shape)) > max_bytes:
        raise too_large(part.path, needed, f"/{part.place}")


def _first(groups: _Part, parts: list[_Part]) -> tuple[tuple[int, ...], list[_Part]]:
    """Return the shape that the input layer states, or a dense layer that is the first, and the parts behind it."""
    kind = parts[0].texts("type") if parts else []
    if kind == ["input"]:
        if "neuron" in parts[0].values:
            parts[0].refuse("its input layer has neurons, which netx feeds nothing", "leave that block out")
        return parts[0].sizes("shape", 1), parts[1:]
    if kind not in (["dense"], ["dense_rec"]):
        hint = 'put a layer of type "input" in front that says its shape' if kind == ["conv"] else _RUNS
        groups.refuse(f"its first layer is not an input, and is {' '.join(kind) or 'missing'}", hint)
    return parts[0].numbers("weight", _WEIGHT).shape[-1:], parts


def _layer(part: _Part, before: tuple[int, ...], name: str, relays: int, truncated: list[str]) -> IntegerLayer:
    """Return a layer that is fed a signal of shape ``before``; what has fractions is added to ``truncated``."""
    (kind,) = part.texts("type")[:1] or [""]
    if kind not in ("dense", "dense_rec", "conv"):
        part.refuse(f"it is a {kind!r}, which netx has not", _RUNS)
    shape, neuron = part.sizes("shape", 1), _neuron(part)
    geometry: dict[str, Any] = {}
    if kind == "conv":
        geometry = {key: part.sizes(key, least, 2) for key, least in (("stride", 1), ("padding", 0), ("dilation", 1))}
        geometry["groups"] = part.whole("groups", 1)
    else:
        shape = (math.prod(shape),)  # slayer writes (N, 1, 1)
    arrays: dict[str, Any] = {
        key: part.numbers(key, _BIAS if key == "bias" else _WEIGHT)
        for key in ("weight", "weight_rec", "bias")
        if key == "weight" or key in part.values
    }
    truncated += [f"/{part.place}/{key}" for key, found in arrays.items() if (found % 1).any()]
    if kind == "conv" and "softReset" in part.values:
        neuron = part.part("softReset")
        arrays["weight_rec"] = np.diag(neuron.numbers("weight", _WEIGHT).reshape(-1))
    layer = IntegerLayer(
        kind=cast(Any, kind),
        name=name,
        shape=shape,
        threshold=neuron.whole("vThMant", 0, NEVER),
        current_decay=neuron.sizes("iDecay", 0, shape[0], UNITY),
        voltage_decay=neuron.sizes("vDecay", 0, shape[0], UNITY),
        relays=relays,
        **geometry,
        **arrays,
    )
    if kind != "conv":
        weights = [w for w in (layer.weight, layer.weight_rec) if w is not None and w.size]
        if not any(w.any() for w in weights):
            part.refuse("it has weights of zero only, netx cannot load it", _AGAIN)
        if min(w.min() for w in weights) == _SMALLEST and max(w.max() for w in weights) <= 0:
            part.refuse(f"it has a weight of {_SMALLEST} and none that is positive, which netx clips", _AGAIN)
    _check_shapes(part, layer, before)
    return layer


def _neuron(part: _Part) -> _Part:
    """Return the group of a layer's neurons, which are those of the simulation."""
    neuron = part.part("neuron")
    kind = " ".join(neuron.texts("type"))
    if kind not in ("CUBA", "LOIHI"):
        neuron.refuse(f"its neurons are {kind}", "use neurons of slayer.block.cuba")
    if "delay" in part.values and np.any(part.numbers("delay", Numbers("numbers"))):
        part.refuse("its axons have delays", "train it with delay=False")
    return neuron


def _check_shapes(part: _Part, layer: IntegerLayer, before: tuple[int, ...]) -> None:
    """Refuse a layer whose arrays do not fit each other, its shape, or the signal that it is fed."""
    if layer.kind == "conv":
        agree = layer.weight.ndim == 4 and len(before) == 3 and before[0] == layer.weight.shape[1] * layer.groups
        agree = agree and len(layer.weight) % layer.groups == 0
        windows = zip(before[1:], layer.weight.shape[2:], layer.padding, layer.stride, layer.dilation, strict=False)
        sizes = ((size + 2 * p - d * (k - 1) - 1) // s + 1 for size, k, p, s, d in windows)
        wanted = (len(layer.weight), *sizes) if agree else ()
    else:
        agree = layer.weight.ndim == 2 and layer.weight.shape[1:] == before
        wanted = (len(layer.weight),) if agree else ()
    if not agree or wanted != layer.shape:
        part.refuse(f"its weight of shape {layer.weight.shape} does not make {layer.shape} of {before}")
    square = layer.weight.shape[:1] * 2
    if layer.kind == "conv" and "weight_rec" in part.values:
        part.refuse("it is a convolution with a weight_rec, which netx does not read")
    if (layer.weight_rec is None and layer.kind == "dense_rec") or (
        layer.weight_rec is not None and (layer.kind == "dense" or layer.weight_rec.shape != square)
    ):
        part.refuse(f"a dense_rec, and nothing else, has a weight_rec, of shape {square}")
    if layer.bias is not None and layer.bias.shape != square[:1]:
        part.refuse(f"its bias has shape {layer.bias.shape}, and must have {square[:1]}")
    if layer.relays >= layer.shape[0]:
        part.refuse(f"{layer.relays} of its {layer.shape[0]} neurons repeat an input, which are all")


def _facts_of_others(path: Path, layers: Sequence[IntegerLayer]) -> dict[str, Any]:
    """Return the facts of a file that states none: its inputs are spikes, and its outputs stand for themselves."""
    shape = layers[-1].shape
    soft = any(layer.weight_rec is not None and not np.any(layer.current_decay) for layer in layers)
    facts: dict[str, Any] = {"name": path.stem, "reset": "soft" if soft else "hard", "output_shape": shape}
    return facts | {"constants": 0, "pulses": 0, "timesteps": 0, "output_scale": np.ones((1,) * len(shape))}


def _read_facts(ours: _Part, shape: tuple[int, ...], layers: Sequence[IntegerLayer]) -> dict[str, Any]:
    """Return what netx ignores; it fits the layers, which are fed a signal of that shape."""
    facts: dict[str, Any] = {name: " ".join(ours.texts(name)) for name in ("name", "reset")}
    facts |= {name: ours.whole(name, 0) for name in ("constants", "pulses", "timesteps")}
    facts["output_shape"] = ours.sizes("output_shape", 1)
    facts["output_scale"] = ours.numbers("output_scale", Numbers("positive numbers", 0, above=True))
    channels = shape[0] - facts["constants"] - facts["pulses"]
    if channels < 1:
        ours.refuse(f"all of its {shape[0]} inputs are always on")
    if any(name.startswith("encoder_") for name in ours.values):
        facts["encoder_shape"] = ours.sizes("encoder_shape", 1)
        facts["encoder_threshold"] = float(ours.one("encoder_threshold", Numbers("a positive number", 0, above=True)))
        facts["encoder_v_init"] = float(ours.one("encoder_v_init", Numbers("a number")))
        facts["encoder_signed"] = bool(ours.whole("encoder_signed", 0, 1))
        fed = math.prod(facts["encoder_shape"]) * (2 if facts["encoder_signed"] else 1)
        if channels * math.prod(shape[1:]) != fed:
            shapes = f"{facts['encoder_shape']}, and the first layer takes {shape}"
            ours.refuse(f"its encoder makes {fed} inputs of {shapes}")
    if math.prod(facts["output_shape"]) != math.prod(layers[-1].shape):
        ours.refuse(f"its output_shape is {facts['output_shape']}, and the last layer has {layers[-1].shape}")
    if not fits(facts["output_scale"], facts["output_shape"]):
        ours.refuse(f"its output_scale has shape {facts['output_scale'].shape}, the output {facts['output_shape']}")
    return facts
