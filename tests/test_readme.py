"""Every Python block of every page that users read runs, in order, in one namespace a file."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = ("*.md", "docs/*.md", "[bcfp]*/README.md")
READMES = sorted(path.relative_to(ROOT) for pattern in PAGES for path in ROOT.glob(pattern))


@pytest.mark.slow
@pytest.mark.parametrize("readme", READMES, ids=str)
def test_the_examples_run(readme, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("webbrowser.open", lambda url: True)
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / readme).read_text(), re.M | re.S)
    scope = {"__name__": f"readme_of_{readme.parent.name or 'spikec'}_{readme.stem}"}
    for block in blocks:
        exec(compile(block, str(readme), "exec"), scope)


def test_there_is_something_to_run():
    assert {str(p) for p in READMES} >= {"README.md", "docs/accuracy.md", "compiler/README.md", "passes/README.md"}


@pytest.mark.parametrize("readme", READMES, ids=str)
def test_links_to_other_pages_lead_somewhere(readme):
    """A link's file is there, and so is the heading behind its #."""
    text = (ROOT / readme).read_text()
    for target, _, anchor in (each.partition("#") for each in re.findall(r"\]\(([^)\s]+)\)", text)):
        if target.startswith("http"):
            continue
        page = (ROOT / readme).parent / target if target else ROOT / readme
        assert page.exists(), f"{readme}: {target}"
        headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M) if anchor else []
        slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
        assert not anchor or anchor in slugs, f"{readme}: {target}#{anchor}"
