"""Reads ONNX models; here is what a converter is written with."""

from spikec.frontends.onnx.call import Call, Constant, Signal, converter

__all__ = ["Call", "Constant", "Signal", "converter"]
