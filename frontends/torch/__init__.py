"""Reads torch: modules through torch.fx, and programs of torch.export; here is what a converter is written with."""

from spikec.extend.call import Signal
from spikec.frontends.torch.call import BATCH, Call, as_array, converter, methods, takes_batch

__all__ = ["BATCH", "Call", "Signal", "as_array", "converter", "methods", "takes_batch"]
