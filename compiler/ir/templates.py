"""HTML and SVG, from the templates in ``spikec/templates``."""

import functools
from collections.abc import Iterable, Sequence
from typing import Any


@functools.cache
def _environment() -> Any:
    import jinja2  # only who draws waits for it

    return jinja2.Environment(
        loader=jinja2.PackageLoader("spikec", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


def render(template: str, **values: Any) -> str:
    """Fill in a template; texts in it are escaped."""
    text: str = _environment().get_template(template).render(values)
    return text


def table(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]], notes: Iterable[str] = ()) -> str:
    """Write a table with a title above and notes below it as HTML for a notebook; ``refused`` in a row makes it red."""
    return render("table.html.j2", title=title, headings=headings, rows=list(rows), notes=list(notes))
