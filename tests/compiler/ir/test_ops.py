"""What ops are called, and where they are public."""

import importlib
import pkgutil
from typing import ClassVar

import attrs

from spikec import Graph
from spikec.ir import ops
from spikec.ir.op import Op


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
