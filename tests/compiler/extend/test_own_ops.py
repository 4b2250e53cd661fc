"""An op of one's own that is not what it says of itself is found where it is added, or where it appears."""

from typing import ClassVar

import attrs
import numpy as np
import pytest

import build
from spikec import VerificationError
from spikec.extend.call import Call, Signal
from spikec.ir import verify as checks
from spikec.ir.op import Op, Role, StatefulOp
from spikec.ir.ops import Linear
from spikec.ir.origin import Source
from spikec.ir.stages import IMPORTED
from spikec.ir.verify import verify


@attrs.frozen(eq=False)
class Own(Op):
    """``function(x)``, which it says is linear."""

    kind: ClassVar[str] = "own"
    role: ClassVar[Role] = Role.LINEAR

    function: object = abs

    def infer(self, *operands):
        return operands[0]

    def eval(self, *xs):
        return self.function(xs[0])


@attrs.frozen(eq=False)
class OwnState(StatefulOp):
    """Its step drops a cell that its type rule keeps."""

    kind: ClassVar[str] = "ownstate"
    role: ClassVar[Role] = Role.NEURON

    def infer(self, *operands):
        return operands[0]

    def initial(self, *xs):
        return xs[0]

    def step(self, state, *xs):
        return state, xs[0][:, 1:]


class Given(Call):
    def arguments(self):
        return "x"


WRONG = {
    "bias": (Own(lambda x: x + 1), "own is not linear, as Own.role says: eval of zeros is not zero"),
    "square": (Own(lambda x: x * x), "own is not linear, as Own.role says: eval.* is not"),
    "absolute": (Own(abs), "own is not linear"),
    "nan": (Own(lambda x: x / 0 * 0), "own is not linear"),
    "shape": (Own(lambda x: x[:, :2]), r"own gives samples of shape \(2,\), and its type rule says \(3,\)"),
    "error": (Own(lambda x: x.reshape(7, 7)), r"own fails for samples of shape \(3,\): shape '\[7, 7\]' is invalid"),
    "state": (OwnState(), r"ownstate gives samples of shape \(2,\)"),
}
RIGHT = [Own(lambda x: 2 * x), Own(lambda x: x.flip(1)), Linear(np.ones((2, 3)), np.ones(2))]


@pytest.mark.parametrize("name", WRONG)
def test_a_converter_that_adds_it_is_told(name):
    op, message = WRONG[name]
    b = build.Builder(3)
    call = Given(b.graph, Source("layer", "layer", "own"), "own")
    with pytest.raises(VerificationError, match=message) as caught:
        call.add(op, Signal(b.x))
    assert caught.value.location == "layer"
    assert type(op).__name__ in caught.value.hint
    assert list(b.graph) == ["x"]


@pytest.mark.parametrize("name", WRONG)
def test_the_verifier_finds_what_a_pass_has_added(name):
    op, message = WRONG[name]
    b = build.Builder(3)
    graph = b.done(b.add(op, b.x, name="own"))
    with pytest.raises(VerificationError, match=message) as caught:
        verify(graph, IMPORTED)
    assert caught.value.location == "own"


@pytest.mark.parametrize("op", RIGHT)
def test_what_is_right_passes_and_is_run_once_for_a_shape(op, monkeypatch):
    runs = []
    real = checks._run
    monkeypatch.setattr(checks, "_run", lambda op, xs: runs.append(op) or real(op, xs))
    b = build.Builder(3)
    once = b.add(op, b.x, name="once")
    graph = b.done(once)
    for _ in range(3):
        verify(graph, IMPORTED)
    assert len(runs) == (0 if isinstance(op, Linear) else 1)
