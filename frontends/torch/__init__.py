"""Reads torch: modules through torch.fx, and programs of torch.export; here is what a converter is written with."""

from spikec.extend.call import Signal
from spikec.frontends.torch.batch import BATCH, takes_batch
from spikec.frontends.torch.call import Call, as_array, converter, methods
from spikec.frontends.torch.convert import spreads
from spikec.frontends.torch.converters.functions import scalar_function
from spikec.frontends.torch.layers import fires, stateful

__all__ = [
    "BATCH",
    "Call",
    "Signal",
    "as_array",
    "converter",
    "fires",
    "methods",
    "scalar_function",
    "spreads",
    "stateful",
    "takes_batch",
]
