"""The target ``spikingjelly``: spiking torch modules; here are its neurons, and what a converter is written with."""

from spikec.backends.spikingjelly.converters import converter
from spikec.backends.spikingjelly.network import SpikingNetwork
from spikec.backends.spikingjelly.neurons import CubaLIFNode, IFNode, LIFNode

__all__ = ["CubaLIFNode", "IFNode", "LIFNode", "SpikingNetwork", "converter"]
