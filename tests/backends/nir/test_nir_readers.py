"""What each profile writes for its reader: nodes, units, wiring; and what is said where the reader does otherwise."""

import itertools
import warnings

import nir
import numpy as np
import pytest
import torch
from torch import nn

import nets
import spikec
from spikec.backends.nir.backend import Nir
from spikec.backends.nir.profiles import PROFILES
from spikec.ir.ops import (
    IF,
    LIF,
    Add,
    CubaLIF,
    DelayLine,
    Input,
    Integrator,
    Linear,
    MultiSpike,
    Output,
    Threshold,
)

#: that readers run neurons otherwise is measured and warned of, which other tests are about
pytestmark = pytest.mark.filterwarnings("ignore::spikec.SpikecWarning")

T = 30
ONE, ZERO = np.ones(1), np.zeros(())
RNG = np.random.default_rng(0)


def graph(*ops, width=4):
    g = spikec.Graph("neurons")
    x = g.add(Input((width,), "float64", rate=True), name="input")
    for i, op in enumerate(ops):
        x = g.add(
            op, g.add(Linear(RNG.normal(size=(width, width)), np.full(width, 0.1)), x, name=f"fc{i}"), name=f"n{i}"
        )
    g.add(Output(), x, name="output")
    return g


def kinds(written):
    return [type(node).__name__ for node in written.nodes.values()]


# ------------------------------------------------------------------ the table


def depth_first(written):
    """Nodes in the order in which nirtorch's executor runs them."""
    users = {name: [b for a, b in written.edges if a == name] for name in written.nodes}
    order = []

    def visit(name):
        if name not in order:
            order.append(name)
            for user in users[name]:
                visit(user)

    visit("input")
    return order


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["portable", "norse", "sinabs"])
def test_a_residual_net_can_be_run_depth_first(profile):
    x = nets.batch("resnet")
    written = spikec.compile(nets.build("resnet"), "nir", calibration=[x], timesteps=8, profile=profile)
    order = depth_first(written)
    assert order[-1] == "output"
    assert set(order) == set(written.nodes)
    assert all(order.index(a) < order.index(b) for a, b in written.edges)
    assert any(count > 1 for count in (sum(b == name for _, b in written.edges) for name in written.nodes))


@pytest.mark.slow
def test_what_cannot_be_run_depth_first_is_refused_with_the_sum():
    x = nets.batch("concat")
    with pytest.raises(spikec.UnsupportedOpError, match="norse 1.1.0 runs this before %mix_1, which it sums") as error:
        spikec.compile(nets.build("concat"), "nir", calibration=[x], profile="norse")
    assert "nets.py" in str(error.value)
    run = spikec.Compiler("nir", calibration=[x], timesteps=8).run(nets.build("concat"))
    assert any("add what one of them gave a step before" in str(note) for note in run.report.notes)


CNN = {
    "portable": "Conv2d IF SumPool2d Flatten Affine",
    "portable-cuba": "Conv2d CubaLIF SumPool2d Flatten Affine",
    "spikingjelly": "Conv2d IF AvgPool2d Flatten Affine",
    "snntorch": "Conv2d CubaLIF AvgPool2d Flatten Affine",
    "sinabs": "Conv2d IF SumPool2d Flatten Affine",
    "norse": "Conv2d IF SumPool2d Flatten Affine",
    "snn-mlir": "Conv2d IF AvgPool2d Flatten Affine",
    "full": "Conv2d I Threshold Scale AvgPool2d Flatten Affine",
}


@pytest.mark.slow
@pytest.mark.parametrize("profile", CNN)
def test_the_nodes_of_a_cnn(profile, tmp_path):
    x = nets.batch("cnn")
    written = spikec.compile(nets.build("cnn"), "nir", calibration=[x], timesteps=8, profile=profile)
    assert set(kinds(written)) == {"Input", "Output", *CNN[profile].split()}
    for node in written.nodes.values():
        if not hasattr(node, "v_threshold") and not isinstance(node, (nir.I, nir.Threshold)):
            assert not getattr(node, "metadata", {}), "nodes that have no metadata in nir 1.0.4"
    r = {float(value) for node in written.nodes.values() if isinstance(node, nir.IF) for value in np.ravel(node.r)}
    assert not r or r == {1.0 if profile != "spikingjelly" else float(np.float32(1) / np.float32(1e-4))}
    spikec.save(written, tmp_path / "net.nir")
    assert list(nir.read(tmp_path / "net.nir").nodes) == list(written.nodes)


@pytest.mark.slow
def test_rockpool_flattens_at_the_input():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    run = spikec.Compiler("nir", calibration=torch.rand(20, 3, 2, 2), profile="rockpool").run(model)
    assert kinds(run.artifact) == ["Input", "Affine", "CubaLIF", "Affine", "Output"]
    assert tuple(run.artifact.nodes["input"].input_type["input"]) == (12,)
    assert any("the file's input is the model's" in str(note) for note in run.report.notes)
    with pytest.raises(spikec.UnsupportedOpError, match="rockpool does not read a conv"):
        spikec.compile(nets.build("cnn"), "nir", calibration=[nets.batch("cnn")], profile="rockpool")


@pytest.mark.parametrize(
    ("profile", "op", "message"),
    [
        ("sinabs", CubaLIF(ONE, decay=ONE / 2, decay_syn=ONE / 2), "a cubalif"),
        ("sinabs", LIF(ONE, tau=np.asarray(3.0), v_leak=np.asarray(0.3)), "leaks to another potential"),
        ("norse", CubaLIF(ONE, decay=ONE / 2, decay_syn=ONE / 2, v_leak=ONE / 4), "leaks to a potential"),
        ("snn-mlir", IF(np.linspace(0.5, 1, 4)), "differs from neuron to neuron"),
        ("snntorch", LIF(ONE, tau=np.asarray(3.0), reset_at="next"), "reset_at='next'"),
        ("portable", Integrator(np.ones(())), "a integrator"),
        ("norse", Threshold(ONE), "a threshold"),
        ("spikingjelly", DelayLine(np.ones(4)), "a delayline"),
        ("portable-cuba", MultiSpike(ONE), "a multispike"),
        ("rockpool", CubaLIF(ONE, decay=ZERO, decay_syn=ONE / 2), "forgets all in a step"),
    ],
)
def test_what_a_reader_has_not_is_refused(profile, op, message):
    with pytest.raises(spikec.UnsupportedOpError, match=f"{profile} does not read") as error:
        spikec.compile(graph(op), "nir", profile=profile)
    assert message in str(error.value)
    assert "%n0" in str(error.value)
    assert "profile=" in error.value.hint


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"reset": "hard"}], ids=["soft", "hard"])
def test_a_residual_net_is_written_as_a_chain(options):
    """With the same spikes as where its sums are sums."""
    x = nets.batch("resnet")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", spikec.SpikecWarning)
        chain, sums = (
            spikec.Compiler("nir", calibration=[x], timesteps=16, profile=profile, verify="each", **options).run(
                nets.build("resnet")
            )
            for profile in ("snn-mlir", "portable-cuba")
        )
    edges = chain.artifact.edges
    assert len({start for start, _ in edges}) == len({end for _, end in edges}) == len(edges)
    assert not [problem for problem in spikec.check(chain.artifact, profile="snn-mlir") if "refuses" in str(problem)]
    before, after = (spikec.run(each.graph, x, 64) for each in (sums, chain))
    assert before.std() > 0
    assert (before.mean(0) - after.mean(0)).abs().max() < 1e-4 * before.abs().mean()


@pytest.mark.slow
def test_branches_and_ports_that_a_reader_has_not():
    x = nets.batch("concat")
    with pytest.raises(spikec.UnsupportedOpError, match="runs chains, without branches"):
        spikec.compile(nets.build("concat"), "nir", calibration=[x], profile="snn-mlir")
    with pytest.raises(spikec.UnsupportedOpError, match="norse has one of the outputs only"):
        spikec.compile(nets.build("two_outputs"), "nir", calibration=[nets.batch("two_outputs")], profile="norse")


# ------------------------------------------------------------------ all of NIR

WHOLE = {
    "soft if": ([IF(ONE), IF(ONE)], "Affine I Threshold Scale Affine I Threshold Scale"),
    "soft lif": ([LIF(ONE, tau=np.asarray(3.0), v_leak=ONE / 4)], "Affine LI Threshold Scale"),
    "soft lif of any gain": ([LIF(ONE, tau=np.linspace(2, 5, 4), gain=np.asarray(0.7))], "Affine LI Threshold Scale"),
    "hard": ([IF(ONE, ZERO), LIF(ONE, ZERO, tau=np.asarray(3.0))], "Affine IF Affine LIF"),
    "cuba": ([CubaLIF(ONE, ZERO, decay=ONE / 2, decay_syn=ONE / 4)], "Affine CubaLIF"),
    "soft cuba": ([CubaLIF(ONE, decay=ONE / 2, decay_syn=ONE / 4)], "Affine CubaLIF"),
    "i": ([Integrator(np.ones(()), v_init=ONE / 2)], "Affine I"),
    "li": ([Integrator(np.asarray(0.8), gain=np.asarray(0.3), v_leak=ONE / 8)], "Affine LI"),
    "cuba li": ([Integrator(np.asarray(0.8), ONE / 2)], "Affine CubaLI"),
    "threshold": ([Threshold(ONE / 4)], "Affine Threshold"),
    "delay": ([DelayLine(np.array([0, 1, 2, 3]))], "Affine Delay"),
    "multi": ([MultiSpike(ONE, v_floor=-ONE)], "Affine IF"),
    "multi cuba": ([MultiSpike(ONE, decay=ONE / 2, decay_syn=ONE / 4)], "Affine CubaLIF"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WHOLE)
def test_the_full_profile_writes_every_node_and_is_read_back(name, tmp_path):
    ops, nodes = WHOLE[name]
    run = spikec.Compiler("nir", profile="full").run(graph(*ops))
    assert kinds(run.artifact) == ["Input", *nodes.split(), "Output"]
    spikec.save(run.artifact, tmp_path / "net.nir")
    nir.read(tmp_path / "net.nir")
    back = spikec.load(tmp_path / "net.nir")
    x = 2 * torch.randn(T, 3, 4, dtype=torch.float64)
    expected = spikec.run(run.graph, x)
    assert expected.std() > 0.1
    assert torch.allclose(spikec.run(back, x), expected, rtol=0, atol=1e-12)
    again = spikec.compile(back, "nir", profile="full")
    assert kinds(again) == kinds(run.artifact)


@pytest.mark.slow
def test_affine_layers_without_a_bias_are_what_they_are():
    g = spikec.Graph("plain")
    x = g.add(Input((4,), "float64", rate=True), name="input")
    x = g.add(Linear(RNG.normal(size=(4, 4))), x)
    g.add(Output(), g.add(Linear(np.diag([1.0, 2, 3, 4])), g.add(IF(ONE, ZERO), x)), name="output")
    assert kinds(spikec.compile(g, "nir", profile="full")) == ["Input", "Linear", "IF", "Scale", "Output"]
    assert kinds(spikec.compile(g, "nir")) == ["Input", "Affine", "IF", "Affine", "Output"]


# ------------------------------------------------------------------ seconds


@pytest.mark.slow
def test_nir_to_nir_keeps_seconds():
    net = spikec.compile(graph(LIF(ONE, ZERO, tau=np.asarray(20.0))), "nir", dt=1e-3)
    (before,) = [node for node in net.nodes.values() if isinstance(node, nir.LIF)]
    for options, dt in (({}, 1e-3), ({"profile": "full"}, 1e-3)):
        again = spikec.compile(net, "nir", **options)
        (node,) = [node for node in again.nodes.values() if isinstance(node, nir.LIF)]
        assert again.metadata["dt"] == dt
        assert np.array_equal(node.tau, before.tau)
    steps = spikec.compile(net, "nir", profile="sinabs")
    (node,) = [node for node in steps.nodes.values() if isinstance(node, nir.LIF)]
    assert np.allclose(np.exp(-1 / node.tau), 1 - 1 / 20)


def test_a_tool_that_has_one_dt_refuses_another():
    for profile, dt, why in (("snntorch", 1e-3, "knows no other"), ("sinabs", 1e-4, "counts steps, and takes")):
        with pytest.raises(spikec.CompileError, match=f"dt is .* has .*: it {why}"):
            Nir(profile=profile, dt=dt)
        Nir(profile=profile, dt=PROFILES[profile].dt)


# ------------------------------------------------------------------ never silent


def notes(profile, *ops):
    return [str(note) for note in spikec.Compiler("nir", profile=profile).run(graph(*ops)).report.notes]


@pytest.mark.slow
def test_a_reader_that_resets_otherwise_is_named_with_what_mends_it():
    with pytest.warns(spikec.SpikecWarning, match="by subtraction"):
        said = " ".join(note for note in notes("spikingjelly", IF(ONE)) if "reset" in note)
    assert "SpikingJelly 2.0.0 reset to zero" in said
    assert 'import_from_nir("model.nir", dt=0.0001)' in said
    assert "m.v_reset = None" in said
    for profile, op in itertools.product(PROFILES, (IF(ONE), IF(ONE, ZERO))):
        soft, resets = op.v_reset is None, PROFILES[profile].resets
        said = [note for note in notes(profile, op) if "which NIR has no field for" in note]
        assert bool(said) == (resets == ("hard" if soft else "soft")), (profile, soft)
        ends = ("zero", "by subtraction") if PROFILES[profile].reader else "and snn-mlir; sinabs subtracts)"
        assert all(note.endswith(ends) for note in said), said


@pytest.mark.slow
def test_several_spikes_a_step_are_named():
    assert any("fires several times in a step" in note for note in notes("sinabs", IF(ONE)))
    assert any("keeps potentials above -v_threshold" in note for note in notes("sinabs", IF(ONE)))
    assert not any("several times" in note for note in notes("norse", IF(ONE)))


@pytest.mark.slow
@pytest.mark.parametrize(("profile", "net"), [("sinabs", "cnn"), ("sinabs", "resnet"), ("rockpool", "mlp")])
def test_biases_are_corrected_for_neurons_as_the_reader_has_them(profile, net, tmp_path):
    x = nets.batch(net)
    made = spikec.Compiler("nir", profile=profile, calibration=[x], timesteps=16).run(nets.build(net))
    assert all((node.op.v_floor is not None) == (profile == "sinabs") for node in made.graph.match(MultiSpike))
    assert made.graph.match(MultiSpike)
    assert not made.graph.match(IF)
    assert spikec.check(made.artifact, profile=profile) == []
    spikec.save(made.artifact, tmp_path / "net.nir")
    read = spikec.load(tmp_path / "net.nir", reader=profile)
    ours, theirs = (spikec.run(each, x, 16).flatten(2).mean(0) for each in (made.graph, read))
    assert (ours - theirs).abs().max() < 0.1 * ours.std()  # float32 may round a spike otherwise
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", spikec.SpikecWarning)  # a model that spikes stays what it is, once a step
        assert not spikec.Compiler("nir", profile=profile, timesteps=16).run(graph(IF(ONE))).graph.match(MultiSpike)


def test_sums_in_front_of_an_integrator_are_its_fan_in():
    g = spikec.Graph("sum")
    x = g.add(Input((4,), "float64", rate=True), name="input")
    sides = [g.add(Linear(RNG.normal(size=(4, 4))), x, name=name) for name in "ab"]
    g.add(Output(), g.add(Integrator(np.ones(())), g.add(Add(), *sides)), name="output")
    assert kinds(spikec.compile(g, "nir", profile="full")) == ["Input", "Linear", "Linear", "I", "Output"]
