"""The target ``spikingjelly``: spiking torch modules; here are its neurons, and what a converter is written with."""

from spikec.backends.spikingjelly.converters import converter
from spikec.backends.spikingjelly.leaky import CubaLIFNode, LIFNode
from spikec.backends.spikingjelly.modules import IFNode
from spikec.backends.spikingjelly.network import SpikingNetwork

__all__ = ["CubaLIFNode", "IFNode", "LIFNode", "SpikingNetwork", "converter"]
