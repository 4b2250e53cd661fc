"""Packages that may not be installed."""

import importlib
from collections.abc import Iterable, Sequence
from typing import Any

from spikec.ir.errors import MissingDependencyError

#: the extra of spikec that installs a package; any other package is installed by its own name
_EXTRAS = {"onnx": "onnx", "lava": "lava", "matplotlib": "demo", "mlxtend": "demo", "sklearn": "demo"}


def needed(name: str, needed_by: str) -> Any:
    """Import a module that may not be installed, or one of spikec's that imports such a module.

    Raises:
        MissingDependencyError: a package is not installed; with who needs it, and the command that installs it.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        if missing in ("", "spikec"):
            raise
        wanted = f"spikec[{_EXTRAS[missing]}]" if missing in _EXTRAS else missing
        message = f"{needed_by} needs the package {missing}, which is not installed"
        raise MissingDependencyError(message, hint=f'pip install "{wanted}"') from error


def frame(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> Any:
    """Return a table as a ``pandas.DataFrame``.

    Raises:
        MissingDependencyError: pandas is not installed.
    """
    return needed("pandas", "to_pandas").DataFrame(list(rows), columns=list(headings))
