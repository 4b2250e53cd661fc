"""Reads ONNX models; here is what a converter is written with."""

from spikec.extend.call import Signal
from spikec.frontends.onnx.call import Call, Known, converter

__all__ = ["Call", "Known", "Signal", "converter"]
