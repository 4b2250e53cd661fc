"""The op that the layer becomes, with its converters: from torch, to spikingjelly, and to NIR."""

from typing import ClassVar

import attrs
import nir
import numpy as np
import torch
from torch import Tensor

import spikec
from spikec.backends.nir import converter as to_nir
from spikec.backends.spikingjelly import converter as to_spikingjelly
from spikec.frontends.torch import Call, Signal, as_array
from spikec.frontends.torch import converter as from_torch
from spikec.ir.op import array, tensor
from spikec.ir.types import Type
from spikec_gates.layer import Gate


@attrs.frozen(eq=False)
class GateOp(spikec.Op):
    """``y = mask * x``; what passes keeps its scale."""

    kind: ClassVar[str] = "gate"
    role: ClassVar[spikec.Role] = spikec.Role.LINEAR
    mask: np.ndarray = array()

    def infer(self, *operands: Type) -> Type:
        return operands[0]

    def eval(self, *xs: Tensor) -> Tensor:
        return xs[0] * tensor(self.mask, xs[0])


@from_torch(Gate)
def _from_torch(module: Gate, call: Call) -> Signal:
    return call.add(GateOp(as_array(module.mask)), call.operand)


@to_spikingjelly(GateOp)
def _to_spikingjelly(op: GateOp, result: Type) -> Gate:
    return Gate(torch.tensor(op.mask))


@to_nir(GateOp)
def _to_nir(op: GateOp, operand: Type, result: Type) -> nir.Scale:
    return nir.Scale(scale=np.array(np.broadcast_to(op.mask, operand.shape)))
