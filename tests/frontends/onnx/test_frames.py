"""Nodes on frames that are joined to the batch: what is read of them is what onnxruntime computes."""

import numpy as np
import pytest

import spikec
from onnx_models import agrees, model, node, random, reference
from spikec.ir.errors import UnsupportedOpError

CONSTANTS = {
    "w": random(6, 2, 3),
    "w2": random(6, 2, 3, 2),
    "up": random(4, 3, 3),
    "up2": random(4, 3, 3, 2),
    "six": random(6),
    "four": random(4),
    "var": np.abs(random(4)) + 0.5,
    "slope": random(4, 1),
    "slope2": random(4, 1, 1),
    "slopes": random(1, 4, 1, 1),
    "by_row": random(6, 1),
    "one": random(1),
    "axis": np.array([2]),
    "row": np.array([-1]),
}
#: nodes that make z of y, which is [B * 5, 4, 8] with the first, and [B * 5, 4, 6, 8] with the others
LINES = {
    "conv": [node("Conv", "y w six", "z", strides=[2], pads=[1, 0], dilations=[2], group=2)],
    "conv, same": [node("Conv", "y w", "z", auto_pad="SAME_LOWER", group=2, kernel_shape=[3])],
    "transposed": [node("ConvTranspose", "y up six", "z", strides=[2], pads=[1, 0], output_padding=[1], group=2)],
    "average": [node("AveragePool", "y", "z", kernel_shape=[3], strides=[2], pads=[1, 1], count_include_pad=1)],
    "maximum": [node("MaxPool", "y", "z", kernel_shape=[3], strides=[2], pads=[1, 0], dilations=[2])],
    "global": [node("GlobalAveragePool", "y", "a"), node("GlobalMaxPool", "y", "b"), node("Sub", "b a", "z")],
    "batch norm": [node("BatchNormalization", "y four four four var", "z")],
    "prelu": [node("PRelu", "y slope", "z")],
}
MAPS = {
    "conv": [node("Conv", "y w2 six", "z", strides=[2, 1], pads=[1, 0, 0, 1], dilations=[1, 2], group=2)],
    "two convs with one weight": [node("Conv", "y w2 six", "a", group=2), node("Conv", "y w2", "b", group=2)]
    + [node("Mul", "a one", "c"), node("Add", "b c", "z")],
    "transposed": [node("ConvTranspose", "y up2", "z", strides=[2, 3], output_shape=[13, 24], group=2)],
    "average": [node("AveragePool", "y", "z", kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 0, 1], ceil_mode=1)],
    "maximum": [node("MaxPool", "y", "z", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 0, 1, 1], ceil_mode=1)],
    "global": [node("GlobalAveragePool", "y", "a"), node("GlobalMaxPool", "y", "b"), node("Sub", "b a", "z")],
    "batch norm": [node("BatchNormalization", "y four four four var", "z", epsilon=0.1)],
    "prelu of channels": [node("PRelu", "y slope2", "a"), node("PRelu", "a slopes", "z")],
    "prelu of rows and of all": [node("PRelu", "y by_row", "a"), node("PRelu", "a one", "z")],
}


def around(nodes, shape, result, fixed=False):
    """A model that joins the second axis of each sample to the batch, and sums up over it at the end."""
    constants = {"to": np.array([-1, *shape[1:]]), "back": np.array([-1, shape[0], *result])}
    nodes = [node("Reshape", "x to", "y", name="joins"), *nodes, node("Reshape", "z back", "apart")]
    nodes += [node("Transpose", "apart", "out", perm=[0, *range(2, 2 + len(result)), 1])]
    return model(nodes, [3 if fixed else "n", *shape], 17, "out", **constants, **CONSTANTS)


def shape_of(nodes, shape):
    """What the nodes give for a frame."""
    frame = [1, *shape[1:]]
    (result,) = reference(model(nodes, {"y": frame}, 17, "z", **CONSTANTS), y=np.zeros(frame, "float32"))
    return result.shape[1:]


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize(("name", "rank"), [*((name, 1) for name in LINES), *((name, 2) for name in MAPS)])
def test_a_node_on_frames_is_onnxs(name, rank, fixed):
    nodes, shape = (LINES, (5, 4, 8)) if rank == 1 else (MAPS, (5, 4, 6, 8))
    agrees(around(nodes[name], shape, shape_of(nodes[name], shape), fixed), *shape)


@pytest.mark.parametrize(
    "nodes",
    [
        [node("InstanceNormalization", "y four four", "z")],
        [node("LRN", "y", "z", size=3)],
        [node("Conv", "kernel y", "z")],
        [node("Transpose", "y", "a", perm=[1, 0, 2, 3]), node("MaxPool", "a", "z", kernel_shape=[2, 2])],
        [node("Transpose", "y", "a", perm=[1, 0, 2, 3]), node("PRelu", "a one", "z")],
        [node("Unsqueeze", "y axis", "a"), node("MaxPool", "a", "z", kernel_shape=[1, 2, 2])],
        [node("Reshape", "y row", "a"), node("PRelu", "a one", "z")],
    ],
)
def test_what_does_not_treat_each_frame_by_itself_or_is_not_read_so_is_refused(nodes):
    proto = around(nodes, (5, 4, 6, 8), (4, 6, 8))
    proto.graph.initializer.append(model([], ["n"], kernel=random(1, 4, 1, 1)).graph.initializer[0])
    with pytest.raises(UnsupportedOpError, match="cannot take such a tensor"):
        spikec.load(proto)
