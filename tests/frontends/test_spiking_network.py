"""Modules that spikec emitted, read back."""

import io

import numpy as np
import pytest
import torch
from torch import nn

import nets
import spikec
from spikec.ir.ops import LIF, CubaLIF, Delay, Input, Linear, Output

NETS = ["mlp", "cnn", "resnet", "grouped", "concat", "conv1d", "two_inputs"]


def emitted(name):
    x = nets.batch(name, dtype=torch.float64)
    xs = x if isinstance(x, tuple) else (x,)
    compilation = spikec.Compiler("spikingjelly", calibration=[xs], timesteps=16).run(
        nets.build(name, dtype=torch.float64)
    )
    return compilation, xs


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_the_graph_comes_back(name):
    compilation, xs = emitted(name)
    file = io.BytesIO()
    torch.save(compilation.artifact, file)
    file.seek(0)
    graph = spikec.load(torch.load(file, weights_only=False))
    assert str(graph) == str(compilation.graph)
    assert _same(spikec.run(graph, xs, 8), spikec.run(compilation.graph, xs, 8))


def _same(one, other):
    pairs = zip(one, other, strict=True) if isinstance(one, tuple) else [(one, other)]
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.slow
def test_it_compiles_to_nir_with_its_parameters_as_they_are_now():
    compilation, (x,) = emitted("mlp")
    with torch.no_grad():
        next(m for m in compilation.artifact.modules() if isinstance(m, nn.Linear)).weight *= 1.5
        expected = torch.stack([compilation.artifact(x) for _ in range(16)])
    graph = spikec.load(compilation.artifact)
    assert torch.equal(spikec.run(graph, x, 16) * graph.type("output").scale.item(), expected)
    file = spikec.compile(compilation.artifact, "nir")
    assert len(file.nodes) == len(graph)


def test_leaky_and_recurrent_ones():
    g = spikec.Graph("loop")
    x = g.add(Input((3,), "float64", rate=True), name="x")
    one = np.ones(1)
    lif = g.add(LIF(one, tau=np.asarray(3.0), out_scale=one, reset_at="next"), x, name="lif")
    memory = g.add(Delay(g.type(lif)), name="memory")
    back = g.add(Linear(np.eye(3)), memory, name="back")
    cuba = g.add(CubaLIF(one, decay_syn=np.asarray(0.3), decay=np.asarray(0.8), out_scale=one), back, name="cuba")
    g.set_operands(memory, cuba)
    g.add(Output(), lif, name="y")
    g.add(Output(), cuba, name="z")
    g.imported.structure = (0, 1)
    module = spikec.compile(g, "spikingjelly")
    assert str(spikec.load(module)) == str(g)


@pytest.mark.slow
def test_a_part_that_was_replaced_is_refused():
    compilation, _ = emitted("mlp")
    name = next(n for n, m in compilation.artifact.named_children() if isinstance(m, nn.Linear))
    setattr(compilation.artifact, name, nn.Identity())
    with pytest.raises(spikec.UnsupportedOpError, match="the part has no weight") as error:
        spikec.load(compilation.artifact)
    assert error.value.location == name
