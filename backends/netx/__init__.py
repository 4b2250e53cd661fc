"""The target ``netx``: files for Loihi 2, and the integer model that is in them."""

from spikec.backends.netx.model import NetxModel, Trace

__all__ = ["NetxModel", "Trace"]
