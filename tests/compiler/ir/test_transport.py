"""Maps that move far."""

import attrs
import numpy as np
import pytest

from spikec import Graph
from spikec.calibration.casts import Casts
from spikec.ir.affine import Affine, BlockedError
from spikec.ir.ops import Add, Delay, Flatten, Input, Linear, Output
from spikec.ir.transport import Transport
from spikec.ir.types import Rate, Type

GAIN = Affine.scaling(np.array([2.0]))


@pytest.mark.slow
def test_a_map_moves_through_a_graph_that_is_deeper_than_calls_may_be():
    g = Graph()
    first = g.add(Linear(np.ones((3, 3))), g.add(Input((3,), rate=True)), name="first")
    name = first
    for _ in range(1500):
        name = g.add(Flatten(), name)
    last = g.add(Linear(np.ones((2, 3))), name, name="last")
    g.add(Output(), last)
    casts = Casts(g)
    casts.down(first, GAIN)
    assert np.array_equal(casts.edits[last].weight, np.full((2, 3), 2.0))
    casts = Casts(g)
    casts.up(name, GAIN)
    assert np.array_equal(casts.edits[first].weight, np.full((3, 3), 2.0))


@attrs.frozen(eq=False)
class Late(Delay):
    """A delay that lets a gain pass."""

    def divided(self, factor):
        return self


@attrs.frozen(eq=False)
class Taken(Transport):
    """Lets every affine op take a map in."""

    def into_result(self, name, op, wanted):
        return op if isinstance(op, Linear) else None


@pytest.mark.slow
def test_a_map_that_goes_round_is_blocked():
    g = Graph()
    x = g.add(Linear(np.ones((3, 3))), g.add(Input((3,), rate=True)))
    late = g.add(Late(Type((3,), "float32", Rate(np.ones(1)))), name="late")
    total = g.add(Add(), x, late)
    g.set_operands(late, total)
    g.add(Output(), total)
    with pytest.raises(BlockedError, match="round in a circle"):
        Taken(g).down(late, GAIN)
