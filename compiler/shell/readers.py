"""What the shell does for the reader of a file: what it makes of it, how it answers, and files written for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import click

from spikec.ir.errors import CompileError
from spikec.shell import inputs, tables
from spikec.shell import options as own
from spikec.shell.options import for_shell, reading


def profile(*, required: bool = False) -> click.Option:
    """Return ``--profile``."""
    return own.tool("--profile", about="The tool that reads the file", required=required)


def check_file(model: Any, tool: str, given: tuple[tuple[str, Any], ...]) -> None:
    """Say everything that a tool does with a file otherwise than it says."""
    from spikec.checking import check

    if problems := check(model, profile=tool, **dict(given)):
        raise CompileError(problems)
    tables.show({"problems": []}, f"{tool} runs the file as it says")


def foretell(
    model: Any, snn: Path, data: Path, tool: str | None, timesteps: int | None, given: tuple[tuple[str, Any], ...]
) -> None:
    """Say how a file answers in a tool, beside the model that it was made of."""
    from spikec.diagnosis.forecast import forecast
    from spikec.reading import find_frontend

    frontend, opened = find_frontend(model, {}, dict(given))
    xs = inputs.read_arrays(data, frontend.input_names(opened))
    labels = inputs.read_labels(data)
    found = forecast(opened, snn, inputs.batches(xs), labels, timesteps=timesteps, reader=tool or "", progress=True)
    found = attrs.evolve(
        found, problems=tuple(attrs.evolve(each, hint=for_shell(each.hint)) for each in found.problems)
    )
    tables.show(found.to_dict(), str(found))


def repair_command(file: Path, out: Path, profile: str, own: tuple[tuple[str, Any], ...], reader: str | None) -> None:
    """Write FILE, a spiking network, for the tool that is to read it.

    Nothing is tuned: the network stays what it is, in other nodes. What no form of it mends is listed.
    """
    from spikec.repair import repair

    found = repair(file, profile, **reading(own, reader))
    found = attrs.evolve(found, notes=tuple(map(for_shell, found.notes)))
    found.save(out)
    data = {"file": str(out), "mended": list(map(str, found.mended)), "left": list(map(str, found.left))}
    tables.show(data, str(found), f"wrote {out}")


def add_to(group: click.Group) -> None:
    """Add the command to a group."""
    own.command(
        group,
        "repair",
        [
            click.Argument(["file"], type=own.EXISTING_FILE, metavar="FILE"),
            own.output("The file to write."),
            profile(required=True),
            own.own("An option of how FILE is read, such as dt=1e-4."),
            own.reader(),
            own.as_json(),
        ],
        "repair theirs.nir -o mine.nir --profile sinabs",
    )(repair_command)
