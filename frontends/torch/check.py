"""What must hold of a module before it is traced, and the shapes of its inputs."""

import inspect
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from spikec.frontends.torch.traced import Traced, required
from spikec.ir.errors import Hint, InvalidModelError, Option, Problem


def check_model(model: nn.Module) -> None:
    """Refuse a module that no graph could stand for.

    Raises:
        InvalidModelError: with all findings: forward's arguments, hooks, numbers that are not, training mode.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise InvalidModelError("a TorchScript module has no forward to trace", hint="give the nn.Module it came from")
    refuse_all(_wrappers(model))
    refuse_all([*_arguments(model), *_layers(model), *numbers((*model.named_parameters(), *model.named_buffers()))])


def refuse_all(problems: Iterable[Problem]) -> None:
    """Raise an InvalidModelError with all problems, if there are any."""
    if found := list(problems):
        raise InvalidModelError(found)


def scripted(model: nn.Module) -> Iterator[Problem]:
    """The TorchScript modules in a module, which only torch.export may be able to read."""
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            hint = "put the nn.Module in its place that it came from"
            yield Problem("the layer is a TorchScript module, which has no forward to trace", name, hint=hint)
            return


def _wrappers(model: nn.Module) -> Iterator[Problem]:
    for name, module in model.named_modules():
        if "_orig_mod" in module._modules:
            what, inner = "the result of torch.compile", "_orig_mod"
        elif isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            what, inner = f"an nn.{type(module).__name__}", "module"
        else:
            continue
        path = f"model.{name}" if name else "model"
        yield Problem(
            f"the {'layer' if name else 'model'} is {what}, a wrapper around the module",
            name or type(module).__name__,
            hint=f"give the module inside: {path}.{inner}",
        )
        return


def _uninitialized(value: Tensor) -> bool:
    return isinstance(value, (UninitializedParameter, UninitializedBuffer))


def _arguments(model: nn.Module) -> Iterator[Problem]:
    if type(model).forward is nn.Module.forward and "forward" not in vars(model):
        yield Problem("the module has no forward", type(model).__name__, hint="define forward(self, x)")
        return
    for p in inspect.signature(model.forward).parameters.values():
        if p.kind is p.KEYWORD_ONLY and p.default is p.empty:
            yield Problem(
                f"forward takes keyword-only {p.name}, and inputs go by position",
                type(model).__name__,
                hint="name them: forward(self, x, y)",
            )
            return
    if not required(model):
        yield Problem(
            "forward has no argument without a default value: the model has no input",
            type(model).__name__,
            hint="take the input without a default: forward(self, x)",
        )


def _layers(model: nn.Module) -> Iterator[Problem]:
    for name, module in model.named_modules():
        where = f"{name or type(model).__name__} (nn.{type(module).__name__})"
        lazy = any(map(_uninitialized, (*module._parameters.values(), *module._buffers.values())))
        hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
        if not lazy and not all(_computes_weight(module, hook) for hook in hooks):
            yield Problem(
                "the module has forward hooks, which may change what it computes",
                where,
                hint="remove them: handle.remove(), torch.nn.utils.prune.remove",
            )
        dropout = isinstance(module, _DropoutNd) and module.p > 0
        iterates = isinstance(module, _SpectralNorm) or any(isinstance(hook, SpectralNorm) for hook in hooks)
        if module.training and (dropout or iterates or isinstance(module, _NormBase)):
            yield Problem("the module is in training mode", where, hint="call model.eval() before compiling")


def _computes_weight(module: nn.Module, hook: object) -> bool:
    """True for the hook of the old weight_norm or spectral_norm on a layer that is read with what it computes."""
    return isinstance(hook, (WeightNorm, SpectralNorm)) and isinstance(module, (nn.Linear, _ConvNd))


def numbers(named: Iterable[tuple[str, Any]]) -> Iterator[Problem]:
    """Parameters that hold no numbers, or none that are real and finite."""
    for name, value in named:
        if not isinstance(value, Tensor):
            continue
        if _uninitialized(value):
            hint = "its shape follows from data: run one batch through the model first"
            yield Problem("the parameter holds no numbers yet", name, hint=hint)
        elif value.is_meta:
            yield Problem("the parameter holds no numbers yet", name, hint="load its weights")
        elif value.is_complex() or value.is_quantized:
            yield Problem(f"the parameter is {str(value.dtype).removeprefix('torch.')}", name, hint="use float32")
        elif value.is_floating_point() and not _is_finite(value.detach()):
            count = int((~torch.isfinite(value.detach())).sum())
            yield Problem(
                f"{count} of {value.numel()} numbers are NaN or infinite", name, hint="the training diverged; retrain"
            )


def _is_finite(value: Tensor) -> bool:
    """Whether all are numbers: their sum says so in a tenth of the time, but where it overflows."""
    return math.isfinite(value.sum()) or bool(torch.isfinite(value).all())


def dtype_of(parameters: Iterable[Any], examples: Sequence[Tensor] | None) -> str:
    """``float64`` where a parameter is, else ``float32``; without parameters the example decides."""
    found = [p.dtype for p in parameters if isinstance(p, Tensor) and p.is_floating_point()]
    if not found:
        found = [x.dtype for x in examples or ()]
    return "float64" if torch.float64 in found else "float32"


def example_shapes(names: Sequence[str], examples: Sequence[Tensor]) -> list[tuple[int, ...]]:
    """The shape of a sample of each input, from a batch of each.

    Raises:
        InvalidModelError: the examples do not fit forward's arguments.
    """
    if len(examples) != len(names):
        raise InvalidModelError(
            f"forward takes {len(names)} input(s) ({', '.join(names)}), {len(examples)} given",
            hint=Hint("give ", Option("example_input"), f" with a batch for each of {', '.join(names)}"),
        )
    if len({len(x) for x in examples}) > 1:
        sizes = ", ".join(f"{name}: {len(x)}" for name, x in zip(names, examples, strict=True))
        raise InvalidModelError(f"the inputs have different batch sizes ({sizes})", hint="give the same for all")
    return [tuple(x.shape[1:]) for x in examples]


def shapes_from_layers(traced: Traced) -> list[tuple[int, ...]]:
    """The shape of a sample of each input, where the first layers are Linear.

    Raises:
        InvalidModelError: they are not; with the example to pass.
    """
    inputs = [node for node in traced.graph.nodes if node.op == "placeholder" and not node.args]
    firsts = [_first_layer(traced, node) for node in inputs]
    if all(isinstance(layer, nn.Linear) for layer in firsts):
        return [(layer.in_features,) for layer in firsts if isinstance(layer, nn.Linear)]
    raise InvalidModelError(
        f"the shape of the input ({', '.join(traced.inputs)}) cannot be known from the model alone",
        location=type(traced.root).__name__,
        hint=Hint(
            "pass ",
            Option("example_input", [template(layer) for layer in firsts]),
            " with your data's sizes filled in, or calibration data",
        ),
    )


_SAME_SHAPE = (nn.Identity, nn.ReLU, nn.ReLU6, nn.Hardtanh, _DropoutNd)
_SAME_SHAPE_CALLS = (F.relu, torch.relu, F.dropout, torch.clamp, F.relu6, F.hardtanh, "relu", "clamp", "contiguous")


def _first_layer(traced: Traced, node: fx.Node) -> nn.Module | None:
    """The first layer behind an input that says something about shapes."""
    for user in node.users:
        module = traced.module(user)
        if module is None and user.target not in _SAME_SHAPE_CALLS:
            continue
        if module is not None and not isinstance(module, _SAME_SHAPE):
            return module
        found = _first_layer(traced, user)
        if found is not None:
            return found
    return None


_AXES = {1: "L", 2: "HW", 3: "DHW"}


def template(layer: nn.Module | None) -> tuple[int | str, ...]:
    """The shape of a sample of a layer's input, with letters for the sizes that are open."""
    if isinstance(layer, nn.Linear):
        return (layer.in_features,)
    if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return (layer.in_channels, *_AXES[layer.weight.ndim - 2])
    return ("...",)
