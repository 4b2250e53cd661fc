"""What spikec finds: the imports register converters, and the names are a pass, a target and a frontend."""

from spikec_gates import gate
from spikec_gates.layer import Gate
from spikec_gates.parts import OpenGates, backend, frontend

__all__ = ["Gate", "OpenGates", "backend", "frontend", "gate"]
