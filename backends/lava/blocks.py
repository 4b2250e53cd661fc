"""Blocks that train here with the chip's weights, and are slayer's blocks or a file for netx afterwards."""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spikec.backends.lava.cuba import CubaLIFNode, quantize_8bit, quantize_bias
from spikec.backends.lava.slayer import FixedBias, conv_params, pair, slayer, window, windows
from spikec.backends.netx.model import NetxNetwork
from spikec.backends.netx.sim import UNITY, IntegerLayer
from spikec.extend.backend import StepModule
from spikec.ir.errors import InvalidModelError, UnsupportedOpError
from spikec.ir.types import Array


class SumPool2d(nn.AvgPool2d):
    """Sums windows of [N, C, H, W], as slayer's pool does: an average pool times the number of cells of its window."""

    def __init__(
        self,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] | None = None,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        kernel = pair(kernel_size)
        super().__init__(kernel, kernel if stride is None else pair(stride), pair(padding), divisor_override=1)

    def weight(self, channels: int) -> Tensor:
        """Return the depthwise convolution that does the same: ones, [C, 1, kh, kw]."""
        return torch.ones(channels, 1, *pair(self.kernel_size))


class BlockContainer(StepModule):
    """A synapse with quantized weights and Loihi's neuron: a block that trains with what the chip will compute.

    Spikes, and the gradient by the weights, are those of slayer's block. Weights stay floats, and are rounded at every
    call to even integers in units of ``1 / neuron.scale`` (straight-through gradient); so is a bias, which the neuron
    adds to its potential at every step.

    Attributes:
        synapse: nn.Linear, nn.Conv2d, SumPool2d, or nn.Flatten.
        neuron: a CubaLIFNode, or an IF or LIF neuron of SpikingJelly's that it is made from, see
            :func:`to_cuba_neuron`; None behind a Flatten.
        step_mode: ``"s"`` for calls with [N, ...], ``"m"`` for calls with [T, N, ...].

    Raises:
        UnsupportedOpError: lava has no such synapse or neuron.
    """

    def __init__(self, synapse: nn.Module, neuron: nn.Module | None = None, step_mode: str = "s") -> None:
        super().__init__()
        check_synapse(synapse)
        if (neuron is None) != isinstance(synapse, nn.Flatten):
            raise UnsupportedOpError(
                "every synapse but a Flatten feeds neurons",
                location=type(synapse).__name__,
                hint="give BlockContainer(synapse, neuron), or BlockContainer(nn.Flatten())",
            )
        self.synapse = synapse
        self.neuron = None if neuron is None else to_cuba_neuron(neuron)
        self.step_mode = step_mode

    def reset(self) -> None:
        """Forget the neuron's state: call it before each new batch."""
        if self.neuron is not None:
            self.neuron.reset()

    def forward(self, x: Tensor) -> Tensor:
        """Return the spikes that spikes [N, ...] or [T, N, ...] cause."""
        if self.step_mode == "s":
            z = self._synapse(x)
        else:
            z = self._synapse(x.flatten(0, 1))
            z = z.reshape(*x.shape[:2], *z.shape[1:])
        return z if self.neuron is None else self.neuron(z, self.bias())

    def _synapse(self, x: Tensor) -> Tensor:
        synapse = self.synapse
        if isinstance(synapse, nn.Linear):
            return F.linear(x, self.weight())
        if isinstance(synapse, nn.Conv2d):
            return F.conv2d(x, self.weight(), None, synapse.stride, synapse.padding, synapse.dilation, synapse.groups)
        pooled: Tensor = synapse(x)
        return pooled

    def weight(self, descale: bool = False) -> Tensor:
        """Return the rounded weights of a Linear or a Conv2d, in torch's layout; as integers if ``descale``."""
        assert self.neuron is not None
        assert isinstance(self.synapse, (nn.Linear, nn.Conv2d))
        return quantize_8bit(self.synapse.weight, self.neuron.scale, descale)

    def bias(self, descale: bool = False) -> Tensor | None:
        """Return the rounded bias, of a shape that broadcasts over a sample; as integers if ``descale``."""
        bias = getattr(self.synapse, "bias", None)
        if bias is None or self.neuron is None:
            return None
        rounded = quantize_bias(bias, self.neuron.scale, descale)
        return rounded.reshape(-1, 1, 1) if isinstance(self.synapse, nn.Conv2d) else rounded

    def to_lava_block(self) -> Any:
        """Return the ``slayer.block.cuba`` block that puts out what this one does, step by step.

        It is made without slayer's delay of a step (``delay_shift=False``).

        Raises:
            MissingDependencyError: lava-dl is not installed.
            UnsupportedOpError: slayer's pool would mix channels.
        """
        blocks, synapse, neuron = slayer().block.cuba, self.synapse, self.neuron
        if neuron is None:
            return blocks.Flatten()
        params = neuron.slayer_params
        if isinstance(synapse, SumPool2d):
            return blocks.Pool(params, *window(synapse), delay_shift=False)
        assert isinstance(synapse, (nn.Linear, nn.Conv2d))
        if isinstance(synapse, nn.Linear):
            made = blocks.Dense(params, synapse.in_features, synapse.out_features, delay_shift=False)
        else:
            made = blocks.Conv(params, **conv_params(synapse), delay_shift=False)
        with torch.no_grad():
            made.synapse.weight.copy_(synapse.weight.reshape(made.synapse.weight.shape))
        if (bias := self.bias()) is not None:
            made.neuron.norm = FixedBias(bias.detach(), neuron.scale)
        return made

    def integers(self, shape: Sequence[int], name: str) -> IntegerLayer | None:
        """Return the layer of a netx file that this block is; None for a Flatten, which netx does by itself.

        Args:
            shape: of one sample of its input, in torch's order.
            name: of the layer.
        """
        neuron, synapse = self.neuron, self.synapse
        if neuron is None:
            return None
        with torch.no_grad():
            outputs = self._synapse(torch.zeros(1, *shape, device=neuron.current_decay.device))[0]
        if isinstance(synapse, SumPool2d):
            weight = quantize_8bit(synapse.weight(shape[0]), neuron.scale, descale=True)
            sizes: dict[str, Any] = {"stride": synapse.stride, "padding": synapse.padding, "groups": shape[0]}
        else:
            weight = self.weight(descale=True)
            sizes = windows(synapse) if isinstance(synapse, nn.Conv2d) else {}
        bias = self.bias(descale=True)
        return IntegerLayer(
            kind="dense" if isinstance(synapse, nn.Linear) else "conv",
            name=name,
            shape=tuple(outputs.shape),
            weight=_integers(weight),
            bias=None if bias is None else _integers(bias.flatten()),
            threshold=round(neuron.v_threshold * neuron.scale),
            current_decay=round(min(max(neuron.current_decay.item(), 0), UNITY)),
            voltage_decay=round(min(max(neuron.voltage_decay.item(), 0), UNITY)),
            **sizes,
        )


def to_cuba_neuron(neuron: nn.Module) -> CubaLIFNode:
    """Return Loihi's neuron that an IF or LIF neuron is.

    Loihi fires above the threshold, SpikingJelly also at it.

    Args:
        neuron: SpikingJelly's IFNode, LIFNode or ParametricLIFNode with ``v_reset=0.`` and ``decay_input=False``, known
            by these attributes; ``lava_s_cale``, where it has that, is the scale. A CubaLIFNode is returned as it is.

    Raises:
        UnsupportedOpError: lava has no such neuron; the message says what it lacks.
    """
    if isinstance(neuron, CubaLIFNode):
        return neuron
    kind, facts = type(neuron).__name__, vars(neuron)
    if kind not in _LEAK:
        raise UnsupportedOpError(
            "lava's blocks have IF and LIF neurons", location=kind, hint=f"give one of: CubaLIFNode, {', '.join(_LEAK)}"
        )
    if facts.get("v_reset") != 0:
        raise UnsupportedOpError(
            f"lava's neurons are reset to 0, and v_reset is {facts.get('v_reset')}",
            location=kind,
            hint="train with v_reset=0., or compile the model for the target netx, which knows of soft reset",
        )
    if facts.get("decay_input", False):
        raise UnsupportedOpError(
            "lava's neurons do not divide their input by tau, and decay_input is True",
            location=kind,
            hint="train with decay_input=False, or divide weights and bias by tau and then set it so",
        )
    scale = int(facts.get("lava_s_cale", 64))
    return CubaLIFNode(1.0, _LEAK[kind](neuron), float(facts["v_threshold"]), scale=scale)


#: what a step takes of the potential, by the name of the neuron's class
_LEAK: dict[str, Callable[[Any], float]] = {
    "IFNode": lambda neuron: 0.0,
    "LIFNode": lambda neuron: 1 / float(neuron.tau),
    "ParametricLIFNode": lambda neuron: float(neuron.w.sigmoid()),
}


def save_blocks(blocks: Iterable[nn.Module], path: str | os.PathLike[str], input_shape: Sequence[int]) -> None:
    """Write blocks as a file that stock netx loads, without lava-dl; what slayer's ``export_hdf5`` writes of them.

    A sum-pool, which netx does not read, is written as the depthwise convolution that it is.

    Args:
        blocks: BlockContainers, one behind the other.
        path: ends in ``.net``.
        input_shape: of one sample in torch's order, (C, H, W) or (N,).

    Raises:
        UnsupportedOpError: one of them is no BlockContainer.
        InvalidModelError: the blocks do not fit each other, or have no neurons.
    """
    layers: list[IntegerLayer] = []
    shape = tuple(input_shape)
    for i, block in enumerate(blocks):
        if not isinstance(block, BlockContainer):
            raise UnsupportedOpError("is no BlockContainer", location=f"{i}: {type(block).__name__}")
        try:
            layer = block.integers(shape, str(i))
        except RuntimeError as error:
            raise InvalidModelError(f"does not take {list(shape)}: {error}", location=f"block {i}") from None
        if layer is None:
            shape = (torch.Size(shape).numel(),)
        else:
            layers.append(layer)
            shape = layer.shape
    if not layers:
        raise InvalidModelError("none of the blocks has neurons", hint="give BlockContainer(synapse, neuron)")
    output = layers[-1].shape
    facts: dict[str, Any] = {"input_shape": tuple(input_shape), "output_shape": output, "constants": 0, "pulses": 0}
    scale = np.ones((1,) * len(output))
    NetxNetwork(Path(path).stem, None, tuple(layers), "hard", output_scale=scale, **facts).save(path)


def _integers(x: Tensor) -> Array:
    array: Array = x.detach().cpu().numpy()
    return array


def check_synapse(synapse: nn.Module) -> None:
    """Refuse what a block of lava cannot be."""
    problem = hint = ""
    if isinstance(synapse, nn.AvgPool2d) and not isinstance(synapse, SumPool2d):
        problem, hint = "lava's pools sum", "use SumPool2d, and divide the weights behind it by its number of cells"
    elif not isinstance(synapse, (nn.Linear, nn.Conv2d, SumPool2d, nn.Flatten)):
        problem, hint = "lava has no block for it", "use nn.Linear, nn.Conv2d, SumPool2d or nn.Flatten"
    elif isinstance(synapse, nn.Flatten) and (synapse.start_dim, synapse.end_dim) != (1, -1):
        problem, hint = "lava flattens all axes of a sample", "use nn.Flatten()"
    elif isinstance(synapse, nn.Conv2d) and synapse.padding_mode != "zeros":
        problem, hint = f"lava pads with zeros, and padding_mode is {synapse.padding_mode!r}", "pad with zeros"
    elif isinstance(synapse, nn.Conv2d) and isinstance(synapse.padding, str):
        problem, hint = f"padding is {synapse.padding!r}", "give it as numbers"
    if problem:
        raise UnsupportedOpError(problem, location=type(synapse).__name__, hint=hint)
