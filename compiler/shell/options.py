"""The options that commands share, each called the same everywhere, and what the compiler is given for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from spikec.ir.errors import Hint, Option
from spikec.shell import inputs
from spikec.shell.target_options import CompilingCommand, one_of, targets

EXISTING_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)
#: the tools that read NIR
_TOOLS = ("spikingjelly", "snntorch", "norse", "sinabs", "rockpool", "snn-mlir")
#: what ``ctx.meta`` of click has once ``--json`` was given
JSON = "spikec.json"


def examples(*lines: str) -> str:
    """Return the end of a command's help: lines to copy."""
    return "\n".join(["\b", "Examples:", *(f"  spikec {line}" for line in lines)])


def _remember_json(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    ctx.meta[JSON] = value


def as_json() -> click.Option:
    """Return ``--json``."""
    about = "Print the result as JSON, and nothing else on stdout."
    return click.Option(
        ["--json"], is_flag=True, expose_value=False, callback=_remember_json, is_eager=True, help=about
    )


def own(about: str) -> click.Option:
    """Return ``--option NAME=VALUE``."""
    return click.Option(["--option", "own"], type=inputs.option, metavar="NAME=VALUE", multiple=True, help=about)


def model() -> click.Argument:
    """Return MODEL."""
    return click.Argument(["model"], type=inputs.model, metavar="MODEL")


def data() -> click.Argument:
    """Return DATA."""
    return click.Argument(["data"], type=EXISTING_FILE, metavar="DATA")


def timesteps(*, required: bool = False) -> click.Option:
    """Return ``--timesteps``."""
    about = "The number of time-steps to run." if required else "The number of time-steps you mean to run."
    return click.Option(["--timesteps"], type=click.IntRange(min=1), required=required, metavar="T", help=about)


def tool(*names: str, about: str, required: bool = False) -> click.Option:
    """Return an option that takes the name of a tool that reads NIR."""
    text = f"{about}: {', '.join(_TOOLS[:-1])} or {_TOOLS[-1]}."
    return click.Option(names, metavar="TOOL", required=required, help=text, shell_complete=one_of(lambda: _TOOLS))


def reader() -> click.Option:
    """Return ``--reader``."""
    return tool("--reader", about="Run a NIR file as a tool does")


def output(about: str) -> click.Option:
    """Return ``-o FILE``."""
    names = ["-o", "--output", "out"]
    return click.Option(names, type=inputs.new_file, metavar="FILE", required=True, help=about)


def compiling(
    *, target: bool | None = True, timesteps_required: bool = False, takes: Sequence[click.Parameter] = ()
) -> list[click.Parameter]:
    """Return MODEL, ``--target`` and the options that say how to compile, as parameters of a command.

    They are called as parameters of ``spikec.compile``, but for ``own``.

    Args:
        target: whether one must be given.
        timesteps_required: whether ``--timesteps`` must be.
        takes: what stands behind MODEL.
    """
    about = "What to compile for: spikingjelly, nir, or another that `spikec targets` lists. "
    about += "Its own options are listed by --help behind it: --target nir --help."
    return [
        model(),
        *takes,
        click.Option(
            ["--target"],
            type=inputs.target,
            metavar="NAME",
            required=bool(target),
            help=about,
            shell_complete=one_of(targets),
        ),
        click.Option(
            ["--calibration"],
            type=EXISTING_FILE,
            metavar="DATA",
            help="An .npz of training inputs to choose thresholds by: x, or a key for each argument of forward.",
        ),
        click.Option(
            ["--example", "example_input"],
            type=inputs.shape,
            metavar="SHAPE",
            multiple=True,
            help="Shape of one sample, such as 1,28,28, where no data says it; once for each input.",
        ),
        timesteps(required=timesteps_required),
        click.Option(
            ["--normalization"],
            type=inputs.literal,
            metavar="WHICH",
            help="max, a percentile (99.9%) or a factor of the maximum (0.5).",
        ),
        click.Option(
            ["--passes", "pipeline"],
            type=inputs.passes,
            metavar="PASSES",
            help='The passes to run instead of the usual ones, as a report prints them: "NAME, NAME{OPTION=VALUE}".',
        ),
        click.Option(
            ["--verify"],
            type=click.Choice(["each", "end", "off"]),
            default="end",
            show_default=True,
            help="Hold each exact pass to its contract by itself, each run of them as a whole, or none.",
        ),
        click.Option(
            ["--seed"],
            type=click.IntRange(0, 2**63 - 1),
            default=0,
            metavar="N",
            help="Of everything random; 0 if not given.",
        ),
        own("An option of how the model is read, such as dt=1e-4, or of the target, where a command has it otherwise."),
        reader(),
    ]


def reading(own: tuple[tuple[str, Any], ...], reader: str | None) -> dict[str, Any]:
    """Return the options of ``--option`` by name, with that of ``--reader``."""
    return {**dict(own), **({} if reader is None else {"reader": reader})}


def for_compiler(
    model: Any, own: tuple[tuple[str, Any], ...], reader: str | None = None, **options: Any
) -> dict[str, Any]:
    """Return the options as ``spikec.compile`` takes them: ``own`` by name, files and shapes as tensors."""
    from spikec.options import OWN
    from spikec.reading import find_frontend

    if taken := {"target", *OWN} & dict(own).keys():
        raise click.BadParameter(f"{min(taken)} is no option of a target or a frontend", param_hint="--option")
    given = reading(own, reader)
    if options["calibration"] is not None:
        frontend, model = find_frontend(model, inputs.reading(given), given)
        arrays = inputs.read_arrays(options["calibration"], frontend.input_names(model))
        options["calibration"] = inputs.batches(arrays)
    options["example_input"] = inputs.random_inputs(options["example_input"], options["seed"])
    return {"progress": True, **options, **given}


def for_shell(text: str) -> str:
    """Return a text with the options that it names spelled as on the command line, where it is a Hint."""
    parts = text.parts if isinstance(text, Hint) else (text,)
    return "".join(_spelled(part) if isinstance(part, Option) else part for part in parts)


def _spelled(option: Option) -> str:
    """Return ``--timesteps 8`` for ``timesteps=8``; what is none of our options is one of a target."""
    name = {each.name: each.opts[0] for each in compiling()}.get(option.name)
    if name is None:
        return f"--option {option.name}={'' if option.value is ... else option.value}"
    if option.value is ...:
        return name
    if option.value is None:
        return f"no {name}"
    if option.name == "example_input":
        return " ".join(f"{name} {','.join(map(str, shape))}" for shape in option.value)
    return f"{name} {option.value}"


def command(group: click.Group, name: str, params: list[click.Parameter], *lines: str) -> Callable[..., click.Command]:
    """Return a decorator that makes a function a command of a group, with lines to copy at the end of its help."""
    kind = CompilingCommand if any(each.name == "target" for each in params) else click.Command
    return group.command(name, kind, params=params, epilog=examples(*lines))
