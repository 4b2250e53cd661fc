"""``check``: what keeps a model from a target, or a file from the tool that is to read it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from spikec.driver import Compiler
from spikec.extend.backend import Backend
from spikec.ir.errors import CompileError, Hint, Option, Problem, without_warnings
from spikec.ir.ledger import Ledger
from spikec.options import AnyOptions
from spikec.readers import differences

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Problems(list[Problem]):
    """What keeps a model from a target.

    Attributes:
        ledger: what becomes of each layer, and how many neurons it costs; None where the model was not read.
    """

    def __init__(self, problems: Iterable[Problem], ledger: Ledger | None = None) -> None:
        super().__init__(problems)
        self.ledger = ledger


def check(model: Any, target: str | Backend | None = None, **options: Unpack[AnyOptions]) -> Problems:
    """Every problem that :func:`compile` would raise of the same, without emitting anything; empty if there is none.

    Its ``ledger`` says what each layer would cost in neurons; a netx file has a few more, which hand constants on.
    Smooth functions and products of signals cost as many as the calibration data needs, and are refused without any.

    What was read is compared with the model, unless ``verify`` is ``"off"``. That passes keep their contracts is not
    proved here, as such a fault is ours, and proving it takes longer than all else.

    Args:
        model: see :func:`compile`.
        target: see :func:`compile`; None for a file of a network that spikes already, such as a .nir, to be checked for
            its reader.
        options: see :func:`compile`. Without a target ``profile``, the tool that is to read the file: what it refuses,
            leaves out, or runs otherwise than the file says; and options of :func:`load`.

    Raises:
        CompileError: neither a target nor a profile is given, or there is none of that name.

    Examples:
        >>> problems = spikec.check(model, "netx", example_input=images[:1])
        >>> problems, {entry.source.label: entry.neurons for entry in problems.ledger if entry.neurons}
        ([], {'2': ...})
    """
    if target is None:
        own: dict[str, Any] = dict(options)
        profile = own.pop("profile", None)
        if profile is None:
            hint = Hint("give a target, or the reader of a file: ", Option("profile", "spikingjelly"))
            raise CompileError("there is nothing to check the model for", hint=hint)
        return Problems(differences(model, profile, **own))
    compiler = Compiler(target, **options)
    with without_warnings():  # about accuracy, which is not the question
        try:
            context, records = compiler.lower(model, whole=False, proved=False)
        except CompileError as error:
            return Problems(error.problems, error.ledger)
    return Problems((), Ledger.of(context.reference, records[-1].graph))
