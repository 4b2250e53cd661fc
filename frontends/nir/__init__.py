"""Reads NIR graphs and files; here is what a converter is written with."""

from spikec.frontends.nir.converters import Reading, converter

__all__ = ["Reading", "converter"]
