"""The operations of the graph, one family a file; each docstring states the equation."""

from spikec.ir.ops.activation import Clamp, LeakyRelu, Maximum, MaxPool, Minimum, Relu
from spikec.ir.ops.arith import Add, BatchNorm, Identity, Rescale
from spikec.ir.ops.io import Head, Input, Output
from spikec.ir.ops.memory import CountingMaxPool, Delay, Stream
from spikec.ir.ops.neuron import IF, LIF, CubaLIF, Leaky, Neuron
from spikec.ir.ops.pool import AdaptiveAvgPool, AvgPool, SumPool
from spikec.ir.ops.shape import Concat, Flatten, Pad, Permute, Reshape, Slice, Upsample
from spikec.ir.ops.weighted import Conv, ConvTranspose, Linear, Weighted

__all__ = [
    "IF",
    "LIF",
    "AdaptiveAvgPool",
    "Add",
    "AvgPool",
    "BatchNorm",
    "Clamp",
    "Concat",
    "Conv",
    "ConvTranspose",
    "CountingMaxPool",
    "CubaLIF",
    "Delay",
    "Flatten",
    "Head",
    "Identity",
    "Input",
    "Leaky",
    "LeakyRelu",
    "Linear",
    "MaxPool",
    "Maximum",
    "Minimum",
    "Neuron",
    "Output",
    "Pad",
    "Permute",
    "Relu",
    "Rescale",
    "Reshape",
    "Slice",
    "Stream",
    "SumPool",
    "Upsample",
    "Weighted",
]
