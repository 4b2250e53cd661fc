"""The operations of the graph, one family a file; each docstring states the equation.

An op is public under its own name here if its file lists it in ``__all__``.
"""

from spikec.ir.ops.elementwise import *
from spikec.ir.ops.functions import *
from spikec.ir.ops.interpolate import *
from spikec.ir.ops.io import *
from spikec.ir.ops.memory import *
from spikec.ir.ops.neuron import *
from spikec.ir.ops.neuron_loihi import *
from spikec.ir.ops.neuron_multi import *
from spikec.ir.ops.pool import *
from spikec.ir.ops.shape import *
from spikec.ir.ops.weighted import *
