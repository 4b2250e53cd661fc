"""Arguments and results of forward as libraries of models have them."""

from collections import OrderedDict
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import spikec
from spikec.ir.errors import InvalidModelError

X = torch.rand(6, 4, generator=torch.Generator().manual_seed(0))


@dataclass
class Record:
    """A result with fields that may be empty."""

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None


class Ordered(OrderedDict):
    """A dict of a class of the user's."""


class Net(nn.Module):
    """All arguments may be left out, and the first one is refused if it is."""

    def __init__(self, result):
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.result = nn.Linear(4, 3), result

    def forward(self, pixel_values=None, labels=None, output_hidden_states=None, *, return_dict=True):
        if pixel_values is None:
            raise ValueError("You have to specify pixel_values")
        logits = self.fc(pixel_values).relu()
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return self.result(loss, logits) if return_dict else (logits,)


RESULTS = {
    "tuple": lambda loss, logits: (loss, logits),
    "nested": lambda loss, logits: [logits, (None, logits)],
    "dict": lambda loss, logits: {"loss": loss, "logits": logits},
    "ordered": lambda loss, logits: Ordered(logits=logits),
    "dataclass": Record,
}


@pytest.mark.parametrize("name", RESULTS)
def test_the_first_argument_may_be_none(name):
    net = Net(RESULTS[name]).eval()
    graph = spikec.load(net, X)
    assert graph.inputs == ("pixel_values",)
    with torch.no_grad():
        wanted = net.fc(X).relu()
    found = spikec.run(graph, X)
    assert all(torch.equal(each, wanted) for each in (found if isinstance(found, tuple) else (found,)))


@pytest.mark.parametrize("name", ["tuple", "dict", "dataclass"])
def test_the_module_gives_none_where_the_model_does(name):
    module = spikec.compile(Net(RESULTS[name]).eval(), "spikingjelly", calibration=X)
    result = module(X)
    fields = (
        result if isinstance(result, tuple) else result.values() if isinstance(result, dict) else vars(result).values()
    )
    assert [each is None for each in fields] == [True, False]


@pytest.mark.parametrize("result", [lambda loss, logits: None, lambda loss, logits: (loss, loss)])
def test_a_model_gives_something(result):
    with pytest.raises(InvalidModelError):
        spikec.load(Net(result).eval(), X)
