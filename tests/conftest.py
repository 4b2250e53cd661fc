import os
from collections import Counter
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of what a test starts; read by torch when it is imported

import torch

#: of the numpy generators of test modules, named RNG, before their first test in this process
_STATES = {}


@pytest.fixture(autouse=True)
def _reproducible(monkeypatch, request):
    """Give a test the same numbers whatever ran before it."""
    generator = getattr(request.module, "RNG", None)
    if generator is not None:
        first = _STATES.setdefault(request.module.__name__, generator.bit_generator.state)
        generator.bit_generator.state = first
    monkeypatch.setenv("COLUMNS", "200")  # texts fit the terminal, and xdist says 80
    torch.set_num_threads(1)
    torch.default_generator.manual_seed(0)  # torch.manual_seed notes a stack for each kind of device


def pytest_addoption(parser):
    parser.addoption("--update-golden", action="store_true", help="write the files in tests/golden/ anew")


@pytest.fixture
def golden(request):
    """Compares a text with a file of tests/golden/, or writes it there where --update-golden is given."""

    def check(name, text):
        path = Path(__file__).with_name("golden") / name
        if request.config.getoption("--update-golden"):
            path.write_text(text)
        held = path.read_text() if path.exists() else None
        assert text == held, f"golden/{name} is another; if that is meant: pytest --update-golden, and look at the diff"

    return check


def pytest_report_header():
    """How long it takes, before it does."""
    return "the whole suite takes about 25 minutes on two cores, and -m 'not slow' 100 seconds"


def pytest_terminal_summary(terminalreporter):
    """What tests counted, from all processes."""
    counted = Counter(each for report in terminalreporter.stats.get("passed", ()) for each in report.user_properties)
    for (what, which), count in sorted(counted.items()):
        terminalreporter.write_line(f"{what}: {count} {which}")
