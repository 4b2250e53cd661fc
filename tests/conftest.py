import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of what a test starts; read by torch when it is imported

import torch


@pytest.fixture(autouse=True)
def _reproducible():
    torch.set_num_threads(1)
    torch.manual_seed(0)
