"""Exchange with lava-dl, under the names of the field (SpikingJelly's ``lava_exchange``).

Slayer's tensors have time last, [N, C, H, W, T] and [N, C, T]. Only what returns objects of slayer needs lava-dl.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from spikec.backends.lava.blocks import BlockContainer, SumPool2d, check_synapse, to_cuba_neuron
from spikec.backends.lava.slayer import conv_params, slayer, window
from spikec.ir.errors import UnsupportedOpError, warn


def tnx_to_nxt(x: Tensor) -> Tensor:
    """Turn time first, [T, N, ...], into time last, [N, ..., T]."""
    return x.movedim(0, -1)


def nxt_to_tnx(x: Tensor) -> Tensor:
    """Turn time last, [N, ..., T], into time first, [T, N, ...]."""
    return x.movedim(-1, 0)


def to_lava_neuron(neuron: nn.Module) -> Any:
    """Return the ``slayer.neuron.cuba.Neuron`` that an IF, LIF or CubaLIF neuron is; its state goes on between calls.

    Raises:
        UnsupportedOpError: lava has no such neuron, see :func:`to_cuba_neuron`.
        MissingDependencyError: lava-dl is not installed; so below.
    """
    return slayer().neuron.cuba.Neuron(**to_cuba_neuron(neuron).slayer_params, persistent_state=True)


def linear_to_lava_synapse_dense(linear: nn.Linear) -> Any:
    """Return a ``slayer.synapse.Dense`` with the weights of a Linear without bias.

    Raises:
        UnsupportedOpError: it has a bias, which a synapse has not.
    """
    _no_bias(linear)
    synapse = slayer().synapse.Dense(linear.in_features, linear.out_features)
    with torch.no_grad():
        synapse.weight[:, :, 0, 0, 0] = linear.weight
    return synapse


def conv2d_to_lava_synapse_conv(conv: nn.Conv2d) -> Any:
    """Return a ``slayer.synapse.Conv`` with the weights of a Conv2d without bias.

    Raises:
        UnsupportedOpError: it has a bias, which a synapse has not, or a padding that slayer has not.
    """
    _no_bias(conv)
    check_synapse(conv)
    synapse = slayer().synapse.Conv(**conv_params(conv))
    with torch.no_grad():
        synapse.weight[..., 0] = conv.weight
    return synapse


def avgpool2d_to_lava_synapse_pool(pool: nn.AvgPool2d | SumPool2d) -> Any:
    """Return a ``slayer.synapse.Pool``, which sums: divide by the number of cells of a window for the average.

    Raises:
        UnsupportedOpError: slayer's pool would mix channels: it pads, or its stride is not its kernel.
    """
    if not isinstance(pool, SumPool2d):
        warn("slayer's pool sums its windows: divide by their number of cells for the average")
    return slayer().synapse.Pool(*window(pool))


def to_lava_blocks(net: Iterable[nn.Module]) -> list[Any]:
    """Return slayer's blocks for synapses with neurons behind them, and Flattens: BlockContainers, or both alternating.

    Args:
        net: such as ``nn.Sequential(nn.Conv2d(1, 8, 3, bias=False), IFNode(), nn.Flatten(), ...)``.

    Raises:
        UnsupportedOpError: a synapse has no neuron behind it, or lava has no such layer.
    """
    return [block.to_lava_block() for block in containers(net)]


def containers(net: Iterable[nn.Module]) -> list[BlockContainer]:
    """Return the BlockContainers that a network is, see :func:`to_lava_blocks`; this needs no lava-dl."""
    made: list[BlockContainer] = []
    waiting: nn.Module | None = None
    for layer in net:
        if waiting is not None:
            made.append(BlockContainer(waiting, layer))
            waiting = None
        elif isinstance(layer, BlockContainer):
            made.append(layer)
        elif isinstance(layer, nn.Flatten):
            made.append(BlockContainer(layer))
        else:
            waiting = layer
    if waiting is not None:
        raise UnsupportedOpError(
            "a block of lava ends in neurons",
            location=type(waiting).__name__,
            hint="put an IFNode or LIFNode behind it",
        )
    return made


def _no_bias(layer: nn.Linear | nn.Conv2d) -> None:
    if layer.bias is not None:
        raise UnsupportedOpError(
            "a synapse of slayer has no bias",
            location=type(layer).__name__,
            hint="make a BlockContainer of it, whose to_lava_block() gives the bias to the neuron",
        )
