"""Numbers, tables and sentences as text that fits the terminal."""

import shutil
import textwrap
from collections.abc import Iterable, Iterator, Sequence

#: how many columns there are where the output is neither a terminal nor says its COLUMNS
WIDTH = 200


def terminal_width() -> int:
    """Return how many columns the terminal has, or COLUMNS says."""
    return shutil.get_terminal_size((WIDTH, 24)).columns


def percent(share: float) -> str:
    """Return a share in percent, such as ``97.9``."""
    return f"{100 * share:.1f}"


def count(number: float) -> str:
    """Return a large number with three digits and a unit, such as ``1.25 M``."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.3g}"


def columns(rows: Iterable[Sequence[str]], width: int) -> Iterator[str]:
    """Yield the lines of a table, the first column to the left, the others to the right.

    Columns that do not fit into ``width`` follow below, behind the first column again, which takes half of it at most.
    """
    cells = [[_shortened(row[0], max(width // 2 - 2, 8)), *row[1:]] for row in rows]
    widths = [max(map(len, column)) + 2 for column in zip(*cells, strict=True)]
    first = 1
    while first < len(widths):
        last = first + 1
        while last < len(widths) and widths[0] + sum(widths[first : last + 1]) <= width:
            last += 1
        if first > 1:
            yield ""
        for row in cells:
            rest = (text.rjust(size) for text, size in zip(row[first:last], widths[first:last], strict=True))
            yield "".join([f"  {row[0]}".ljust(widths[0]), *rest]).rstrip()
        first = last


def sentences(lines: Iterable[str], width: int) -> Iterator[str]:
    """Yield lines broken to ``width``; what follows of one is set in by two more columns."""
    for line in lines:
        inset = " " * (len(line) - len(line.lstrip()) + 2)
        yield from textwrap.wrap(line, width, subsequent_indent=inset, break_on_hyphens=False) or [""]


def _shortened(text: str, width: int) -> str:
    """Return the end of a text that is too long: where a layer is says more than what is around it."""
    return text if len(text) <= width else f"…{text[1 - width :]}"
