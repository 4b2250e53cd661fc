"""Other packages' parts: modules that they name as entry points of the group ``spikec.plugins``."""

from importlib.metadata import EntryPoint, entry_points
from types import ModuleType

import attrs

from spikec.extend.backend import Backend
from spikec.extend.frontend import Frontend
from spikec.extend.passbase import Pass
from spikec.ir.errors import CompileError, PluginError

GROUP = "spikec.plugins"


@attrs.frozen(eq=False)
class Plugin:
    """What a module of another package brings besides the converters that it has registered when it was imported.

    Attributes:
        package: the distribution that it belongs to, with its version.
        passes: what it holds of passes that its own package defines; it may import others' to build on them.
        backend: the class of its target, if any.
        frontend: its frontend, if any.
    """

    package: str
    passes: tuple[type[Pass], ...]
    backend: type[Backend] | None
    frontend: Frontend | None


def installed() -> list[EntryPoint]:
    """Return the entry points of all plugins, in an order that does not depend on the search path."""
    return sorted(entry_points(group=GROUP), key=lambda entry: (_distribution(entry), entry.name))


def imported(entry: EntryPoint) -> Plugin:
    """Import the module that an entry point names.

    Raises:
        PluginError: it cannot be imported, or holds what is no target or frontend; with the distribution to mend.
    """
    package = _distribution(entry)
    try:
        module = entry.load()
    except Exception as error:
        said = error.problems[0].message if isinstance(error, CompileError) else f"{type(error).__name__}: {error}"
        raise _unusable(entry, f"importing {entry.value} fails: {said}") from error
    if not isinstance(module, ModuleType):
        raise _unusable(entry, f"{entry.value} is no module")
    held = {name: value for name, value in vars(module).items() if not isinstance(value, ModuleType)}
    classes = dict.fromkeys(value for value in held.values() if isinstance(value, type))
    own = [each for each in classes if each.__module__.partition(".")[0] == module.__name__.partition(".")[0]]
    backend, frontend = held.get("backend"), held.get("frontend")
    is_target = isinstance(backend, type) and issubclass(backend, Backend) and hasattr(backend, "name")
    if backend is not None and not is_target:
        raise _unusable(entry, f"the backend in {entry.value} is no subclass of spikec.Backend that has a name")
    if frontend is not None and not isinstance(frontend, Frontend):
        raise _unusable(entry, f"the frontend in {entry.value} is no instance of a Frontend")
    if entry.dist:
        package += f" {entry.dist.version}"
    return Plugin(package, tuple(each for each in own if issubclass(each, Pass)), backend, frontend)


def _distribution(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else entry.module


def _unusable(entry: EntryPoint, why: str) -> PluginError:
    package = _distribution(entry)
    return PluginError(
        f"plugin {entry.name!r} of the package {package} cannot be used: {why}",
        hint=f'mend it (python -c "import {entry.module}" shows more), or uninstall it: pip uninstall {package}',
    )
