"""The target ``netx``: files for Loihi 2 and the model in them, and what a converter is written with."""

from spikec.backends.netx.converters import LayerNeurons, converter
from spikec.backends.netx.lava_runner import LavaRun, run_in_lava
from spikec.backends.netx.model import NetxModel, NetxNetwork, Trace
from spikec.backends.netx.summary import Summary

__all__ = ["LavaRun", "LayerNeurons", "NetxModel", "NetxNetwork", "Summary", "Trace", "converter", "run_in_lava"]
