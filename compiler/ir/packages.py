"""Packages that may not be installed."""

import importlib
import re
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from types import ModuleType
from typing import Any

from spikec.ir.errors import MissingDependencyError

#: the extra of spikec that installs a package; any other package is installed by its own name
_EXTRAS = {"onnx": "onnx", "lava": "lava", "matplotlib": "demo", "mlxtend": "demo", "sklearn": "demo"}

#: packages that others pin to versions older than spikec needs, with the oldest that it takes, and what to do
_PINNED = {"nir": ("1.0.7", "sinabs and rockpool ask for nir 1.0.4: install them in an environment of their own")}


def needed(name: str, needed_by: str) -> Any:
    """Import a module that may not be installed, or one of spikec's that imports such a module.

    Raises:
        MissingDependencyError: a package is not installed, or one is too old; with who needs it, and the command that
            installs it.
    """
    try:
        found = importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        if missing in ("", "spikec"):
            raise
        wanted = f"spikec[{_EXTRAS[missing]}]" if missing in _EXTRAS else missing
        message = f"{needed_by} needs the package {missing}, which is not installed"
        raise MissingDependencyError(message, hint=f'pip install "{wanted}"') from error
    except AttributeError as error:
        _refuse_old([error.obj], needed_by)  # what it lacks is of a newer version
        raise
    _refuse_old(vars(found).values(), needed_by)
    return found


def _refuse_old(held: Iterable[Any], needed_by: str) -> None:
    """Raise a MissingDependencyError where a module is of a package that is older than spikec needs."""
    for package in {each.__name__ for each in held if isinstance(each, ModuleType)} & _PINNED.keys():
        (oldest, advice), installed = _PINNED[package], version(package)
        numbers, least = (list(map(int, re.findall(r"\d+", each)[:3])) for each in (installed, oldest))
        if numbers < least:
            message = f"{needed_by} needs {package} {oldest} or newer, and {installed} is installed"
            raise MissingDependencyError(message, hint=f'pip install "{package}>={oldest}"; {advice}')


def frame(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> Any:
    """Return a table as a ``pandas.DataFrame``.

    Raises:
        MissingDependencyError: pandas is not installed.
    """
    return needed("pandas", "to_pandas").DataFrame(list(rows), columns=list(headings))
