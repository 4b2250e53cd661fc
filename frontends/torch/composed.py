"""Functions that are written in torch's functions, run on signals: each of these is read by its own converter."""

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from spikec.frontends.torch.call import Call, converter, qualified
from spikec.frontends.torch.convert import convert, refuse_unknown
from spikec.frontends.torch.tensor import from_tensors, to_tensors


def composed(call: Call, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What a function gives for signals and constants; its ops carry the call's source.

    Raises:
        CompileError: a function in it has no converter, or its converter refuses it.
    """

    def run(key: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        name = key[1] if isinstance(key, tuple) else key.__name__
        found = converter.first((key, qualified(key)))
        if found is None:
            refuse_unknown(call, call.source.kind)
        part = attrs.evolve(call, args=args, kwargs=kwargs, module=None, outer=call, name=f"{call.name}_{name}")
        return convert(found, part)

    args, kwargs = to_tensors((args, kwargs), run)
    return from_tensors(function(*args, **kwargs))
