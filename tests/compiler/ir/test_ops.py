"""What ops are called, and where they are public."""

import importlib
import pkgutil
from typing import ClassVar

import attrs
import numpy as np
import pytest
import torch

from spikec import Graph
from spikec.ir import ops
from spikec.ir.errors import TypeMismatchError
from spikec.ir.op import Op
from spikec.ir.ops import AvgPool, SumPool
from spikec.ir.types import Rate, Type


def test_every_op_is_public_in_the_package():
    for found in pkgutil.iter_modules(ops.__path__, f"{ops.__name__}."):
        module = importlib.import_module(found.name)
        defined = {name for name, each in vars(module).items() if isinstance(each, type) and issubclass(each, Op)}
        public = {name for name in defined if not name.startswith("_") and vars(module)[name].__module__ == found.name}
        assert public == set(module.__all__)
        assert all(getattr(ops, name) is getattr(module, name) for name in public)


def test_an_op_is_called_by_its_class_unless_it_or_a_base_says_otherwise():
    @attrs.frozen(eq=False)
    class Hush(ops.Relu):
        pass

    @attrs.frozen(eq=False)
    class Named(ops.Relu):
        kind: ClassVar[str] = "quiet"

    @attrs.frozen(eq=False)
    class Derived(Named):
        pass

    assert [op.kind for op in (ops.Relu(), Hush(), Named(), Derived())] == ["relu", "hush", "quiet", "quiet"]
    assert ops.CountingMaxPool.kind == "countingmaxpool"


def test_a_derived_input_is_an_input():
    @attrs.frozen(eq=False)
    class Camera(ops.Input):
        pass

    graph = Graph()
    graph.add(ops.Output(), graph.add(Camera((2,))))
    assert (graph.inputs, graph.outputs) == (("camera",), ("output",))


def test_a_window_larger_than_the_map_is_refused_before_it_is_summed():
    rate = Type((2, 4, 4), "float64", Rate(np.ones((1, 1, 1))))
    for kernel in ((5, 1), (1 << 40, 1 << 40)):
        with pytest.raises(TypeMismatchError, match="larger than samples"):
            SumPool(kernel, (1, 1), ((0, 0), (0, 0))).infer(rate)
    assert SumPool((5, 4), (1, 1), ((1, 0), (0, 0))).infer(rate).shape == (2, 1, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("shape", "kernel", "stride"),
    [
        ((3, 9, 7), (2, 2), (2, 2)),
        ((3, 9, 7), (2, 2), (3, 1)),
        ((3, 2, 2), (2, 2), (2, 2)),
        ((3, 9, 7), (1, 3), (2, 2)),
        ((2, 11), (4,), (3,)),
    ],
)
def test_averages_over_tiny_windows_are_torchs_bit_for_bit(shape, kernel, stride, dtype):
    x = torch.randn(5, *shape, dtype=dtype, generator=torch.Generator().manual_seed(0))
    pool = getattr(torch.nn.functional, f"avg_pool{len(kernel)}d") if len(kernel) > 1 else torch.avg_pool1d
    assert torch.equal(AvgPool(kernel, stride, (0,) * len(kernel)).eval(x), pool(x, kernel, stride))
