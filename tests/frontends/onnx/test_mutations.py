"""Damaged and altered ONNX files are read, or refused by a spikec error, within 5 s and 1 GB.

Half of the files have other bytes, the others another value at some place of the model. 2,000 of them by one command::

    SPIKEC_MUTATIONS=2000 python -m pytest -q -s tests/frontends/onnx/test_mutations.py

A file that ends otherwise is kept, and named in the failure.
"""

import collections
import os
import random as python_random
import warnings

import numpy as np
import onnx
import pytest
import torch

import nets
import spikec
from limited import outcome
from onnx_models import model, node, random

pytestmark = pytest.mark.slow

COUNT = int(os.environ.get("SPIKEC_MUTATIONS", "150"))
NUMBERS = [0, 1, 2, 3, 7, 10**4, 10**12, 2**31, 2**63 - 1]
NUMBERS += [-each for each in NUMBERS[1:]]
FLOATS = [0.0, -0.0, 1.0, -1.0, 0.5, 1e-38, 1e30, -1e30, float("nan"), float("inf"), float("-inf")]


def sources(folder):
    """Models of all kinds of nodes, as exporters write them and by hand."""
    found = []
    for name in ("resnet", "concat", "mlp_batchnorm"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            options = {"input_names": ["x"], "dynamic_axes": {"x": {0: "batch"}}}
            torch.onnx.export(nets.build(name), (nets.batch(name)[:2],), folder / "net.onnx", dynamo=False, **options)
        found.append(onnx.load(folder / "net.onnx"))
    map_nodes = [
        node("Pad", "x p", "a", name="pad"),
        node("Conv", "a w b", "c", name="conv", strides=[2, 2], auto_pad="SAME_UPPER"),
        node("LeakyRelu", "c", "d", name="leaky", alpha=0.1),
        node("MaxPool", "d", "e", name="pool", kernel_shape=[2, 2], ceil_mode=1),
        node("Resize", "e - s", "f", name="resize"),
        node("Slice", "f one nine one", "g", name="slice"),
        node("Clip", "g lo hi", "h", name="clip"),
        node("Transpose", "h", "i", name="transpose", perm=[0, 2, 3, 1]),
        node("ReduceMean", "i axes", "j", name="mean", keepdims=0),
        node("Gather", "j ids", "k", name="gather", axis=1),
        node("Gemm", "k gw gb", "y", name="gemm", transB=1),
    ]
    constants = {
        "p": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        "w": random(4, 2, 3, 3),
        "b": random(4),
        "s": np.array([1, 1, 2, 2], "f"),
        "one": np.array([1]),
        "nine": np.array([9]),
        "lo": np.float32(0),
        "hi": np.float32(6),
        "axes": np.array([1, 2]),
        "ids": np.array([0, 2, 1]),
        "gw": random(5, 3),
        "gb": random(5),
    }
    found.append(model(map_nodes, ["n", 2, 9, 9], 18, **constants))
    shape_nodes = [
        node("Shape", "x", "s", name="shape"),
        node("Gather", "s zero", "n", name="first"),
        node("Unsqueeze", "n", "m", name="unsqueeze", axes=[0]),
        node("Concat", "m rest", "to", name="concat", axis=0),
        node("Reshape", "x to", "f", name="reshape"),
        node("ConstantOfShape", "rest2", "c", name="constant"),
        node("Range", "r0 r1 r2", "r", name="range"),
        node("Cast", "r", "rf", name="cast", to=1),
        node("Tile", "rf reps", "t", name="tile"),
        node("Add", "c t", "u", name="add"),
        node("Softmax", "u", "v", name="soft"),
        node("MatMul", "f w", "o", name="matmul"),
        node("Add", "o v", "y", name="sum"),
    ]
    ints = {"zero": np.int64(0), "rest": np.array([-1]), "rest2": np.array([1, 6]), "reps": np.array([2])}
    ranges = {"r0": np.int64(0), "r1": np.int64(3), "r2": np.int64(1)}
    found.append(model(shape_nodes, ["n", 3, 4], 12, **ints, **ranges, w=random(12, 6)))
    return found


def places(message):
    """All (message, field) of a message and those in it."""
    for field, value in message.ListFields():
        yield message, field
        if field.message_type is not None:
            for each in value if field.is_repeated else [value]:
                yield from places(each)


def altered(proto, draw):
    """A copy of a model with another value at a place or two."""
    changed = type(proto)()
    changed.CopyFrom(proto)
    names = [name for each in proto.graph.node for name in (*each.input, *each.output)]
    kinds = sorted({each.name for each in onnx.defs.get_all_schemas()})
    for _ in range(draw.choice((1, 1, 2, 4))):
        found = list(places(changed.graph)) + [
            (each, each.DESCRIPTOR.fields_by_name["version"]) for each in changed.opset_import
        ]
        message, field = draw.choice(found)
        try:
            _alter(message, field, draw, names, kinds)
        except (ValueError, TypeError):  # a number that the field cannot hold
            continue
    return changed.SerializeToString()


def _alter(message, field, draw, names, kinds):
    value = getattr(message, field.name)
    number = (
        draw.choice(FLOATS) if field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE) else draw.choice(NUMBERS)
    )
    texts = [*names, *kinds] if field.name == "op_type" else [*names, "", "x", "NOTSET", "\0", "é" * 9]
    text = draw.choice(texts)
    if field.is_repeated:
        place = draw.randrange(len(value)) if len(value) else 0
        action = draw.choice(("delete", "double", "change", "change"))
        if action == "delete":
            del value[place]
        elif field.message_type is not None:
            if action == "double":
                value.add().CopyFrom(value[place])
            else:
                value[place].CopyFrom(value[draw.randrange(len(value))])
        elif action == "double":
            value.append(value[place])
        elif field.cpp_type == field.CPPTYPE_STRING:
            value[place] = text if field.type == field.TYPE_STRING else text.encode()
        else:
            value[place] = number
    elif field.message_type is not None:
        message.ClearField(field.name)
    elif field.cpp_type == field.CPPTYPE_STRING:
        other = text if field.type == field.TYPE_STRING else _cut(value, draw)
        setattr(message, field.name, other)
    else:
        setattr(message, field.name, number)


def _cut(data, draw):
    return draw.choice((data[:-1], data * 2, b"", draw.randbytes(len(data))))


def damaged(data, draw):
    """Bytes of which some are others, or are left out, or come twice."""
    data = bytearray(data)
    action = draw.choice(("flip", "flip", "cut", "drop", "double"))
    if action == "cut":
        return bytes(data[: draw.randrange(len(data))])
    for _ in range(draw.choice((1, 2, 8))):
        start = draw.randrange(len(data))
        stop = start + draw.choice((1, 2, 5, 60))
        if action == "flip":
            data[start] ^= draw.randrange(1, 256)
        elif action == "drop":
            del data[start:stop]
        else:
            data[start:start] = data[start:stop]
    return bytes(data)


def read(path):
    graph = spikec.load(path)
    assert graph.outputs


def test_mutated_files_are_read_or_refused(tmp_path, record_property):
    models, kept = sources(tmp_path), {}
    spikec.load(models[0])  # what is imported when it is needed is there before children are forked
    ends = []
    for i in range(COUNT):
        draw = python_random.Random(i)
        proto = models[i // 2 % len(models)]
        path = tmp_path / "mutated.onnx"
        path.write_bytes(altered(proto, draw) if i % 2 else damaged(proto.SerializeToString(), draw))
        end = outcome(read, path)
        ends.append(end)
        if not end.is_fine:
            kept[i] = end.said
            path.rename(tmp_path / f"mutated{i}.onnx")
    counts = dict(collections.Counter(end.kind for end in ends))
    record_property("mutated .onnx files", str(counts))
    print(f"\n{COUNT} mutated .onnx files: {counts}")
    shown = "\n".join(f"{i}: {end[:300]}" for i, end in kept.items())
    assert not kept, f"{len(kept)} of {COUNT}, see {tmp_path}:\n{shown}"
