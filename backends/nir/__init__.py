"""The target ``nir``; here is what a converter is written with."""

from spikec.backends.nir.converters import converter

__all__ = ["converter"]
