"""Run docs/first_hour.ipynb in a folder of its own and write it with its outputs: ``python docs/run_notebook.py``."""

import tempfile
from pathlib import Path

import nbclient
import nbformat

NOTEBOOK = Path(__file__).with_name("first_hour.ipynb")


def run(folder: str | Path) -> nbformat.NotebookNode:
    """Return the notebook with the outputs of a run in that folder; a cell that fails raises."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when it ran, which is another time for each run
    return notebook


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        nbformat.write(run(folder), NOTEBOOK)
