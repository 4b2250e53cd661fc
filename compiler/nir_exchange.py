"""Exchange with NIR under the names of the field (SpikingJelly's ``nir_exchange``): a call out, and a call in."""

import os
from typing import Any

import nir
import torch
from torch import Tensor, nn

from spikec.driver import compile
from spikec.extend.backend import StepModule
from spikec.extend.loader import unknown
from spikec.ir.errors import CompileError
from spikec.reading import find_frontend
from spikec.saving import save

#: seconds a step where neither the user nor the graph says it, which is SpikingJelly's value
_DT = 1e-4


def export_to_nir(
    net: nn.Module,
    example_input: Tensor,
    save_path: str | os.PathLike[str] | None = None,
    dt: float = _DT,
    *,
    profile: str = "spikingjelly",
) -> nir.NIRGraph:
    """Return a network of Linear, Conv2d, AvgPool2d, Flatten and spiking neurons as a NIR graph, and write it if asked.

    Args:
        net: a torch module with neurons of its own: SpikingJelly's IFNode, LIFNode, ParametricLIFNode and others, or
            snnTorch's.
        example_input: [B, ...], or [T, B, ...] for a net in step mode "m"; its numbers do not matter.
        save_path: a file, by habit .nir or .h5; None writes none.
        dt: seconds a step.
        profile: for which reader, see :data:`spikec.backends.nir.profiles.PROFILES`.

    Raises:
        UnsupportedOpError: the reader has no such layer; with all of them.
    """
    graph: nir.NIRGraph = compile(net, "nir", example_input=example_input, dt=dt, profile=profile)
    if save_path is not None:
        save(graph, save_path)
    return graph


def import_from_nir(
    graph: nir.NIRGraph | str | os.PathLike[str],
    dt: float | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    step_mode: str = "s",
    *,
    with_state: bool = False,
    **reading: Any,
) -> nn.Module:
    """Return a NIR graph as a spiking torch module.

    Args:
        graph: of nir, or the path of a file.
        dt: seconds a step; None for what the graph says, or 1e-4 where it does not.
        device, dtype: of the module's parameters.
        step_mode: ``"s"`` for a step a call, [B, ...] to [B, ...]; ``"m"`` for all of them, [T, B, ...].
        with_state: False for SpikingJelly's usual habits, in which neurons remember and ``reset()`` forgets; True for a
            :class:`Stateless`, which takes and returns what they remember.
        reading: how to read what the graph does not say, as :func:`spikec.load` takes it: ``reset``, ``reader``, ...

    Raises:
        InvalidModelError: the file or graph is none of NIR.
        UnsupportedOpError: it has nodes that spikec does not read.
    """
    if step_mode not in ("s", "m"):
        raise unknown("step mode", step_mode, ("s", "m"))
    if not dtype.is_floating_point:
        raise CompileError(f"dtype is {dtype}", hint="give a float type, such as torch.float32")
    source = os.fspath(graph) if isinstance(graph, os.PathLike) else graph
    if dt is None and _says_no_dt(source):
        dt = _DT
    options: Any = reading if dt is None else {"dt": dt, **reading}
    net: Any = compile(source, "spikingjelly", **options)
    net = net.to(device=device, dtype=dtype)
    module = Stateless(net) if with_state else net
    module.step_mode = step_mode
    return module


class Stateless(StepModule):
    """A network that remembers nothing: what its neurons remember comes in and goes out with the signal.

    Args:
        net: what :func:`import_from_nir` returns otherwise.
    """

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, state: dict[str, Tensor] | None = None) -> tuple[Any, dict[str, Tensor]]:
        """Return (output, state) behind a step, or behind all steps in step mode ``"m"``.

        Args:
            x: [B, ...], or [T, B, ...] in step mode ``"m"``.
            state: what the call before returned, by layer: potentials [B, ...]; None to start anew.
        """
        self.net.reset()
        parts = {name: part for name, part in self.net.named_modules() if hasattr(part, "v")}
        for name, v in (state or {}).items():
            if name not in parts:
                raise unknown("layer with a state", name, parts)
            parts[name].v = v.clone()
        y = self.net(x)
        return y, {name: part.v for name, part in parts.items()}


def _says_no_dt(source: Any) -> bool:
    """Whether a graph does not say how long a step is."""
    opened: Any = find_frontend(source)[1]
    return opened.file.graph.metadata.get("dt") is None
