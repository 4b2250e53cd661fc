"""Finds passes, frontends and backends by name: those in spikec's folders, and those of other packages' plugins."""

import contextlib
import difflib
import functools
import importlib
import importlib.util
import inspect
import pkgutil
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any, TypeGuard, TypeVar

import attrs

from spikec.extend.backend import Backend
from spikec.extend.frontend import Frontend
from spikec.extend.passbase import Pass
from spikec.ir.errors import CompileError, MissingDependencyError, PluginError, shown, warn
from spikec.ir.packages import needed

BuiltT = TypeVar("BuiltT")
ClassT = TypeVar("ClassT")

#: the entry points that name modules of other packages with parts for spikec
GROUP = "spikec.plugins"


@attrs.frozen(eq=False)
class Part:
    """A pass or a target that can be asked for by its name.

    Attributes:
        name: what users call it.
        package: ``spikec``, or the distribution of the plugin that brings it, with its version.
        module: the module that holds it.
        load: returns its class; raises MissingDependencyError where that needs a package that is not installed.
    """

    name: str
    package: str
    module: str
    load: Callable[[], Any]

    @property
    def summary(self) -> str:
        """The first sentence about it, without markup: of its file in spikec, where it is alone, else of its class."""
        kind = self.load()
        about = sys.modules[kind.__module__] if self.package == "spikec" else kind
        return " ".join((about.__doc__ or "").split("\n\n")[0].replace("``", "").split())


def names(folder: str) -> list[str]:
    """Return the names of the files and folders in ``passes``, ``frontends`` or ``backends``, sorted."""
    return sorted(_listed(*importlib.import_module(f"spikec.{folder}").__path__))


@functools.cache
def _listed(*places: str) -> tuple[str, ...]:
    """List the modules in folders of ours, none of which is empty.

    Raises:
        CompileError: they cannot be listed, as where too many files are open; pkgutil takes them for empty then.
    """
    if found := tuple(module.name for module in pkgutil.iter_modules(places)):
        return found
    raise CompileError(f"the folder {', '.join(places)} cannot be read", hint="close files, or install spikec again")


def module(folder: str, name: str) -> ModuleType:
    """Import one file, or the ``__init__`` of a folder; see :func:`needed`."""
    found: ModuleType = needed(f"spikec.{folder}.{name}", f"{folder}/{name}")
    return found


def modules(folder: str, name: str) -> list[ModuleType]:
    """Import a file, or a folder with all that lies in it, so that what registers itself there is known."""
    first = module(folder, name)
    below = pkgutil.walk_packages(getattr(first, "__path__", ()), f"{first.__name__}.")
    return [first, *(module(folder, each.name.removeprefix(f"spikec.{folder}.")) for each in below)]


def _import_all(folder: str) -> None:
    """Import what lies in a folder, as far as the packages that it needs are installed."""
    for name in names(folder):
        with contextlib.suppress(MissingDependencyError):
            modules(folder, name)


def is_class(value: Any, base: type[ClassT]) -> TypeGuard[type[ClassT]]:
    """Return whether a value is a class that derives from another; in Python 3.10 ``tuple[int]`` says it is a class."""
    return issubclass(type(value), type) and issubclass(value, base)


def unknown(what: str, name: str, known: Iterable[str]) -> CompileError:
    """Return the error for a name that nothing has, with the known names and the one that may be meant."""
    known = sorted(known)
    close = difflib.get_close_matches(str(name), known, n=1)
    meant = f": did you mean {close[0]!r}?" if close else ""
    hint = f"one of: {', '.join(known)}" if known else "leave it out"
    return CompileError(f"there is no {what} {shown(name)}{meant}", hint=hint)


def options_of(function: Callable[..., Any]) -> list[str]:
    """Return the names of a function's parameters behind the first, which are the options on how a model is read."""
    return list(inspect.signature(function).parameters)[1:]


def built(what: str, kind: type[BuiltT], options: Mapping[str, Any]) -> BuiltT:
    """Return an instance of an attrs class, which itself refuses what its options cannot be.

    Raises:
        CompileError: it has no such option, or refuses a value.
    """
    known = [field.name for field in attrs.fields(kind)]  # type: ignore[arg-type]
    for name in options:
        if name not in known:
            raise unknown(f"option of {what}", name, known or ["none"])
    return kind(**options)


@attrs.frozen(eq=False)
class Plugin:
    """What a module of a distribution, ``package``, brings besides the converters that it registers when imported.

    Only passes that its own package defines count: it may import others' to build on them.
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
    classes = [value for value in held.values() if is_class(value, Pass)]
    own = [each for each in classes if each.__module__.partition(".")[0] == module.__name__.partition(".")[0]]
    backend, frontend = held.get("backend"), held.get("frontend")
    is_target = is_class(backend, Backend) and hasattr(backend, "name")
    if backend is not None and not is_target:
        raise _unusable(entry, f"the backend in {entry.value} is no subclass of spikec.Backend that has a name")
    if frontend is not None and not isinstance(frontend, Frontend):
        raise _unusable(entry, f"the frontend in {entry.value} is no instance of a Frontend")
    if entry.dist:
        package += f" {entry.dist.version}"
    return Plugin(package, tuple(dict.fromkeys(own)), backend, frontend)


def _distribution(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else entry.module


def _unusable(entry: EntryPoint, why: str) -> PluginError:
    package = _distribution(entry)
    return PluginError(
        f"plugin {entry.name!r} of the package {package} cannot be used: {why}",
        hint=f'mend it (python -c "import {entry.module}" shows more), or uninstall it: pip uninstall {package}',
    )


#: what the plugins that are installed have become; None before they are first asked for
_imported: list[Plugin | PluginError] | None = None
#: held while they are imported, so that another thread sees them all
_importing = threading.RLock()


def _plugins() -> list[Plugin | PluginError]:
    """Import the plugins that are installed, at the first call; warn of those that cannot be used, and go without."""
    global _imported
    with _importing:
        if _imported is None:
            _imported = []  # set at once: a plugin that asks for a pass while it is imported sees those before it
            try:
                _import_plugins(_imported)
            except BaseException:  # an interrupt, after which the next call begins anew
                _imported = None
                raise
        return _imported


def _import_plugins(found: list[Plugin | PluginError]) -> None:
    entries = installed()
    if entries:  # ours register first, so that of two converters for one layer the plugin's is the one refused
        _import_all("frontends")
    for entry in entries:
        try:
            found.append(imported(entry))
        except PluginError as error:
            found.append(error)
    for each in _those(PluginError):
        warn(f"{each.problems[0].message}; {each.hint}")


def _those(kind: type[ClassT]) -> list[ClassT]:
    """Return the plugins that can be used (Plugin), or cannot (PluginError)."""
    return [each for each in _plugins() if isinstance(each, kind)]


def passes() -> list[Part]:
    """Return every pass, sorted by name."""
    return _parts("passes", _pass_in, {each: plugin.package for plugin in _those(Plugin) for each in plugin.passes})


def targets() -> list[Part]:
    """Return every target, sorted by name."""
    brought = {plugin.backend: plugin.package for plugin in _those(Plugin) if plugin.backend is not None}
    return _parts("backends", lambda name: _called("backends", name, "backend", type)[0], brought)


def _parts(folder: str, load: Callable[[str], Any], brought: Mapping[Any, str]) -> list[Part]:
    """Return what lies in a folder of ours, by file name, and the classes that plugins bring, each with its package."""
    ours = [
        Part(name.replace("_", "-"), "spikec", f"spikec.{folder}.{name}", functools.partial(load, name))
        for name in names(folder)
    ]
    theirs = [Part(kind.name, package, kind.__module__, _returning(kind)) for kind, package in brought.items()]
    return sorted(ours + theirs, key=lambda part: part.name)


def _returning(kind: type) -> Callable[[], type]:
    return lambda: kind


def backends() -> list[str]:
    """Return the names of the targets.

    Examples:
        >>> spikec.targets()
        ['lava', 'netx', 'nir', 'spikingjelly']
    """
    return list(dict.fromkeys(part.name for part in targets()))


def pass_named(name: str, **options: Any) -> Pass:
    """Return the pass of this name with these options.

    Raises:
        CompileError: there is no such pass, there are two, or it does not take these options.

    Examples:
        >>> print(spikec.pass_named("dither-potential", layers="first"))
        dither-potential{layers=first}
    """
    kind: type[Pass] = _only("pass", name, passes())
    return built(f"pass {name}", kind, options)


def backend_named(name: str) -> type[Backend]:
    """Return the backend of a target.

    Raises:
        CompileError: there is no such target, or there are two.
        MissingDependencyError: it needs a package that is not installed.
    """
    found: type[Backend] = _only("target", name, targets())
    return found


def no_such(what: str, name: str, known: Iterable[str]) -> CompileError:
    """Return the error for a pass or target that nothing brings, with the broken plugins that might have."""
    error = unknown(what, name, known)
    for each in _those(PluginError):
        error.add(each.problems)
    return error


def _only(what: str, name: str, parts: list[Part]) -> Any:
    found = [part for part in parts if isinstance(name, str) and part.name == name]
    if not found:
        raise no_such(what, name, {part.name for part in parts})
    if len(found) > 1:
        places = " and ".join(f"{part.package} ({part.module})" for part in found)
        raise CompileError(f"{name!r} names more than one {what}: {places}", hint="rename one, or uninstall it")
    return found[0].load()


def _pass_in(stem: str) -> type[Pass]:
    """Return the class in ``passes/<stem>.py``."""
    name = stem.replace("_", "-")
    found = [
        value
        for value in vars(module("passes", stem)).values()
        if is_class(value, Pass) and getattr(value, "name", None) == name
    ]
    if len(found) != 1:
        raise CompileError(f"passes/{stem}.py holds {len(found)} passes named {name!r}, it must hold one")
    return found[0]


def _is_unused_package(name: str) -> bool:
    return name not in sys.modules and importlib.util.find_spec(name) is not None


def _called(folder: str, name: str, wanted: str, kind: type) -> list[Any]:
    """Return what a file, or the files of a folder, call ``wanted``; at least one of that kind."""
    held = [vars(each).get(wanted) for each in modules(folder, name)]
    found = [each for each in held if isinstance(each, kind)]
    if not found:
        raise CompileError(f"{folder}/{name} holds no {wanted!r}", hint=f"each file or folder there defines a {wanted}")
    return found


def known_backends() -> Iterator[Backend]:
    """Yield one of each backend: ours where their packages are installed, plugins', and users' own classes."""
    _import_all("backends")
    _plugins()
    waiting = list(Backend.__subclasses__())
    while waiting:
        each = waiting.pop()
        waiting += each.__subclasses__()
        with contextlib.suppress(CompileError):  # its options have no defaults: it must be told what to save by itself
            yield each()


def frontends() -> Iterator[Frontend | CompileError]:
    """Yield each frontend, ours and then plugins', or why it cannot be loaded.

    A folder has the name of the package that it reads. One that is not imported yet has made no model, so that frontend
    comes behind the others: whoever takes no more than is needed does not wait for its import.
    """
    _plugins()  # for their converters, which frontends of ours use
    for name in sorted(names("frontends"), key=_is_unused_package):
        try:
            yield from _called("frontends", name, "frontend", Frontend)
        except MissingDependencyError as error:
            yield error
    yield from _those(PluginError)
    yield from (plugin.frontend for plugin in _those(Plugin) if plugin.frontend is not None)
