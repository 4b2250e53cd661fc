"""lava-dl's slayer where it is installed, and what its layers are made with."""

from typing import Any

from torch import Tensor, nn

from spikec.ir.errors import MissingDependencyError, UnsupportedOpError


def slayer() -> Any:
    """Return the module ``lava.lib.dl.slayer``.

    Raises:
        MissingDependencyError: lava-dl is not installed, or cannot be imported in this Python.
    """
    try:
        import lava.lib.dl.slayer as found
    except Exception as error:  # lava-nc 0.10.0 raises a ValueError when it is imported by Python 3.11 or newer
        raise MissingDependencyError(
            f"lava-dl cannot be imported in this Python: {type(error).__name__}: {error}",
            hint='in Python 3.10 pip install "spikec[lava]", and pip install --no-deps lava-nc==0.10.0 lava-dl==0.6.0; '
            "the target netx needs no lava-dl, and writes the file that lava runs",
        ) from error
    return found


class FixedBias(nn.Module):
    """Adds a bias to currents [N, C, ..., T]; put it into a slayer neuron as its ``norm``, and export_hdf5 writes it.

    Attributes:
        shift: the bias, in units of 1.0.
        scale: how many of the chip's units are 1.0.
    """

    def __init__(self, shift: Tensor, scale: int) -> None:
        super().__init__()
        self.register_buffer("shift", shift.flatten().clone())
        self.scale = scale

    shift: Tensor

    def forward(self, current: Tensor) -> Tensor:
        """Return current + bias."""
        return current + self.shift.reshape(-1, *[1] * (current.ndim - 2))

    @property
    def bias(self) -> Tensor:
        """Return the integers that a file holds."""
        return self.shift * self.scale


def windows(conv: Any) -> dict[str, Any]:
    """Return how a convolution places its windows, by the names that torch, slayer and netx have in common."""
    return {key: getattr(conv, key) for key in ("stride", "padding", "dilation", "groups")}


def conv_params(conv: nn.Conv2d) -> dict[str, Any]:
    """Return a Conv2d's sizes under slayer's names."""
    features = {"in_features": conv.in_channels, "out_features": conv.out_channels}
    return {**features, "kernel_size": conv.kernel_size, **windows(conv)}


def window(pool: Any) -> tuple[Any, Any, Any]:
    """Return kernel, stride and padding of a pool that slayer computes right.

    Slayer's pool lays channels one below the other before it pads and strides, so that a padding, or a stride unlike
    the kernel, mixes them.
    """
    kernel, stride, padding = (pair(size) for size in (pool.kernel_size, pool.stride, pool.padding))
    if padding != (0, 0) or stride != kernel:
        raise UnsupportedOpError(
            "slayer's pool mixes channels where it pads, or where its stride is not its kernel",
            location=f"{type(pool).__name__}({pool.extra_repr()})",
            hint="use a pool of equal kernel and stride without padding, or a depthwise nn.Conv2d",
        )
    return kernel, stride, padding


def pair(value: int | tuple[int, int]) -> tuple[int, int]:
    """Return (height, width) of what torch takes as one number or two."""
    return (value, value) if isinstance(value, int) else value
