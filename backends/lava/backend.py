"""The target ``lava``: the network of ``netx`` as lava-dl's slayer blocks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
import torch
from torch import Tensor, nn

from spikec.backends.lava.slayer import FixedBias, slayer, windows
from spikec.backends.netx.backend import Netx
from spikec.backends.netx.model import NetxNetwork
from spikec.backends.netx.plan import plan
from spikec.backends.netx.sim import UNITY, IntegerLayer
from spikec.extend.passbase import Context
from spikec.ir.errors import Problem, UnsupportedOpError
from spikec.ir.graph import Graph
from spikec.ir.ops import Conv

#: units of 1.0 in every block: 64 is the scale at which slayer's rounding of thresholds is exact
_SCALE = 64


class LavaBlocks(nn.Sequential):
    """Slayer's blocks, one behind the other, which compute what the ``netx`` file of the same network does.

    A call takes spikes [N, C, H, W, T] or [N, C, T], as :meth:`encode` makes them, and gives the last block's spikes,
    which has none: its potential is the sum of the output's current. :meth:`potential` gives that, for training, and
    :meth:`run` the output in the ANN's units.

    Attributes:
        model: the integer network with the host's encoder; see :class:`spikec.backends.netx.NetxNetwork`. Its weights
            are those before any training of the blocks.
    """

    def __init__(self, blocks: Sequence[Any], model: NetxNetwork) -> None:
        super().__init__(*blocks)
        self.model = model

    def forward(self, spikes: Tensor) -> Tensor:
        """Return the last block's spikes [N, ..., T]; every call starts from the neurons' first state."""
        self.reset()
        for block in self:
            spikes = block(spikes)
        return spikes

    def reset(self) -> None:
        """Forget what recurrent blocks keep between calls."""
        for module in self.modules():
            for name in ("current_state", "voltage_state", "spike_state"):
                if isinstance(state := getattr(module, name, None), Tensor):
                    state.zero_()

    def encode(self, x: Tensor, timesteps: int | None = None) -> Tensor:
        """Return the spikes [N, ..., T] that the first block takes, of inputs as :meth:`run` takes."""
        spikes = np.moveaxis(self.model.encode(x, timesteps), 0, -1)
        return torch.from_numpy(spikes.astype(np.float32)).to(x.device)

    def potential(self, spikes: Tensor) -> Tensor:
        """Return the output's potential [N, ..., T]: its current, summed over the steps so far, in units of 1/64."""
        self.reset()
        blocks: list[Any] = list(self)
        for block in blocks[:-1]:
            spikes = block(spikes)
        potential: Tensor = blocks[-1].neuron.dynamics(blocks[-1].synapse(spikes))[1]
        return potential * _SCALE

    def run(self, x: Tensor, timesteps: int | None = None) -> Tensor:
        """Return the output's mean over T steps in the ANN's units, as :meth:`NetxNetwork.run` does.

        Args:
            x: [N, ...] inputs, constant over time, or [T, N, ...], as :meth:`NetxNetwork.run` takes them.
            timesteps: T; None for the T that the network was compiled for.
        """
        spikes = self.encode(x, timesteps)
        with torch.no_grad():
            total = self.potential(spikes)[..., -1].double().cpu().numpy()
        mean = total.reshape(len(spikes), *self.model.output_shape) / spikes.shape[-1]
        return torch.from_numpy(mean * self.model.output_scale).to(x.device)

    def export_hdf5(self, path: str | Path) -> None:
        """Write the file for netx as slayer does, block by block."""
        with h5py.File(path, "w") as file:
            start = file.create_group("layer/0")
            start["type"] = np.array([b"input"], dtype="S10")
            start["shape"] = np.array(self.model.input_shape, dtype=np.int64)
            blocks: list[Any] = list(self)
            for i, block in enumerate(blocks, start=1):
                block.export_hdf5(file.create_group(f"layer/{i}"))


class Lava(Netx):
    """Emits :class:`LavaBlocks`; the options are those of ``netx``."""

    name: ClassVar[str] = "lava"

    def check(self, graph: Graph) -> list[Problem]:
        """List what ``netx`` refuses, and neurons behind a convolution that are reset by subtraction."""
        message = "lava-dl has no block of a convolution with soft reset"
        hint = 'use reset="hard", or the target "netx"'
        soft = [each for each in plan(graph).layers if each.neurons is not None and each.neurons.soft]
        found = [graph.problem(each.neuron, message, hint) for each in soft if isinstance(each.affine, Conv)]
        return super().check(graph) or found

    def emit(self, graph: Graph, context: Context) -> LavaBlocks:
        """Make slayer's blocks of the integer network.

        Raises:
            MissingDependencyError: lava-dl is not installed.
        """
        blocks = slayer().block.cuba
        model = self.integer_model(graph, context)
        made: list[Any] = []
        before = model.input_shape
        for layer in model.layers:
            if layer.kind != "conv" and len(before) > 1:
                made.append(blocks.Flatten())
            made.append(_block(blocks, layer))
            before = layer.shape
        emitted = LavaBlocks(made, model)
        with torch.no_grad():
            emitted(torch.zeros(1, *model.input_shape, 1))  # blocks know their shapes from a call
        return emitted

    def owns(self, artifact: Any) -> bool:
        """Return whether it is of this target."""
        return isinstance(artifact, LavaBlocks)

    def save(self, artifact: Any, path: Path) -> None:
        """Write the file for netx as slayer does."""
        artifact.export_hdf5(path)


def _block(blocks: Any, layer: IntegerLayer) -> Any:
    if not (isinstance(layer.current_decay, int) and isinstance(layer.voltage_decay, int)):
        message = "the neurons of a layer leak unlike each other, or beside relays that do not: blocks have one decay"
        raise UnsupportedOpError(message, location=layer.name, hint='use the target "netx"')
    params = {
        "threshold": layer.threshold / _SCALE,
        "current_decay": layer.current_decay / UNITY,
        "voltage_decay": layer.voltage_decay / UNITY,
        "scale": _SCALE,
    }
    block: Any
    weights: dict[str, Any] = {"synapse": layer.weight}
    if layer.kind == "conv":
        outputs, inputs, *kernel = layer.weight.shape
        block = blocks.Conv(params, inputs * layer.groups, outputs, tuple(kernel), **windows(layer), delay_shift=False)
    elif layer.kind == "dense":
        block = blocks.Dense(params, layer.weight.shape[1], len(layer.weight), delay_shift=False)
    else:
        block = blocks.Recurrent(params, layer.weight.shape[1], len(layer.weight), delay_shift=False)
        weights = {"input_synapse": layer.weight, "recurrent_synapse": layer.weight_rec}
    with torch.no_grad():
        for name, weight in weights.items():
            parameter = getattr(block, name).weight
            parameter.copy_(torch.tensor(weight / _SCALE).reshape(parameter.shape))
    if layer.bias is not None:
        block.neuron.norm = FixedBias(torch.tensor(layer.bias / _SCALE, dtype=torch.float32), _SCALE)
    return block


backend = Lava
