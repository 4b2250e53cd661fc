"""Options of targets on the command line: a command with ``--target`` has those of the target that it is given."""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints

import attrs
import click
from click.core import augment_usage_errors
from click.shell_completion import CompletionItem

from spikec.ir.errors import CompileError
from spikec.shell import inputs

#: what ``ctx.meta`` of click has: the options of the target
_OF_TARGET = "spikec.of_target"
_Completes = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


class CompilingCommand(click.Command):
    """A command with ``--target``, which takes the options of that target beside its own."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the line; what the target is must be known before its options can be."""
        if (name := _given(args, "--target")) is not None:
            own = {each.name: each for each in self.params}
            if not ctx.resilient_parsing:
                with augment_usage_errors(ctx, own["target"]):
                    inputs.target(name)  # or else an option of it would be called unknown
            ctx.meta[_OF_TARGET] = [each for each in _options(name) if each.name not in own]
        return super().parse_args(ctx, args)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the parameters of the command, and of the target that is named."""
        *own, last = super().get_params(ctx)
        return [*own, *ctx.meta.get(_OF_TARGET, ()), last]

    def invoke(self, ctx: click.Context) -> Any:
        """Call the command; it finds the options of its target among those of ``--option``."""
        given = {each.name: ctx.params.pop(each.name) for each in ctx.meta.get(_OF_TARGET, ())}
        stated = tuple((name, value) for name, value in given.items() if value is not None)
        ctx.params["own"] = (*ctx.params["own"], *stated)
        return super().invoke(ctx)


def one_of(find: Callable[[], Sequence[str]]) -> _Completes:
    """Return what completes one of some names, which are looked up when somebody asks."""

    def complete(_: click.Context, __: click.Parameter, start: str) -> list[CompletionItem]:
        return [CompletionItem(name) for name in find() if name.startswith(start)]

    return complete


def targets() -> Sequence[str]:
    """Return the names of the targets."""
    from spikec.extend import loader

    return list(loader.backends())


def _given(args: Sequence[str], option: str) -> str | None:
    """Return the value of an option on a command line."""
    found = None
    for word, behind in itertools.zip_longest(args, args[1:]):
        name, equals, value = word.partition("=")
        if name == option:
            found = value if equals else behind
    return found


def _options(target: str) -> Iterator[click.Option]:
    """Yield an option for each field of a target; none for a target that there is not, which ``--target`` refuses."""
    from spikec.extend import loader

    try:
        kind = loader.backend_named(target)
    except CompileError:
        return
    types = get_type_hints(kind)
    for field in attrs.fields(kind):
        name, about = f"--{field.name.replace('_', '-')}", _about(kind, field.name)
        if types[field.name] is bool:
            yield click.Option([name, field.name], is_flag=True, default=None, help=f"{target}: {about}")
            continue
        is_listed = get_origin(types[field.name]) is Literal
        values = get_args(types[field.name]) if is_listed else field.metadata.get("values", ())
        listed = f" One of {', '.join(values)}." if values else ""
        yield click.Option(
            [name, field.name],
            type=inputs.literal,
            metavar="WHICH" if values else "VALUE",
            help=f"{target}: {about}{listed}",
            shell_complete=one_of(lambda values=values: values),  # type: ignore[misc]
        )


def _about(kind: type, field: str) -> str:
    """Return what the docstring of a class says of a field, without its markup."""
    entry = re.search(rf"^    {field}: (.+(?:\n {{5,}}.+)*)", inspect.getdoc(kind) or "", re.MULTILINE)
    text = " ".join(entry.group(1).split()) if entry else ""
    return re.sub(r":\w+:`([^`]*)`", r"\1", text).replace("``", "")
