"""Files as other tools run them, against each tool's equations in numpy; tests/interop has the tools themselves."""

import itertools

import nir
import numpy as np
import pytest
import torch

import spikec
from npz import loaded
from spikec.frontends.nir.readers import READERS

T, B, N, DT = 60, 4, 7, 1e-4
RNG = np.random.default_rng(0)
WEIGHT, BIAS = RNG.normal(0.2, 0.6, (N, 5)), RNG.normal(0, 0.1, N)
EVENTS = (RNG.random((T, B, 5)) < 0.5).astype(float)
CURRENT = EVENTS @ WEIGHT.T + BIAS


def graph(neuron, metadata=None, **others):
    nodes = {"input": nir.Input(np.array([5])), "fc": nir.Affine(WEIGHT, BIAS), "n": neuron, **others}
    nodes["output"] = nir.Output(np.array([N]))
    names = list(nodes)
    return nir.NIRGraph(nodes, list(itertools.pairwise(names)), metadata=metadata or {}, type_check=False)


def full(**values):
    return {name: np.broadcast_to(value, N).astype(np.float64) for name, value in values.items()}


def integrate(r=1.0, threshold=0.9, reset=0.0):
    return nir.IF(**full(r=r, v_threshold=threshold, v_reset=reset))


def lif(tau=4e-4, r=1.0, threshold=0.4, leak=0.0, reset=0.0):
    return nir.LIF(**full(tau=tau, r=r, v_threshold=threshold, v_leak=leak, v_reset=reset))


def cuba(tau_syn=3e-4, tau_mem=5e-4, r=5.0, w_in=3.0, threshold=1.1, leak=0.0, reset=0.0):
    values = {"tau_syn": tau_syn, "tau_mem": tau_mem, "r": r, "w_in": w_in}
    return nir.CubaLIF(**full(**values, v_threshold=threshold, v_leak=leak, v_reset=reset))


def li(tau, r):
    return nir.LI(**full(tau=tau, r=r, v_leak=0.0))


def run(charge, threshold, v=0.0, reset=0.0, fires=np.greater, several=False, floor=None, events=CURRENT):
    """Charge, fire, reset: one spike a step and reset to a value (None: by subtraction), or several subtracted."""
    v, i, spikes = np.zeros((B, N)) + v, np.zeros((B, N)), []
    for x in events:
        v, i = charge(v, i, x)
        s = fires(v, threshold).astype(float) * (np.trunc(v / threshold) if several else 1)
        v = v - s * threshold if reset is None else np.where(s > 0, reset, v)
        v = v if floor is None else np.maximum(v, floor)
        spikes.append(s)
    return np.array(spikes)


def snntorch_if(threshold):
    """snn.Leaky(beta=0.9, reset_delay=False): who was above before the step is not reset again at its end."""
    mem, spikes = np.zeros((B, N)), []
    for x in CURRENT:
        reset = (mem > threshold).astype(float)
        mem = 0.9 * mem + x - reset * threshold
        s = (mem > threshold).astype(float)
        mem = mem - (s - reset) * threshold
        spikes.append(s)
    return np.array(spikes)


def current(a, b, gain=1.0):
    """i = a i + x, v = b v + gain i."""

    def charge(v, i, x):
        i = a * i + x
        return b * v + gain * i, i

    return charge


def plus(decay=1.0, gain=1.0):
    return lambda v, i, x: (decay * v + gain * x, i)


def norse_cuba(v, i, x, ts=3e-4, tm=5e-4, leak=0.2):
    i = i + DT / ts * (leak - i + 3.0 * x)
    return v + DT / tm * (leak - v + 5.0 * i), i


def norse_cuba_spikes():
    v, i, spikes = np.full((B, N), 0.2), np.full((B, N), 0.2), []
    for x in CURRENT:
        v, i = norse_cuba(v, i, x)
        spikes.append((v > 1.1).astype(float))
        v = np.where(v > 1.1, 0.0, v)
    return np.array(spikes)


def rockpool_cuba():
    dt = 5e-4 / 6
    a, b = np.exp(-dt / 3e-4), np.exp(-dt / 5e-4)
    v, i, spikes = np.zeros((B, N)), np.zeros((B, N)), []
    for x in CURRENT:
        i = (i + x) * a
        v = b * v + i + 0.1
        s = (v >= 1.1) * np.floor(v / 1.1)
        v = v - s * 1.1
        spikes.append(s)
    return np.array(spikes)


GE = np.greater_equal
SJ_LIF = lif(r=1.0, leak=-0.2, reset=-0.2)
#: reader, neuron, options, spikes by the tool's equations
CASES = {
    "spikingjelly if": ("spikingjelly", integrate(1e4), {}, lambda: run(plus(), 0.9, fires=GE)),
    "spikingjelly if to -0.3": (
        "spikingjelly", integrate(1.0, reset=-0.3), {"dt": 1.0}, lambda: run(plus(), 0.9, -0.3, -0.3, GE)
    ),
    "spikingjelly lif": (
        "spikingjelly", SJ_LIF, {}, lambda: run(lambda v, i, x: (v + (x - (v + 0.2)) / 4, i), 0.4, -0.2, -0.2, GE)
    ),
    "spikingjelly lif without decayed input": (
        "spikingjelly", lif(r=4.0, threshold=0.9), {}, lambda: run(plus(0.75), 0.9, fires=GE)
    ),
    "spikingjelly cuba": ("spikingjelly", cuba(), {}, lambda: run(current(2 / 3, 0.8), 1.1, fires=GE)),
    "spikingjelly if, soft": (
        "spikingjelly", integrate(1e4), {"reset": "subtract"}, lambda: run(plus(), 0.9, reset=None, fires=GE)
    ),
    "snntorch if": ("snntorch", integrate(), {}, lambda: snntorch_if(0.9)),
    "snntorch lif": ("snntorch", lif(r=3.0), {}, lambda: run(plus(0.75), 0.4 / 0.75)),
    "snntorch lif, tau of each": (
        "snntorch", lif(tau=np.linspace(2e-4, 8e-4, N), r=1.0), {},
        lambda: run(plus(1 - 1 / np.linspace(2, 8, N)), 0.4 * 8),
    ),
    "snntorch cuba": ("snntorch", cuba(w_in=2.0), {}, lambda: run(current(2 / 3, 0.8), 1.1 * 1.5)),
    "norse if": ("norse", integrate(7.0, reset=-0.5), {}, lambda: run(plus(), 0.9)),
    "norse lif": (
        "norse", lif(r=9.0, leak=0.1, reset=0.2), {"dt": DT},
        lambda: run(lambda v, i, x: (v + (x + 0.1 - v) / 4, i), 0.4, 0.1),
    ),
    "norse cuba": ("norse", cuba(leak=0.2), {"dt": DT}, norse_cuba_spikes),
    "sinabs if": (
        "sinabs", integrate(3.0), {}, lambda: run(plus(), 0.9, reset=None, fires=GE, several=True, floor=-0.9)
    ),
    "sinabs lif": (
        "sinabs", lif(tau=5.0, r=1.0, threshold=0.8), {},
        lambda: run(plus(np.exp(-1 / 5)), 0.8, reset=None, fires=GE, several=True),
    ),
    "rockpool cuba": ("rockpool", cuba(leak=0.1), {}, rockpool_cuba),
    "snn-mlir if": ("snn-mlir", integrate(), {}, lambda: run(plus(), 0.9)),
    "snn-mlir lif": ("snn-mlir", lif(tau=3e-4, r=5.0), {}, lambda: run(plus(0.8), 0.4)),
    "snn-mlir cuba": ("snn-mlir", cuba(), {}, lambda: run(current(2 / 3, 0.8), 1.1)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_reader_runs_by_the_equations_of_its_tool(case):
    reader, neuron, options, equations = CASES[case]
    x, wanted = torch.tensor(EVENTS), equations()
    loaded = spikec.load(graph(neuron), reader=reader, **options)
    assert np.array_equal(spikec.run(loaded, x).numpy(), wanted)
    assert 0.02 < (wanted > 0).mean() < 0.98
    assert not np.array_equal(spikec.run(graph(neuron), x, dt=DT, reset="hard").numpy(), wanted) or case in SAME_AS_NIR
    module = spikec.compile(graph(neuron), "spikingjelly", reader=reader, **options)
    module.step_mode = "m"
    assert np.array_equal(module(x).detach().numpy(), wanted)


#: where the tool's neuron is NIR's at dt = 1e-4 with reset to 0
SAME_AS_NIR = {
    "spikingjelly if", "spikingjelly lif without decayed input", "spikingjelly cuba", "snntorch lif", "snntorch cuba",
    "snn-mlir if", "snn-mlir cuba",
}  # fmt: skip


def test_ties_fire_as_the_tool_says():
    x = torch.full((4, 1, 5), 0.5, dtype=torch.float64)
    nodes = graph(integrate(threshold=1.0))
    nodes.nodes["fc"] = nir.Affine(np.ones((N, 5)) / 5, np.zeros(N))
    spikes = {name: spikec.run(nodes, x, reader=name, dt=1.0)[:, 0, 0].tolist() for name in ("spikingjelly", "norse")}
    assert spikes == {"spikingjelly": [0, 1, 0, 1], "norse": [0, 0, 1, 0]}
    over = spikec.run(nodes, x, reader="norse", dt=1.0, fire=">=")[:, 0, 0].tolist()
    assert over == spikes["spikingjelly"]


REFUSED = {
    ("spikingjelly", "SpikingJelly refuses IF with r != 1/dt"): integrate(1.0),
    ("spikingjelly", "SpikingJelly refuses IF whose v_threshold differs"): integrate(
        1e4, threshold=np.linspace(1, 2, N)
    ),
    ("spikingjelly", "SpikingJelly refuses LIF with v_leak != v_reset"): lif(leak=0.1),
    ("spikingjelly", "SpikingJelly refuses LIF with tau <= dt"): lif(tau=1e-4),
    ("spikingjelly", "SpikingJelly refuses LIF with r other than 1 and tau/dt"): lif(r=2.0),
    ("spikingjelly", "SpikingJelly refuses CubaLIF with w_in != tau_syn/dt"): cuba(w_in=1.0),
    ("spikingjelly", "SpikingJelly 2.0.0 refuses nir.LI"): li(4e-4, 1.0),
    ("snntorch", "snnTorch refuses IF with r != 1"): integrate(1e4),
    ("snntorch", "snnTorch refuses CubaLIF with r != tau_mem/dt"): cuba(r=1.0),
    ("snntorch", "snnTorch refuses LIF with v_leak != 0"): lif(leak=0.1),
    ("norse", "norse 1.1.0 leaves out a nir.Scale without an error"): nir.Scale(np.ones(N)),
    ("sinabs", "sinabs 3.1.3 leaves out a nir.CubaLIF without an error"): cuba(),
    ("sinabs", "sinabs refuses LI with r != 1"): li(4.0, 4.0),
    ("rockpool", "rockpool 3.1.0 refuses nir.LIF"): lif(),
    ("snn-mlir", "snn-mlir refuses IF with v_reset != 0"): integrate(reset=0.1),
    ("snn-mlir", "snn-mlir refuses CubaLIF with w_in != tau_syn/dt"): cuba(w_in=1.0),
    ("spikingjelly", "SpikingJelly refuses CubaLIF with a time constant below dt"): cuba(tau_syn=5e-5),
    ("spikingjelly", "SpikingJelly refuses CubaLIF with v_leak != 0"): cuba(leak=0.1),
    ("snntorch", "snnTorch refuses CubaLIF with v_leak != 0"): cuba(leak=0.1),
    ("snntorch", "snnTorch refuses IF whose v_threshold differs"): integrate(threshold=np.linspace(1, 2, N)),
    ("snntorch", "snnTorch refuses CubaLIF whose v_threshold differs"): cuba(threshold=np.linspace(1, 2, N)),
    ("sinabs", "sinabs refuses LIF with v_leak != 0"): lif(leak=0.1),
    ("sinabs", "sinabs refuses LI with v_leak != 0"): nir.LI(**full(tau=4.0, r=1.0, v_leak=0.1)),
    ("snn-mlir", "snn-mlir refuses IF with r != 1"): integrate(2.0),
    ("snn-mlir", "snn-mlir refuses LIF with v_leak != 0"): lif(leak=0.1),
    ("snn-mlir", "snn-mlir refuses LIF whose v_threshold differs"): lif(threshold=np.linspace(1, 2, N)),
}


def convolution(groups=1, dilation=1, padding=1, rows=4):
    weight = np.ones((rows, 4 // groups, 3, 3))
    return nir.Conv2d((6, 6), weight, 1, padding, dilation, groups, np.zeros(rows))


NO_CONVOLUTIONS = {
    ("spikingjelly", "SpikingJelly refuses Conv2d with groups"): convolution(groups=2),
    ("snntorch", "snnTorch refuses Conv2d with more groups than weights a row"): convolution(groups=4),
    ("norse", "norse refuses Conv2d with more groups than weights a row"): convolution(groups=4),
    ("sinabs", "sinabs refuses Conv2d with more groups than weights a row"): convolution(groups=4),
    ("snn-mlir", "snn-mlir refuses Conv2d with groups"): convolution(groups=2),
    ("snn-mlir", "snn-mlir refuses Conv2d with dilation"): convolution(dilation=2, padding=2),
    ("snn-mlir", "snn-mlir refuses Conv2d with padding in words"): convolution(padding="same"),
}


@pytest.mark.parametrize("case", NO_CONVOLUTIONS, ids=" ".join)
def test_convolutions_that_a_tool_refuses(case):
    reader, reason = case
    nodes = {"input": nir.Input(np.array([4, 6, 6])), "c": NO_CONVOLUTIONS[case], "output": nir.Output(None)}
    written = nir.NIRGraph(nodes, [("input", "c"), ("c", "output")], type_check=False)
    with pytest.raises(spikec.UnsupportedOpError) as error:
        spikec.load(written, reader=reader)
    assert [(each.message, each.location) for each in error.value.problems] == [(reason, "c")]
    assert error.value.hint
    assert spikec.load(written)["c"].groups == NO_CONVOLUTIONS[case].groups


def test_potentials_of_sinabs_are_rounded_as_it_rounds_them():
    """Its floor is relu(v + threshold) - threshold (lif_forward_single), which in float32 is not max(v, -threshold)."""
    rng, one = np.random.default_rng(0), np.ones(1000)
    threshold = rng.uniform(0.5, 2, 1000).astype(np.float32)
    current = threshold / rng.integers(2, 30, 1000).astype(np.float32)  # so that sums of it come to the threshold
    nodes = {"input": nir.Input(np.array([1000])), "n": nir.IF(one, threshold, 0 * one)}
    nodes["output"] = nir.Output(np.array([1000]))
    v, spikes = np.zeros(1000, np.float32), []
    for _ in range(64):
        v = v + current
        s = np.trunc(v / threshold)
        v = np.maximum(v - s * threshold + threshold, 0) - threshold
        spikes.append(s)
    loaded = spikec.load(nir.NIRGraph(nodes, list(itertools.pairwise(nodes))), reader="sinabs")
    ours = spikec.run(loaded, torch.tensor(current)[None], 64)
    assert ours.dtype == torch.float32
    assert np.array_equal(ours[:, 0], spikes)


@pytest.mark.parametrize("case", REFUSED, ids=" ".join)
def test_what_a_tool_refuses_is_refused_with_its_reason(case):
    reader, reason = case
    with pytest.raises(spikec.UnsupportedOpError) as error:
        spikec.load(graph(REFUSED[case]), reader=reader)
    assert reason in str(error.value)
    assert error.value.location == "n"
    assert all(problem.hint for problem in error.value.problems)
    found = spikec.check(graph(REFUSED[case]), "spikingjelly", reader=reader)
    assert [problem.message for problem in found] == [problem.message for problem in error.value.problems]


def test_everything_that_a_tool_refuses_comes_at_once():
    other = graph(integrate(2.0), scale=nir.Scale(np.ones(N)), d=nir.Threshold(np.ones(N)))
    with pytest.raises(spikec.UnsupportedOpError) as error:
        spikec.load(other, reader="spikingjelly")
    assert [problem.location for problem in error.value.problems] == ["n", "scale", "d"]


def test_graphs_that_a_tool_does_not_run():
    two = graph(integrate())
    two.nodes["more"] = nir.Output(np.array([N]))
    two.edges.append(("n", "more"))
    with pytest.raises(spikec.UnsupportedOpError, match="several outputs: SpikingJelly 2.0.0 does not come back"):
        spikec.load(two, reader="spikingjelly", dt=1.0)
    with pytest.raises(spikec.UnsupportedOpError, match="branches: snn-mlir 1.0.0 refuses them") as error:
        spikec.load(two, reader="snn-mlir")
    assert len(error.value.problems) == 2
    with pytest.raises(spikec.UnsupportedOpError, match="IF in front of others: snnTorch"):
        spikec.load(graph(integrate(), fc2=nir.Affine(np.eye(N), np.zeros(N))), reader="snntorch")
    skip = graph(integrate(), fc2=nir.Affine(np.eye(N), np.zeros(N)), m=integrate())
    late, skip.edges = list(skip.edges), [("n", "m"), *skip.edges]
    for reader in ("norse", "sinabs"):
        with pytest.raises(spikec.UnsupportedOpError, match="the order of edges: .* runs a graph depth first") as error:
            spikec.load(skip, reader=reader)
        assert error.value.location == "m"
    skip.edges = [*late, ("n", "m")]  # the layers first, and then what skips them
    assert spikec.load(skip, reader="norse")
    loop = graph(lif(tau=4.0))
    loop.nodes["back"] = nir.Affine(np.eye(N), np.zeros(N))
    loop.edges += [("n", "back"), ("back", "n")]
    with pytest.raises(spikec.UnsupportedOpError, match="recurrence: sinabs 3.1.3 runs all steps"):
        spikec.load(loop, reader="sinabs")
    with pytest.raises(spikec.UnsupportedOpError, match=r"the order of edges: norse 1.1.0 .*, or the output not last"):
        spikec.load(loop, reader="norse")
    loop.edges = [edge for edge in loop.edges if edge != ("n", "output")] + [("n", "output")]
    assert spikec.load(loop, reader="norse")


def test_what_no_file_of_snntorch_says_is_said():
    notes = spikec.load(graph(lif()), reader="snntorch").imported.notes
    assert any("do not say reset_delay" in note for note in notes)
    assert not any("reset_delay" in note for note in spikec.load(graph(lif()), reader="norse", dt=DT).imported.notes)


def test_an_integrator_that_resets_late_is_written_and_read_back():
    neuron = integrate(threshold=1.1)
    neuron.metadata = {"reset": "subtract", "reset_at": "next"}
    v, s, wanted = np.zeros((B, N)), np.zeros((B, N)), []
    for current in CURRENT:
        v = v + current - s * 1.1
        s = (v > 1.1).astype(float)
        wanted.append(s)
    for each in (graph(neuron), spikec.compile(graph(neuron), "nir")):
        assert np.array_equal(spikec.run(each, torch.tensor(EVENTS)).numpy(), wanted)


def test_the_users_word_comes_before_the_readers_and_the_graphs():
    stored = graph(integrate(1e4), {"dt": 1e-3, "fire": ">", "reset": "subtract", "v_init": 0.5})
    with pytest.warns(spikec.SpikecWarning) as said:
        loaded = spikec.load(stored, reader="spikingjelly", dt=1e-4, v_init=0.25)
    assert np.array_equal(loaded["n"].v_init, 0.25)
    assert not loaded["n"].strict
    assert not loaded["n"].v_reset.any()
    texts = [str(each.message) for each in said]
    assert texts == [
        "dt = 0.0001 as you say, where the graph says 0.001",
        "neurons fire at v >= v_threshold, as SpikingJelly 2.0.0 does; the graph says '>'",
        "1 layer(s) of neurons have reset = 'value', as SpikingJelly 2.0.0 does, and not as the graph says",
        "1 layer(s) of neurons have v_init = 0.25, as you say, and not as the graph says",
    ]
    assert set(texts) <= set(loaded.imported.notes)
    kept = spikec.load(stored, reset="subtract", v_init={"n": 0.5})
    assert kept["n"].v_reset is None
    assert kept.imported.dt == 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reader": "nest"}, "there is no reader 'nest'"),
        ({"reset": "zero"}, "reset is 'zero'"),
        ({"fire": "ge"}, "fire is 'ge'"),
        ({"v_init": "rest"}, "v_init"),
        ({"dt": -1}, "dt is -1"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(spikec.InvalidModelError, match=message) as error:
        spikec.load(graph(integrate()), **options)
    assert error.value.hint


def test_only_nir_has_readers():
    with pytest.raises(spikec.CompileError, match="reader is for an nir.NIRGraph .* and this is a torch.nn.Module"):
        spikec.load(torch.nn.Linear(2, 3), torch.rand(1, 2), reader="norse")
    with pytest.raises(spikec.CompileError, match="reader is no option of running a Graph"):
        spikec.run(spikec.load(graph(integrate()), reader="norse"), torch.tensor(EVENTS), reader="norse")


@pytest.mark.parametrize(("target", "where"), [("nir", "'full'"), ("netx", "spikingjelly"), ("lava", "spikingjelly")])
def test_several_spikes_a_step_are_refused_by_name_with_where_they_may_go(target, where):
    with pytest.raises(spikec.UnsupportedOpError, match="multispike") as error:
        spikec.compile(graph(integrate()), target, reader="sinabs", calibration=torch.tensor(EVENTS[0]))
    assert error.value.location == "n"
    assert where in error.value.hint


@pytest.mark.slow
def test_evaluate_and_the_shell_know_readers(tmp_path):
    from click.testing import CliRunner

    from spikec.shell.cli import main

    nir.write(tmp_path / "x.nir", graph(integrate()))
    x = EVENTS[:10].transpose(1, 0, 2).reshape(-1, 5)
    labels = torch.zeros(len(x), dtype=torch.long)
    by_reader = {
        name: spikec.evaluate(tmp_path / "x.nir", [(torch.tensor(x), labels)], 8, reader=name).tolist()
        for name in ("sinabs", "norse")
    }
    assert by_reader["sinabs"] != by_reader["norse"]
    np.savez(tmp_path / "x.npz", x=x)
    for name in by_reader:
        arguments = ["run", str(tmp_path / "x.nir"), str(tmp_path / "x.npz"), "--timesteps", "8", "--reader", name]
        result = CliRunner().invoke(main, [*arguments, "-o", str(tmp_path / "y.npz")], catch_exceptions=False)
        assert result.exit_code == 0
        wanted = spikec.run(tmp_path / "x.nir", torch.tensor(x), 8, reader=name).mean(0)
        assert np.array_equal(loaded(tmp_path / "y.npz")["output"], wanted.numpy())
    result = CliRunner().invoke(main, ["check", str(tmp_path / "x.nir"), "--target", "nir", "--reader", "rockpool"])
    assert result.exit_code == 1
    assert "rockpool 3.1.0 refuses nir.IF" in result.output + result.stderr


def test_every_reader_says_what_it_is():
    for name, reader in READERS.items():
        assert name == reader.name
        assert reader.fire in (">", ">=")
        assert not set(reader.drops) & {*reader.layers, *reader.neurons}
