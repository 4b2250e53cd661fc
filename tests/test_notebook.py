"""docs/first_hour.ipynb runs, and holds the outputs of a run."""

import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
NOTEBOOK = DOCS / "first_hour.ipynb"


def output_kinds(notebook):
    """For each cell of code what it shows: kinds of outputs, and of displayed data."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [[(each.output_type, *sorted(each.get("data", {}))) for each in cell.outputs] for cell in cells]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the kernel's own client
def test_the_notebook_runs_and_shows_what_it_has_shown(tmp_path):
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    ran = runpy.run_path(str(DOCS / "run_notebook.py"))["run"](tmp_path)
    kept = nbformat.read(NOTEBOOK, as_version=4)
    assert output_kinds(ran) == output_kinds(kept), "run: python docs/run_notebook.py"
    assert {"digits.nir", "digits.net", "first_hour"} <= {each.name for each in tmp_path.iterdir()}
    assert '"halve-potential"' in (tmp_path / "first_hour" / "index.html").read_text()


def test_the_notebook_is_small_and_shows_no_error():
    text = NOTEBOOK.read_text()
    assert len(text) < 400_000
    assert '"output_type": "error"' not in text
    assert "image/png" in text
    assert "text/html" in text
    assert 'execution_count": null' not in text
