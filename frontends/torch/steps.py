"""Spiking models as they run: whether a call is one time-step or all of them, and the steps themselves."""

import copy
import operator
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from spikec.frontends.torch.call import tensors
from spikec.frontends.torch.layers import is_firing, keeps_state
from spikec.frontends.torch.traced import Traced
from spikec.interpreter.imported import Reference
from spikec.ir.errors import InvalidModelError, Problem, UnsupportedOpError

#: containers of SpikingJelly that always take all steps, and whose layers are in step_mode "s"
_ALL_STEPS = ("SeqToANNContainer", "MultiStepContainer")


def takes_all_steps(model: nn.Module) -> bool:
    """True for a model in step_mode "m", whose input is [T, B, ...].

    Raises:
        InvalidModelError: some of its layers are in "s" and some in "m".
    """
    modes = dict(_modes(model, ""))
    if len(set(modes.values())) < 2:
        return "m" in modes.values()
    first = next(iter(modes.values()))
    message, hint = 'some layers have step_mode "s", and some "m"', 'functional.set_step_mode(model, "s")'
    raise InvalidModelError([Problem(message, path, hint=hint) for path, mode in modes.items() if mode != first])


def _modes(module: nn.Module, path: str) -> Iterator[tuple[str, str]]:
    """Every outermost layer that has a step_mode, by its path."""
    kind = type(module).__name__
    if kind in _ALL_STEPS and _is_jelly(module):
        yield path, "m"
    elif isinstance(mode := getattr(module, "step_mode", None), str):
        yield path, mode
    else:
        for name, child in module.named_children():
            yield from _modes(child, f"{path}.{name}" if path else name)


def _is_jelly(module: nn.Module) -> bool:
    return any(cls.__module__.startswith("spikingjelly.") for cls in type(module).__mro__)


_ANY_AXES = (nn.Linear, nn.Identity, nn.Dropout, nn.ReLU)
_ANY_AXES_CALLS = (operator.add, operator.iadd, operator.sub, operator.isub, torch.add, torch.sub, "add", "add_", "sub")


def check_axes(traced: Traced) -> None:
    """Refuse what would take the time axis of a model in step_mode "m" for another.

    Raises:
        UnsupportedOpError: with every layer and function that goes by the number of an axis.
    """
    problems = []
    for node in traced.graph.nodes:
        module = traced.module(node)
        if module is not None:
            fits = isinstance(module, _ANY_AXES) or _is_jelly(module) or keeps_state(module)
        else:
            fits = node.op not in ("call_function", "call_method") or node.target in _ANY_AXES_CALLS
        if not fits:
            source = traced.source(node)
            problems.append(
                Problem(
                    f'{source.kind} in a model in step_mode "m" takes the time axis for the batch',
                    str(source),
                    hint='put it into a SeqToANNContainer, use the layer with a step_mode, or set step_mode "s"',
                )
            )
    if problems:
        raise UnsupportedOpError(problems)


def steps_of(model: nn.Module) -> Reference:
    """A spiking model on inputs [T, B, ...], from its reset state, in float64; the model itself is not touched."""

    def run(xs: Sequence[Tensor]) -> list[Tensor]:
        own = copy.deepcopy(model, _without_history(model)).double()
        for module in own.modules():
            if keeps_state(module) and hasattr(module, "spike_grad"):
                module.spike_grad = _in_own_dtype(module.spike_grad)
            for name in ("reset", "reset_mem") if keeps_state(module) or is_firing(module) else ():
                if callable(method := getattr(module, name, None)):
                    method()
        device = next((p.device for p in (*own.parameters(), *own.buffers())), xs[0].device)
        train = [x.to(device, torch.float64, copy=True) for x in xs]
        with torch.no_grad():
            if takes_all_steps(own):
                return [y.cpu() for y in tensors(own(*train))]
            results = [[y.clone() for y in tensors(own(*step))] for step in zip(*train, strict=True)]
        return [torch.stack(column).cpu() for column in zip(*results, strict=True)]

    return run


def _without_history(model: nn.Module) -> dict[int, Any]:
    """For deepcopy, which takes no tensor that came out of a computation: a state of a model that was trained."""
    held = (tensor for module in model.modules() for tensor in tensors(vars(module)))
    return {id(tensor): tensor.detach().clone() for tensor in held if not tensor.is_leaf}


def _in_own_dtype(surrogate: Any) -> Any:
    """snnTorch's surrogates put out float32 spikes whatever they are given."""
    return lambda v: surrogate(v).to(v.dtype)


def one_step(model: nn.Module, examples: Sequence[Tensor]) -> list[Tensor]:
    """Examples [B, ...] of what a model takes.

    Raises:
        InvalidModelError: a model in step_mode "m" is given something without a time axis.
    """
    if isinstance(model, fx.GraphModule) or not takes_all_steps(model):
        return list(examples)
    short = [list(x.shape) for x in examples if x.ndim < 3]
    if short:
        raise InvalidModelError(
            f'the model is in step_mode "m" and takes [T, B, ...], example_input is {short[0]}',
            hint="give an example with a time axis",
        )
    return [x.flatten(0, 1) for x in examples]
