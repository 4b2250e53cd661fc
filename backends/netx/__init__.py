"""The target ``netx``: files for Loihi 2 and the model in them, and what a converter is written with."""

from spikec.backends.netx.converters import LayerNeurons, converter
from spikec.backends.netx.model import NetxModel, Trace

__all__ = ["LayerNeurons", "NetxModel", "Trace", "converter"]
