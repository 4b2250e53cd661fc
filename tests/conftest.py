import os
from collections import Counter

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of what a test starts; read by torch when it is imported

import torch


@pytest.fixture(autouse=True)
def _reproducible():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def pytest_terminal_summary(terminalreporter):
    """What tests counted, from all processes."""
    counted = Counter(each for report in terminalreporter.stats.get("passed", ()) for each in report.user_properties)
    for (what, which), count in sorted(counted.items()):
        terminalreporter.write_line(f"{what}: {count} {which}")
