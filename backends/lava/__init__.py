"""The target ``lava``, and exchange with lava-dl: blocks that train, and what makes slayer's objects of torch's."""

from spikec.backends.lava.blocks import BlockContainer, SumPool2d, save_blocks, to_cuba_neuron
from spikec.backends.lava.cuba import CubaLIFNode, quantize_8bit, quantize_bias
from spikec.backends.lava.exchange import (
    avgpool2d_to_lava_synapse_pool,
    containers,
    conv2d_to_lava_synapse_conv,
    linear_to_lava_synapse_dense,
    nxt_to_tnx,
    tnx_to_nxt,
    to_lava_blocks,
    to_lava_neuron,
)

__all__ = [
    "BlockContainer",
    "CubaLIFNode",
    "SumPool2d",
    "avgpool2d_to_lava_synapse_pool",
    "containers",
    "conv2d_to_lava_synapse_conv",
    "linear_to_lava_synapse_dense",
    "nxt_to_tnx",
    "quantize_8bit",
    "quantize_bias",
    "save_blocks",
    "tnx_to_nxt",
    "to_cuba_neuron",
    "to_lava_blocks",
    "to_lava_neuron",
]
