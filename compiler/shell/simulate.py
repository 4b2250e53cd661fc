"""Runs an exported file: a ``.nir`` by the reference interpreter, a ``.net`` by the integer model."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from spikec.extend import loader
from spikec.interpreter.results import outputs
from spikec.ir.errors import InvalidModelError
from spikec.reading import find_frontend, load


def input_names(path: Path) -> list[str]:
    """Return the names of the inputs of the network in a file."""
    if path.suffix == ".net":
        return ["x"]
    frontend, _ = find_frontend(path)
    return frontend.input_names(path)


def simulate(path: Path, xs: Sequence[Tensor], timesteps: int) -> dict[str, Tensor]:
    """Run the network in a file on constant inputs.

    Args:
        path: a ``.net``, or what a frontend reads as a spiking graph.
        xs: a tensor [B, ...] for each input.
        timesteps: the number of steps T.

    Returns:
        For each output, by name, its average over the steps [B, ...], in ANN units.

    Raises:
        InvalidModelError: the file is no spiking network, or the inputs do not fit.
    """
    if path.suffix == ".net":
        model = loader.module("backends", "netx").NetxModel.load(path)
        if len(xs) != 1:
            raise InvalidModelError(f"{path.name} has one input, got {len(xs)}")
        return {"y": torch.as_tensor(model.run(xs[0], timesteps))}
    graph = load(path)
    if not graph.is_spiking:
        raise InvalidModelError(f"{path.name} holds no spiking network", hint="compile it first: spikec compile")
    if len(xs) != len(graph.inputs):
        raise InvalidModelError(f"{path.name} has {len(graph.inputs)} input(s), got {len(xs)}")
    cast = [x.to(getattr(torch, graph.type(name).dtype)) for name, x in zip(graph.inputs, xs, strict=True)]
    return dict(zip(graph.outputs, outputs(graph, cast, timesteps), strict=True))
