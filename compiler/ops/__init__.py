"""The operations of the graph, one family a file; each docstring states the equation."""

from spikec.ops.activation import Clamp, MaxPool, Relu
from spikec.ops.arith import Add, Identity, Rescale
from spikec.ops.delay import Delay
from spikec.ops.io import Input, Output
from spikec.ops.neuron import IF, Neuron
from spikec.ops.norm import BatchNorm
from spikec.ops.pool import AdaptiveAvgPool, AvgPool, SumPool
from spikec.ops.shape import Concat, Flatten, Pad, Reshape
from spikec.ops.weighted import Conv, Linear, Weighted

__all__ = [
    "IF",
    "AdaptiveAvgPool",
    "Add",
    "AvgPool",
    "BatchNorm",
    "Clamp",
    "Concat",
    "Conv",
    "Delay",
    "Flatten",
    "Identity",
    "Input",
    "Linear",
    "MaxPool",
    "Neuron",
    "Output",
    "Pad",
    "Relu",
    "Rescale",
    "Reshape",
    "SumPool",
    "Weighted",
]
