"""What the frontend's tests share."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import spikec
from spikec.ir.graph import Graph
from spikec.ir.stages import IMPORTED
from spikec.ir.verify import verify

torch.set_num_threads(1)


def tensors(result: Any) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    items = result.values() if isinstance(result, dict) else result
    return [tensor for item in items for tensor in tensors(item)]


@pytest.fixture
def agrees() -> Callable[..., Graph]:
    """Load a model and hold the graph against torch, in float64 and float32 and for another batch size."""

    def check(model: nn.Module, *shapes: tuple[int, ...]) -> Graph:
        generator = torch.Generator().manual_seed(3)
        for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
            model = model.to(dtype)
            example = [torch.randn((2, *shape), generator=generator).to(dtype) for shape in shapes]
            graph = spikec.load(model, tuple(x.clone() for x in example))
            verify(graph, IMPORTED, graph.sources)
            assert all(f"torch.{graph[name].dtype}" == str(dtype) for name in graph.inputs)
            more = [torch.randn((3, *shape), generator=generator).to(dtype) for shape in shapes]
            for xs in (example, more):
                found = tensors(spikec.run(graph, [x.clone() for x in xs]))
                with torch.no_grad():
                    wanted = tensors(model(*(x.clone() for x in xs)))
                assert len(found) == len(wanted)
                for a, b in zip(found, wanted, strict=True):
                    assert a.shape == b.shape
                    assert b.abs().max() > 0.01
                    assert (a - b).abs().max() <= tolerance * b.abs().max()
        return graph

    return check
