"""Inputs and outputs that NIR's nodes want in another layout than the model has."""

import nir
import numpy as np
import pytest
import torch
from torch import nn

import spikec
from spikec import UnsupportedOpError
from spikec.ir.ops import Input, Permute, Reshape


class ChannelsLast(nn.Module):
    """Takes and gives [B, H, W, C]."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 3, 3)

    def forward(self, x):
        return self.second(torch.relu(self.first(x.permute(0, 3, 1, 2)))).permute(0, 2, 3, 1)


class Unflattened(nn.Module):
    """Takes a vector for a map, and gives a vector in two axes."""

    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(1, 2, 3), nn.Linear(72, 6)

    def forward(self, x):
        y = torch.relu(self.conv(x.view(-1, 1, 8, 8)))
        return self.linear(y.flatten(1)).reshape(-1, 2, 3)


class Tokens(nn.Module):
    """Takes channels-last text or sound, [B, L, C], with two axes to flatten."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(6, 4, 3)

    def forward(self, x):
        return torch.relu(self.conv(x.permute(0, 2, 3, 1).flatten(1, 2)))


MODELS = {
    "channels last": (ChannelsLast, (8, 7, 2), (2, 8, 7), (3, 6, 5)),
    "a vector": (Unflattened, (64,), (1, 8, 8), (6,)),
    "permuted and flattened": (Tokens, (9, 2, 3), (6, 9), (4, 7)),
}


def compiled(name):
    torch.manual_seed(0)
    make, shape, *_ = MODELS[name]
    model, x = make().eval(), torch.rand(16, *shape)
    return spikec.Compiler("nir", calibration=x).run(model), model, x


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::spikec.SpikecWarning")
@pytest.mark.parametrize("name", MODELS)
def test_the_file_has_the_layout_of_its_nodes_and_says_so(name, tmp_path):
    found, model, x = compiled(name)
    _, _, inside, outside = MODELS[name]
    graph = found.artifact
    assert tuple(graph.nodes["input"].input_type["input"]) == inside
    assert tuple(graph.nodes["output"].output_type["output"]) == outside
    assert "the file's input is the model's." in str(found.report)
    spikec.save(graph, tmp_path / "model.nir")
    # what the metadata say, in numpy: the loaded graph without its first and last movements runs on such an input
    read = nir.read(tmp_path / "model.nir")
    meta = read.metadata["ports"]
    axes = [0, *(axis + 1 for axis in meta["input"].get("axes", ()))]
    laid_out = x.numpy().transpose(axes).reshape(len(x), *inside)
    bare = nir.read(tmp_path / "model.nir")
    del bare.metadata["ports"]
    theirs = spikec.run(spikec.load(bare), torch.tensor(laid_out), 64).sum(0).numpy()
    if "axes" in meta["output"]:
        theirs = theirs.transpose([0, *(axis + 1 for axis in meta["output"]["axes"])])
        theirs = theirs.reshape(len(x), *meta["output"]["model_shape"])
    ours = spikec.run(found.graph, x, 64).sum(0)
    loaded = spikec.load(tmp_path / "model.nir")
    np.testing.assert_allclose(theirs, ours.numpy(), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(spikec.run(loaded, x, 64).sum(0), ours, rtol=1e-5, atol=1e-4)
    # and on from there, to torch and to NIR again
    module = spikec.compile(loaded, "spikingjelly")
    module.step_mode = "m"
    with torch.no_grad():
        mean = module(torch.stack([x] * 64)).mean(0)
    ann = model(x).detach()
    assert mean.shape == ann.shape
    assert float((mean - ann).pow(2).mean().sqrt()) < 0.1 * float(ann.std())
    again = spikec.compile(loaded, "nir")
    assert again.nodes.keys() == graph.nodes.keys()
    np.testing.assert_equal(again.metadata["ports"], graph.metadata["ports"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::spikec.SpikecWarning")
def test_a_transposition_inside_is_refused():
    class Inside(ChannelsLast):
        def forward(self, x):
            y = torch.relu(self.first(x.permute(0, 3, 1, 2))).permute(0, 1, 3, 2)
            return self.second(y)

    with pytest.raises(UnsupportedOpError, match="no permute") as caught:
        spikec.compile(Inside().eval(), "nir", calibration=torch.rand(4, 8, 7, 2))
    assert "behind an input" in caught.value.hint


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::spikec.SpikecWarning")
def test_an_input_that_others_take_as_it_is_stays():
    class Both(ChannelsLast):
        def forward(self, x):
            return super().forward(x), x.flatten(1)

    problems = spikec.check(Both().eval(), "nir", calibration=torch.rand(4, 8, 7, 2))
    assert ["no permute" in problem.message for problem in problems] == [True]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("axes", "shape"), [((0, 1, 1), (8, 7, 2)), ((0, 1), (8, 7, 2)), ((2, 0, 1), (8, 7)), ((5, 0, 1), (8, 7, 2))]
)
@pytest.mark.filterwarnings("ignore::spikec.SpikecWarning")
def test_a_layout_that_makes_no_sense_is_refused(axes, shape):
    graph = compiled("channels last")[0].artifact
    graph.metadata["ports"]["input"] |= {"axes": np.array(axes), "model_shape": np.array(shape)}
    with pytest.raises(spikec.CompileError) as caught:
        spikec.load(graph)
    assert "input" in str(caught.value)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::spikec.SpikecWarning")
def test_the_layout_is_read_as_movements():
    loaded = spikec.load(compiled("channels last")[0].artifact)
    (given,) = loaded.match(Input)
    assert given.op.shape == (8, 7, 2)
    assert [node.op.axes for node in loaded.match(Permute)] == [(2, 0, 1), (1, 2, 0)]
    assert not loaded.match(Reshape)
