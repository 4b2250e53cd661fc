"""What converters of every frontend share: each arrangement against numpy, and no op where nothing is to do."""

import attrs
import numpy as np
import pytest
import torch

import spikec
from spikec.extend.call import Call, Signal
from spikec.extend.composites import affine, along, expanded, permuted, reshaped, selected
from spikec.ir.graph import Graph
from spikec.ir.ops import BatchNorm, Conv, Flatten, Identity, Input, Linear, Output, Slice, Upsample
from spikec.ir.origin import Source
from spikec.ir.stages import IMPORTED
from spikec.ir.verify import verify


@attrs.frozen(eq=False)
class Here(Call):
    def arguments(self):
        return "x"


def built(function, *shape, dtype="float64"):
    """(the graph of ``function(at, x)``, an input, the result)."""
    graph = Graph("test")
    x = Signal(graph.add(Input(shape, dtype), name="x"))
    call = Here(graph, Source("here", "here", "test"), "here")
    graph.add(Output(), function(call, x).name, name="y")
    verify(graph, IMPORTED)
    x = torch.randn(2, *shape, dtype=torch.float64)
    return graph, x.numpy(), spikec.run(graph, x).numpy()


SHAPES = [(), (3,), (3, 4), (3, 4, 5), (2, 3, 4, 2), (2, 1, 3, 2, 2)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("varying", ["nothing", "first", "last", "all", "middle"])
def test_affine_varies_along_any_axes(shape, varying):
    axes = {
        "nothing": [],
        "first": [0],
        "last": [len(shape) - 1],
        "all": range(len(shape)),
        "middle": [len(shape) // 2],
    }
    sizes = [size if axis in axes[varying] else 1 for axis, size in enumerate(shape)]
    gain, shift = np.random.default_rng(0).normal(size=(2, *sizes))
    graph, x, y = built(lambda call, x: affine(call, x, gain, shift), *shape)
    assert np.abs(y - (gain * x + shift)).max() < 1e-12
    assert len(graph.match(BatchNorm)) == 1
    if varying in ("nothing", "first") and 1 <= len(shape) <= 4:
        assert len(graph) == 3


def test_affine_of_nothing_is_an_identity_and_of_infinity_refused():
    graph, *_ = built(lambda call, x: affine(call, x, 1, 0), 3)
    assert len(graph.match(Identity)) == 1
    graph, *_ = built(lambda call, x: permuted(call, affine(call, x, 1, 0, part="step"), (1, 0)), 3, 2)
    assert len(graph) == 3
    with pytest.raises(spikec.UnsupportedOpError, match="NaN or infinite") as caught:
        built(lambda call, x: affine(call, x, np.inf, 0), 3)
    assert caught.value.location == "here"


@pytest.mark.parametrize(("shape", "axis", "kind"), [((3,), 0, Linear), ((3, 4), 0, Conv), ((3, 4), 1, Linear)])
def test_a_matrix_along_an_axis(shape, axis, kind):
    matrix = np.random.default_rng(0).normal(size=(6, shape[axis]))
    graph, x, y = built(lambda call, x: along(call, x, axis, matrix), *shape)
    assert np.abs(y - np.moveaxis(np.tensordot(matrix, x, (1, axis + 1)), 0, axis + 1)).max() < 1e-12
    assert len(graph.match(kind)) == 1


@pytest.mark.parametrize(
    ("cells", "kind"), [([1, 2], Slice), ([0, 2], Slice), ([2, 0, 1, 1], None), ([0, 1, 2], Identity)]
)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_cells_of_an_axis(cells, kind, axis):
    graph, x, y = built(lambda call, x: selected(call, x, axis, np.array(cells)), 3, 3, 3)
    assert np.array_equal(y, np.take(x, cells, axis + 1))
    assert kind is None or len(graph.match(kind)) == 1


@pytest.mark.parametrize(
    ("shape", "wanted"), [((3, 1, 1), (3, 4, 5)), ((1, 4), (3, 4)), ((1, 1), (3, 4)), ((4,), (3, 4)), ((3,), (3,))]
)
def test_axes_of_one_are_repeated(shape, wanted):
    graph, x, y = built(lambda call, x: expanded(call, x, wanted), *shape)
    padded = x.reshape(2, *(1,) * (len(wanted) - len(shape)), *shape)
    assert np.array_equal(y, np.broadcast_to(padded, (2, *wanted)))
    assert len(graph.match(Upsample)) <= 1


def test_shapes_and_orders_that_stay_cost_nothing():
    graph, *_ = built(lambda call, x: reshaped(call, permuted(call, x, (0, 1), part="a"), (3, 4), part="b"), 3, 4)
    assert list(graph) == ["x", "y"]
    graph, *_ = built(lambda call, x: reshaped(call, x, (12,)), 3, 4)
    assert len(graph.match(Flatten)) == 1
