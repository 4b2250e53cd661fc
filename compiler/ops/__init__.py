"""The operations of the graph, one family a file; each docstring states the equation."""

from spikec.ops.activation import Clamp, LeakyRelu, Maximum, MaxPool, Minimum, Relu
from spikec.ops.arith import Add, Identity, Rescale
from spikec.ops.counting import CountingMaxPool
from spikec.ops.delay import Delay
from spikec.ops.head import Head
from spikec.ops.io import Input, Output
from spikec.ops.leaky import LIF, CubaLIF, Leaky
from spikec.ops.neuron import IF, Neuron
from spikec.ops.norm import BatchNorm
from spikec.ops.pool import AdaptiveAvgPool, AvgPool, SumPool
from spikec.ops.shape import Concat, Flatten, Pad, Permute, Reshape, Slice, Upsample
from spikec.ops.stream import Stream
from spikec.ops.weighted import Conv, ConvTranspose, Linear, Weighted

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
