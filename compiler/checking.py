"""``check``: every problem of a model with a target, or of a file with its reader."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spikec.driver import Compiler
from spikec.extend.backend import Backend
from spikec.ir.errors import CompileError, Hint, Option, Problem, without_warnings
from spikec.options import AnyOptions
from spikec.readers import differences

if TYPE_CHECKING:
    from typing_extensions import Unpack


def check(
    model: Any, target: str | Backend | None = None, *, profile: str | None = None, **options: Unpack[AnyOptions]
) -> list[Problem]:
    """Every problem that :func:`compile` would raise of the same, without emitting anything; empty if there is none.

    Args:
        model: see :func:`compile`.
        target: see :func:`compile`; None for a file of a network that spikes already, such as a .nir, to be checked for
            its reader.
        profile: the target's option; without a target the tool that is to read the file, as ``reader`` of
            :func:`load`: what it refuses, leaves out, or runs otherwise than the file says.
        options: see :func:`compile`; without a target those of :func:`load`.

    Raises:
        CompileError: neither a target nor a profile is given, or there is none of that name.

    Examples:
        >>> spikec.check(model, "netx", example_input=images[:1])
        []
    """
    if target is None:
        if profile is None:
            hint = Hint("give a target, or the reader of a file: ", Option("profile", "spikingjelly"))
            raise CompileError("there is nothing to check the model for", hint=hint)
        return differences(model, profile, **options)
    if profile is not None:
        options["profile"] = profile
    compiler = Compiler(target, **options)
    with without_warnings():  # about accuracy, which is not the question
        try:
            compiler.lower(model, whole=False)
        except CompileError as error:
            return list(error.problems)
    return []
