"""Long work that shows how far it is: who does it uses :func:`track`, who looks at it :func:`shown`.

The two know nothing of each other, so that work may be nested: the passes of a compilation, within one of them the ways
that it tries, within each the layers.
"""

import contextlib
import functools
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextvars import ContextVar
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import attrs

from spikec.ir.errors import CompileError
from spikec.ir.templates import render


class _Shows(Protocol):
    progress: "bool | Callable[[Progress], None] | None"


P = ParamSpec("P")
S = TypeVar("S", bound=_Shows)
T = TypeVar("T")

#: seconds between two lines where the output is no terminal
_BETWEEN = 10.0


@attrs.frozen
class Progress:
    """How far a piece of work is.

    Attributes:
        what: the pieces of work that it is part of, outermost first, and itself: ``("passes", "ways")``.
        current: what is being done now, such as the name of a pass; may be empty.
        done: how many items are done.
        total: of how many; None where that is not known.

    Examples:
        >>> told = []
        >>> graph = spikec.compile(model, "nir", calibration=images, normalization="max", progress=told.append)
        >>> print(next(each for each in told if each.what == ("passes",)))
        passes 1 of ...
    """

    what: tuple[str, ...]
    current: str
    done: int
    total: int | None

    def __str__(self) -> str:
        count = f"{min(self.done + 1, self.total)} of {self.total}" if self.total else f"{self.done + 1}"
        return f"{self.what[-1]} {count}{f': {self.current}' if self.current else ''}"


#: looks at the pieces of work that run, outermost first, whenever one of them has got further or ended
Watcher = Callable[[tuple[Progress, ...]], None]

_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)
_running: ContextVar[tuple[Progress, ...]] = ContextVar("running", default=())


def track(
    items: Iterable[T], what: str, total: int | None = None, current: Callable[[T], str] | None = None
) -> Iterator[T]:
    """Yield the items, and tell the watcher, if there is one, how many are done.

    Args:
        what: the work is called, in the plural of its items: ``"passes"``.
        total: how many items there are, where they have no length that says it.
        current: gives the name of an item.
    """
    watcher = _watcher.get()
    if watcher is None:
        yield from items
        return
    outer = _running.get()
    names = (*(each.what[-1] for each in outer), what)
    total = len(items) if total is None and isinstance(items, Sized) else total
    try:
        for done, item in enumerate(items):
            running = (*outer, Progress(names, current(item) if current else "", done, total))
            _running.set(running)
            watcher(running)
            yield item
    finally:
        _running.set(outer)
        watcher(outer)


@contextlib.contextmanager
def shown(progress: bool | Callable[[Progress], None] | None) -> Iterator[None]:
    """Show work within: True as bars, or as lines where the output is no terminal; or hand it to a function.

    Args:
        progress: False shows nothing; None leaves it to whoever shows work around this, as True does within True.
    """
    if progress is None or (progress is True and isinstance(_watcher.get(), _Screen)):
        yield
        return
    with contextlib.ExitStack() as stack:
        watcher: Watcher | None = None
        if callable(progress):
            watcher = _each(progress)
        elif progress:
            watcher = stack.enter_context(_on_screen())
        kept = _watcher.set(watcher)
        try:
            yield
        finally:
            _watcher.reset(kept)


def showing(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """Show the work of a method as the attribute ``progress`` of its object says."""

    @functools.wraps(method)
    def watched(of: S, /, *args: P.args, **options: P.kwargs) -> T:
        with shown(of.progress):
            return method(of, *args, **options)

    return watched


def _each(tell: Callable[[Progress], None]) -> Watcher:
    """Return a watcher that tells of the innermost piece of work."""

    def watch(running: tuple[Progress, ...]) -> None:
        if running:
            try:
                tell(running[-1])
            except Exception as error:
                raise CompileError(
                    f"the function given as progress fails: {type(error).__name__}: {error}",
                    hint="it is called with a spikec.Progress",
                ) from error

    return watch


@contextlib.contextmanager
def _on_screen() -> Iterator[Watcher]:
    """Give a watcher that draws bars on stderr or in a notebook, or writes lines where there is neither."""
    from rich.console import Console  # only who looks waits for it

    console = Console(stderr=True, highlight=False, emoji=False)
    if console.is_jupyter:
        cell = _Cell()
        try:
            yield cell
        finally:
            cell.clear()
        return
    if not console.is_terminal:
        yield _Lines()
        return
    from rich import progress as rich
    from rich.table import Column

    text = rich.TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, ratio=1))
    left = rich.TimeRemainingColumn(), rich.TextColumn("left")
    others = rich.BarColumn(bar_width=20), rich.MofNCompleteColumn(), rich.TimeElapsedColumn(), *left
    with rich.Progress(text, *others, console=console, transient=True, expand=True) as bars:
        yield _Bars(bars)


class _Screen:
    """Shows work on the screen, of which there is one."""

    def __call__(self, running: tuple[Progress, ...]) -> None:
        """Show the pieces of work that run."""
        raise NotImplementedError


@attrs.define
class _Bars(_Screen):
    """Draws a bar for each piece of work that runs, one below the other."""

    bars: Any
    tasks: list[Any] = attrs.field(factory=list)

    def __call__(self, running: tuple[Progress, ...]) -> None:
        while len(self.tasks) > len(running):
            self.bars.remove_task(self.tasks.pop())
        for depth, each in enumerate(running):
            text = "  " * depth + f"{each.what[-1]} {each.current}".rstrip()
            if depth == len(self.tasks):
                self.tasks.append(self.bars.add_task(text, total=each.total))
            self.bars.update(self.tasks[depth], description=text, completed=each.done, total=each.total)


class _Lines(_Screen):
    """Prints where the work is, at most every ten seconds, on stderr."""

    def __init__(self) -> None:
        self.started = self.last = time.monotonic()

    def __call__(self, running: tuple[Progress, ...]) -> None:
        now = time.monotonic()
        if running and now - self.last >= _BETWEEN:
            self.last = now
            print(f"{now - self.started:.0f} s: {', '.join(map(str, running))}", file=sys.stderr, flush=True)


class _Cell(_Screen):
    """Shows a bar for each piece of work in the output of a notebook's cell, at most ten times a second."""

    def __init__(self) -> None:
        from IPython.display import display

        self.shown: Any = display({"text/plain": ""}, raw=True, display_id=True)
        self.last = 0.0

    def __call__(self, running: tuple[Progress, ...]) -> None:
        now = time.monotonic()
        if running and now - self.last >= 0.1:
            self.last = now
            html = render("progress.html.j2", running=running)
            self.shown.update({"text/plain": ", ".join(map(str, running)), "text/html": html}, raw=True)

    def clear(self) -> None:
        """Leave nothing of it."""
        self.shown.update({"text/plain": "", "text/html": ""}, raw=True)
