"""What each layer of a module gives while the module runs: by this a converter that reads a layer wrongly is found."""

from collections.abc import Callable, Container
from typing import Any

import torch
from torch import Tensor, nn


def layer_results(
    model: nn.Module, paths: Container[str], run: Callable[[], Any], steps: int | None = None
) -> dict[str, Tensor]:
    """Run a module and keep the results of its innermost layers, by their paths.

    A layer that is called more than once, or gives no single tensor, is left out.

    Args:
        model: the module; it gets hooks while it runs.
        paths: the layers that are wanted.
        run: runs the module, or a deep copy of it, once.
        steps: for a spiking module, the number of its time-steps, in each of which a layer may be called once.
    """
    seen: dict[str, list[Any]] = {}

    def hook(path: str) -> Callable[..., None]:
        # a copy, because a layer that follows may write over the result
        return lambda _, __, result: seen.setdefault(path, []).append(
            result.detach().clone().cpu() if isinstance(result, Tensor) else None
        )

    layers = [(path, each) for path, each in model.named_modules() if path in paths and not any(each.children())]
    handles = [each.register_forward_hook(hook(path)) for path, each in layers]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    known = {path: found for path, found in seen.items() if all(isinstance(each, Tensor) for each in found)}
    results = {path: found[0] for path, found in known.items() if len(found) == 1}
    if steps is not None:
        results |= {path: torch.stack(found) for path, found in known.items() if len(found) == steps}
    return results
