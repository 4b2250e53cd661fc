"""Write docs/reference.md, the public names by their docstrings: ``python docs/reference.py``."""

import inspect
import re
from pathlib import Path
from typing import Any

import griffe
import jinja2

import spikec

HERE = Path(__file__).parent
#: classes that are derived from, or whose objects spikec makes: nobody calls them
HIDDEN = (
    *("Backend", "Calibration", "Compilation", "Context", "Diagnosis", "Movement", "Op", "Pass", "Progress"),
    *("Forecast", "Repair"),
    *("Recording", "Role", "Simulation", "StatefulOp"),
)
ROLES = (
    ("Compile and run", ("compile", "check", "load", "run", "simulate", "evaluate", "save", "targets")),
    ("Look inside", ("Compiler", "Compilation", "Graph", "Simulation", "Recording", "record", "plot_accuracy")),
    ("Files of other tools", ("repair", "Repair", "Forecast")),
    ("Why it is less accurate", ("diagnose", "Diagnosis")),
    ("Options", ("Normalization", "Calibration", "calibrate", "Pipeline", "pass_named", "Progress")),
    ("Extend", ("Pass", "Context", "Op", "StatefulOp", "Movement", "Role", "Backend")),
)


def entry(name: str, value: Any) -> dict[str, Any]:
    """What the page says of one object: its heading, its signature and its docstring in sections."""
    text = inspect.getdoc(value) or ""
    return {"name": name, "signature": signature(name, value), "sections": sections(text), "methods": methods(value)}


def signature(name: str, value: Any) -> str:
    """How it is called, with names only: types stand in the text."""
    if inspect.isclass(value) and (issubclass(value, BaseException) or name.split(".")[-1] in HIDDEN):
        return name
    try:
        parameters = inspect.signature(value).parameters.values()
    except ValueError:
        return name
    shown = [each.replace(annotation=inspect.Parameter.empty) for each in parameters if each.name != "self"]
    return name + str(inspect.Signature(shown)).replace(" = ", "=")


def sections(text: str) -> list[Any]:
    """The parts of a docstring in Google's style."""
    return griffe.Docstring(text).parse(
        "google", warnings=False, returns_named_value=False, returns_multiple_items=False
    )


def methods(value: Any) -> list[dict[str, Any]]:
    """The public methods and properties of a class, in its own order, and behind them those of base classes."""
    if not inspect.isclass(value) or issubclass(value, BaseException):
        return []
    found: dict[str, dict[str, Any]] = {}
    for base in value.__mro__:
        if not base.__module__.startswith("spikec."):
            continue
        for name, member in vars(base).items():
            plain = getattr(member, "__func__", member)
            if name.startswith("_") or name in found or not (inspect.isfunction(plain) or isinstance(plain, property)):
                continue
            text = inspect.getdoc(plain.fget if isinstance(plain, property) else plain) or ""
            shown = name if isinstance(plain, property) else signature(name, plain).replace("(cls, ", "(")
            found[name] = {"name": name, "signature": shown, "sections": sections(text)}
    return list(found.values())


def plain(text: str) -> str:
    """Write a docstring's marks as Markdown does."""
    return re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text.replace("``", "`"))


def cell(text: str) -> str:
    """Put a text on one line of a table."""
    return " ".join(plain(text).split()).replace("|", "\\|")


def page() -> str:
    """The whole page."""
    placed = {name for _, names in ROLES for name in names}
    rest = tuple(name for name in spikec.__all__ if name not in placed)
    chapters = [
        (title, [entry(f"spikec.{name}", getattr(spikec, name)) for name in names])
        for title, names in (*ROLES, ("Errors and warnings", rest))
    ]
    environment = jinja2.Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FileSystemLoader(HERE),
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"plain": plain, "cell": cell}
    text = environment.get_template("reference.md.j2").render(chapters=chapters)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


if __name__ == "__main__":
    (HERE / "reference.md").write_text(page())
