"""The batch size as a number: a formula through arithmetic, for which plain numbers at several sizes are the truth."""

import math

import pytest
import torch

from spikec.frontends.torch.batch import BATCH, BatchSize

FORMULAS = {
    "B": lambda b: b,
    "2*B": lambda b: 2 * b,
    "B+1": lambda b: 1 + b,
    "B-1": lambda b: b - 1,
    "-B+1": lambda b: 1 - b,
    "-B": lambda b: -b,
    "3*B+3": lambda b: (b + 1) * 3,
    "B//2": lambda b: b // 2,
    "B//6": lambda b: b // 2 // 3,
    "(3*B+2)//2": lambda b: 3 * b // 2 + 1,
    "12*B": lambda b: math.prod((b, 3, 4)),
    "5*B": lambda b: 2 * b + 3 * b,
}


@pytest.mark.parametrize("text", FORMULAS)
def test_arithmetic_keeps_the_formula(text):
    size = FORMULAS[text](BATCH)
    assert (str(size), f"{size}", repr([size])) == (text, text, f"[{text}]")
    assert [size.at(batch) for batch in range(1, 20)] == [FORMULAS[text](batch) for batch in range(1, 20)]


def test_lowest_terms_and_what_is_no_longer_made_of_it():
    assert BATCH * 4 // 4 == BATCH
    assert type(BATCH - BATCH) is int
    assert BATCH - BATCH == 0
    assert not isinstance(BATCH * 0.5, BatchSize)
    assert isinstance(torch.Size((BATCH, 3))[0], BatchSize)


def test_torch_makes_no_tensor_of_that_size():
    with pytest.raises(RuntimeError):
        torch.zeros(BATCH)
