"""Every Python block of every README runs, in order, in one namespace a file."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
READMES = sorted(path.relative_to(ROOT) for path in [*ROOT.glob("*.md"), *ROOT.glob("[bcfp]*/README.md")])
CASES = [
    pytest.param(each, marks=[pytest.mark.slow] if each == Path("README.md") else [], id=str(each)) for each in READMES
]


@pytest.mark.parametrize("readme", CASES)
def test_the_examples_run(readme, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("webbrowser.open", lambda url: True)
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / readme).read_text(), re.M | re.S)
    scope = {"__name__": f"readme_of_{readme.parent.name or 'spikec'}"}
    for block in blocks:
        exec(compile(block, str(readme), "exec"), scope)


def test_there_is_something_to_run():
    assert {str(p) for p in READMES} >= {"README.md", "compiler/README.md", "passes/README.md"}
