"""NIR in: against plain numpy, on graphs written by hand and on our own files."""

import itertools
import re
import warnings

import h5py
import nir
import numpy as np
import pytest
import torch

import nets
import spikec
from nir_numpy import evaluate
from spikec.backends.nir.backend import Nir
from spikec.ir.ops import IF, LIF, Add, Conv

T = 32
RNG = np.random.default_rng(0)


def neuron(*shape, threshold=1.0, r=1.0, **fields):
    return nir.IF(r=np.full(shape, r), v_threshold=np.broadcast_to(threshold, shape).copy(), **fields)


def affine(out, inputs):
    return nir.Affine(weight=RNG.normal(size=(out, inputs)), bias=RNG.normal(size=out) * 0.3)


def conv2d(out, inputs, kernel, padding=0, stride=1, dilation=1, groups=1, size=None):
    return nir.Conv2d(
        input_shape=size,
        weight=RNG.normal(size=(out, inputs // groups, *kernel)),
        bias=RNG.normal(size=out) * 0.3,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
    )


def graph(edges=None, shape=(3,), out=None, metadata=None, check=False, **nodes):
    nodes = {"input": nir.Input(np.array(shape)), **nodes, "output": nir.Output(None if out is None else np.array(out))}
    names = list(nodes)
    edges = list(itertools.pairwise(names)) if edges is None else edges
    return nir.NIRGraph(nodes, edges, metadata=metadata or {"reset": "subtract"}, type_check=check)


def agree(source, soft=True, path=None):
    loaded = spikec.load(path or source)
    x = torch.rand(T, 3, *loaded.type(loaded.inputs[0]).shape, dtype=torch.float64) * 2 - 0.5
    spikes = {node.name: [] for node in loaded.match(IF)}
    y = spikec.run(loaded, x, tap=lambda name, value, *_: spikes[name].append(value) if name in spikes else None)
    found = evaluate(source, x.numpy(), soft=soft)
    for name, steps in spikes.items():
        assert np.array_equal(found[name], torch.stack(steps).numpy()), name
        assert torch.stack(steps).any()
    assert np.allclose(found[next(iter(source.outputs))], y.numpy(), rtol=0, atol=1e-12)
    return loaded


# ------------------------------------------------------------------ own files


@pytest.mark.slow
@pytest.mark.parametrize("timesteps", [16, None])
@pytest.mark.parametrize("name", ["mlp_batchnorm", "resnet", "grouped", "conv1d", "two_inputs", "two_outputs"])
def test_read_back_equals_what_was_written(name, timesteps, tmp_path):
    x = nets.batch(name, dtype=torch.float64)
    run = spikec.Compiler("nir", calibration=[x], timesteps=timesteps).run(nets.build(name, dtype=torch.float64))
    spikec.save(run.artifact, tmp_path / "net.nir")
    xs = x if isinstance(x, tuple) else (x,)
    expected = spikec.run(run.graph, xs, T)
    for model in (run.artifact, tmp_path / "net.nir", str(tmp_path / "net.nir")):
        loaded = spikec.load(model)
        y = spikec.run(loaded, xs, T)
        for a, b in zip(*((v if isinstance(v, tuple) else (v,)) for v in (y, expected)), strict=True):
            assert torch.equal(a, b)
        for a, b in zip(loaded.outputs, run.graph.outputs, strict=True):
            assert loaded.type(a) == run.graph.type(b)
        assert len(loaded) == len(run.graph)
        back, context = loaded.copy(), spikec.Context(loaded)
        assert spikec.extend.loader.pass_named("legalize-nir").run(back, context) == 0
        again = Nir().emit(back, context)
        assert list(again.nodes) == list(run.artifact.nodes)
        assert again.edges == run.artifact.edges


@pytest.mark.slow
@pytest.mark.parametrize("target", ["spikingjelly", "nir"])
@pytest.mark.parametrize("timesteps", [16, None])
def test_a_file_compiles_for_every_target_and_stays_what_it_is(target, timesteps, tmp_path):
    x = nets.batch("resnet", dtype=torch.float64)
    run = spikec.Compiler("nir", calibration=[x], timesteps=timesteps).run(nets.build("resnet", dtype=torch.float64))
    spikec.save(run.artifact, tmp_path / "net.nir")
    again = spikec.Compiler(target, verify="each").run(tmp_path / "net.nir")
    assert torch.equal(spikec.run(again.graph, x, T), spikec.run(run.graph, x, T))
    if target == "nir":
        assert list(again.artifact.nodes) == list(run.artifact.nodes)
        assert again.artifact.metadata.get("v_init") == run.artifact.metadata.get("v_init")
        for name, node in run.artifact.nodes.items():
            np.testing.assert_equal(again.artifact.nodes[name].metadata, node.metadata)


@pytest.mark.slow
def test_float32_stays_float32(tmp_path):
    run = spikec.Compiler("nir", calibration=[nets.batch("mlp")], timesteps=8).run(nets.build("mlp"))
    loaded = spikec.load(run.artifact)
    assert loaded.type(loaded.outputs[0]).dtype == "float32"
    first = list(loaded)[1]
    assert first.startswith("n0_")
    assert loaded[first].origin[0].kind == "nir.Affine"
    assert loaded.location(first) == first


@pytest.mark.slow
def test_output_in_other_units():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU()).eval()
    channels = spikec.Normalization()  # each has its own threshold
    run = spikec.Compiler("nir", calibration=torch.rand(50, 3), timesteps=8, normalization=channels).run(model)
    loaded = spikec.load(run.artifact)
    assert np.ptp(run.output_scale) > 0
    assert np.array_equal(loaded.type("output").scale, run.output_scale)
    x = torch.rand(4, 3)
    assert torch.equal(spikec.run(loaded, x, T), spikec.run(run.graph, x, T))


# ------------------------------------------------------------------ by hand


def test_every_node():
    loaded = agree(
        graph(
            shape=(4, 9, 7),
            c1=conv2d(6, 4, (3, 3), padding=(1, 1), groups=2),
            n1=neuron(6, 9, 7, threshold=0.9),
            pool=nir.SumPool2d(np.array([2, 3]), np.array([2, 1]), np.array([1, 0])),
            c2=conv2d(5, 6, (1, 3), dilation=(1, 2), padding=(0, 2)),
            n2=neuron(5, 5, 5, threshold=0.7),
            avg=nir.AvgPool2d(np.array([2, 2]), np.array([2, 2]), np.array([1, 1])),
            flat=nir.Flatten({"input": np.array([5, 3, 3])}, 0, -1),
            fc1=nir.Linear(RNG.normal(size=(6, 45))),
            n3=neuron(6, threshold=RNG.uniform(0.5, 2, 6)),
            fc2=affine(4, 6),
        )
    )
    assert loaded["c1"].groups == 2
    assert loaded.imported.structure == 0


def test_conv1d_and_scale():
    gain = np.array([0.5, 2.0])
    conv = nir.Conv1d(None, RNG.normal(size=(4, 2, 3)), 2, 1, 2, 1, RNG.normal(size=4))
    source = graph(shape=(2, 9), scale=nir.Scale(np.repeat(gain[:, None], 9, 1)), conv=conv, n=neuron(4, 4))
    loaded = spikec.load(source)
    x = torch.rand(5, 2, 9, dtype=torch.float64)
    plain = graph(shape=(2, 9), conv=conv, n=neuron(4, 4))
    assert torch.equal(spikec.run(loaded, x, T), spikec.run(agree(plain), x * torch.tensor(gain)[:, None], T))


def test_a_factor_for_each_number_of_a_long_vector_is_no_matrix():
    size = 200_000  # whose matrix would take 320 GB
    gain = RNG.uniform(0.5, 2, size)
    loaded = spikec.load(graph(shape=(size,), scale=nir.Scale(gain), n=neuron(size)))
    x = torch.rand(2, size, dtype=torch.float64)
    plain = spikec.load(graph(shape=(size,), n=neuron(size)))
    assert torch.equal(spikec.run(loaded, x, 2), spikec.run(plain, x * torch.tensor(gain), 2))


@pytest.mark.parametrize("padding", ["same", b"valid", "valid"])
@pytest.mark.parametrize("kernel", [(3, 3), (2, 4)])
def test_padding_by_name(padding, kernel):
    source = graph(shape=(2, 7, 5), conv=conv2d(3, 2, kernel, padding=padding), n=neuron(3, 7, 5))
    conv = spikec.load(source if padding == "same" else graph(shape=(2, 7, 5), conv=source.nodes["conv"]))["conv"]
    text = padding if isinstance(padding, str) else padding.decode()
    warnings.filterwarnings("ignore", "Using padding='same'")
    module = torch.nn.Conv2d(2, 3, kernel, padding=text, dtype=torch.float64)
    module.weight.data = torch.tensor(conv.weight)
    module.bias.data = torch.tensor(conv.bias)
    x = torch.rand(2, 2, 7, 5, dtype=torch.float64)
    assert torch.allclose(conv.eval(x), module(x))


def test_same_with_stride_is_refused():
    with pytest.raises(spikec.UnsupportedOpError, match="padding 'same' with stride") as error:
        spikec.load(graph(shape=(2, 8, 8), conv=conv2d(3, 2, (3, 3), padding="same", stride=2)))
    assert error.value.location == "conv"


def fan_in(*extra, **nodes):
    return graph(
        shape=(2, 6, 6),
        edges=[("input", "a"), ("input", "b"), ("a", "n"), ("b", "n"), ("n", "c"), ("c", "m"), *extra, ("m", "output")],
        a=conv2d(3, 2, (3, 3), padding=1),
        b=conv2d(3, 2, (1, 1)),
        n=neuron(3, 6, 6, threshold=0.8),
        c=conv2d(3, 3, (3, 3), padding=1),
        m=neuron(3, 6, 6, threshold=1.2),
        **nodes,
    )


def test_fan_in_is_a_sum():
    loaded = agree(fan_in(("n", "m")))
    assert [node.name for node in loaded.match(Add)] == ["n_in", "m_in"]


def test_fan_in_of_signals_in_different_units():
    source = graph(
        shape=(2, 4, 4),
        edges=[("input", "n"), ("n", "m"), ("input", "k"), ("m", "k"), ("n", "k"), ("k", "output")],
        n=neuron(2, 4, 4, threshold=0.5),
        m=neuron(2, 4, 4, threshold=0.7),
        k=neuron(2, 4, 4, threshold=1.5),
    )
    loaded = agree(source)
    assert not loaded.match(Conv), "a spike is 1, whatever its threshold: nothing needs other units"
    assert (loaded.type("output").scale == 1).all()


def test_order_of_edges_does_not_matter():
    one, other = fan_in(("n", "m")), fan_in(("n", "m"))
    other.nodes = one.nodes
    other.edges = one.edges[::-1]
    x = torch.rand(3, 2, 6, 6, dtype=torch.float64)
    assert torch.equal(spikec.run(spikec.load(one), x, T), spikec.run(spikec.load(other), x, T))


# ------------------------------------------------------------------ reset, gain, potential


def small(metadata=None, **fields):
    return graph(fc=affine(5, 3), n=neuron(5, **fields), out=(5,), metadata=metadata)


@pytest.mark.slow
def test_reset_from_metadata_or_a_missing_field(tmp_path):
    stored = small({"dt": 1.0})
    with pytest.warns(spikec.SpikecWarning, match=r"stores v_reset = 0.*outputs differ in a run"):
        agree(stored, soft=False)
    agree(small({"reset": "subtract"}), soft=True)
    agree(small({"reset": "value"}), soft=False)
    agree(small({"reset": "subtract"}, v_reset=np.full(5, -0.25)), soft=False)
    nir.write(tmp_path / "zero.nir", stored)
    with pytest.warns(spikec.SpikecWarning):
        agree(stored, soft=False, path=tmp_path / "zero.nir")
    nir.write(tmp_path / "none.h5", stored)
    with h5py.File(tmp_path / "none.h5", "a") as file:
        del file["node/nodes/n/v_reset"]
    with pytest.warns(spikec.SpikecWarning, match=r"the NIR file has no v_reset.*outputs differ"):
        agree(nir.read(tmp_path / "none.h5", type_check=False), soft=False, path=tmp_path / "none.h5")


def test_gain():
    agree(small())
    x = torch.rand(4, 3, dtype=torch.float64)
    source = small()
    expected = spikec.run(spikec.load(source), x, T)
    source.nodes["n"].r = np.full(5, 500.0)
    for options, metadata in (({"dt": 2e-3}, {"reset": "subtract"}), ({}, {"reset": "subtract", "dt": 2e-3})):
        source.metadata = metadata
        assert torch.equal(spikec.run(spikec.load(source, **options), x, T), expected)
    source.metadata = {"reset": "subtract"}
    with pytest.warns(spikec.SpikecWarning, match=r"dt = 0\.002 is what its gains imply; if so, say dt=0\.002"):
        assert torch.equal(spikec.run(spikec.load(source), x, T), expected)
    source.nodes["n"].r = np.linspace(100.0, 900.0, 5)
    with pytest.raises(spikec.UnsupportedOpError, match="nothing says how long a step is") as error:
        spikec.load(source)
    assert error.value.location == "n"
    source.metadata = {"reset": "subtract", "dt": 2e-3}
    found = spikec.run(spikec.load(source), x, T).numpy()
    assert np.array_equal(found, evaluate(source, np.stack([x.numpy()] * T), dt=2e-3)["output"])


def test_initial_potential_from_metadata():
    source = small({"reset": "subtract", "v_init": 0.5})
    assert spikec.load(source)["n"].v_init == 0.5
    source.nodes["n"].metadata["v_init"] = np.linspace(0, 0.4, 5)
    agree(source)
    assert np.array_equal(spikec.load(source)["n"].v_init, np.linspace(0, 0.4, 5))


def test_it_fires_above_the_threshold_only():
    source = graph(n=neuron(3, threshold=0.5), out=(3,))
    y = spikec.run(spikec.load(source), torch.tensor([[0.5, np.nextafter(0.5, 1), 0.6]], dtype=torch.float64), 1)
    assert y.tolist() == [[[0, 1, 1]]]


def lif(n, tau, r=1.0, leak=0.0, threshold=0.6, reset=0.0):
    full = {"tau": tau, "r": r, "v_leak": leak, "v_threshold": threshold, "v_reset": reset}
    return nir.LIF(**{name: np.broadcast_to(value, n).astype(np.float64) for name, value in full.items()})


def cuba(n, tau_syn, tau_mem, r=1.0, w_in=1.0, leak=0.0, threshold=0.6, reset=0.0):
    full = {"tau_syn": tau_syn, "tau_mem": tau_mem, "r": r, "w_in": w_in, "v_leak": leak}
    full |= {"v_threshold": threshold, "v_reset": reset}
    return nir.CubaLIF(**{name: np.broadcast_to(value, n).astype(np.float64) for name, value in full.items()})


LEAKY = {
    "lif r=1": lambda: lif(8, 3e-4, threshold=0.2),
    "lif r=tau/dt": lambda: lif(8, 3e-4, r=3.0),
    "lif r=5, per neuron": lambda: lif(8, RNG.uniform(2e-4, 9e-4, 8), r=5.0, threshold=RNG.uniform(0.3, 0.9, 8)),
    "lif that leaks and resets to a value": lambda: lif(8, 4e-4, r=4.0, leak=0.2, reset=-0.3),
    "cuba": lambda: cuba(8, 2e-4, 5e-4, r=5.0, w_in=2.0),
    "cuba, gains and leak": lambda: cuba(8, RNG.uniform(2e-4, 9e-4, 8), 3e-4, r=2.0, w_in=7.0, leak=0.1, reset=0.05),
}


@pytest.mark.slow
@pytest.mark.parametrize("soft", [True, False])
@pytest.mark.parametrize("name", LEAKY)
def test_leaky_neurons(name, soft, tmp_path):
    neurons = LEAKY[name]()
    soft = soft and not neurons.v_reset.any()
    source = graph(
        shape=(6,),
        a=affine(8, 6),
        n=neurons,
        b=affine(3, 8),
        metadata={"dt": 1e-4, "reset": "subtract" if soft else "value"},
    )
    x = torch.rand(T, 4, 6, dtype=torch.float64) * 3
    loaded = spikec.load(source)
    y = spikec.run(loaded, x)
    expected = evaluate(source, x.numpy(), soft=soft, dt=1e-4)
    assert 0.02 < expected["n"].mean() < 0.98
    assert np.allclose(y.numpy(), expected["output"], rtol=0, atol=1e-9)
    again = spikec.compile(loaded, "nir")
    spikec.save(again, tmp_path / "net.nir")
    back = spikec.load(tmp_path / "net.nir")
    assert np.allclose(spikec.run(back, x).numpy(), y.numpy(), rtol=0, atol=1e-9)
    (written,) = [node for node in again.nodes.values() if type(node) is type(neurons)]
    for field in ("tau", "tau_syn", "tau_mem", "v_leak", "v_threshold", "v_reset"):
        if hasattr(neurons, field):
            assert np.allclose(getattr(written, field), getattr(neurons, field), rtol=1e-12, atol=1e-15), field


def test_the_length_of_a_step_follows_from_the_gains_where_it_is_not_stated():
    metadata = {"reset": "value"}
    agreeing = graph(n=neuron(3, r=1e4, v_reset=np.zeros(3)), m=lif(3, 3e-4, r=3.0), metadata=metadata)
    with pytest.warns(spikec.SpikecWarning, match="dt = 0.0001 is what its gains imply"):
        loaded = spikec.load(agreeing)
    assert np.isclose(next(node.op.tau for node in loaded.match(LIF)), 3)
    for nodes in ({"m": lif(3, 3e-4)}, {"m": lif(3, 3e-4, r=3.0), "k": lif(3, 3e-4, r=2.0)}):
        with pytest.raises(spikec.UnsupportedOpError, match="nothing says how long a step is") as error:
            spikec.load(graph(**nodes, metadata=metadata))
        assert error.value.location == "m"
        assert "dt=0.0001" in error.value.hint
    given = spikec.load(graph(m=lif(3, 3e-4), metadata=metadata), dt=1e-4)
    assert np.isclose(next(node.op.tau for node in given.match(LIF)), 3)
    with pytest.warns(spikec.SpikecWarning, match="dt = 0.0002 as you say, where the graph says 0.0001"):
        loaded = spikec.load(graph(m=lif(3, 3e-4), metadata={"dt": 1e-4, **metadata}), dt=2e-4)
    assert np.isclose(next(node.op.tau for node in loaded.match(LIF)), 1.5)


def test_a_time_constant_shorter_than_a_step_is_refused():
    with pytest.raises(spikec.CompileError, match="its tau is 5e-05 s, and a step 0.0001 s") as error:
        spikec.load(graph(m=lif(3, 5e-5), metadata={"dt": 1e-4, "reset": "value"}))
    assert error.value.location == "m"
    assert "dt=5e-05" in error.value.hint


# ------------------------------------------------------------------ refusals


def test_unknown_nodes_come_all_at_once():
    class Gate(nir.Scale):
        pass

    source = graph(a=Gate(np.ones(3)), n=neuron(3), d=Gate(np.ones(3)), metadata={"dt": 1.0})
    with pytest.raises(spikec.UnsupportedOpError) as error:
        spikec.load(source)
    assert [p.location for p in error.value.problems] == ["a", "d"]
    assert error.value.problems[0].message == "nir.Gate cannot be read"
    assert "Affine" in error.value.hint
    assert "Conv2d" in error.value.hint


def test_structure_is_checked():
    nodes = {"a": affine(3, 3), "b": affine(3, 3), "n": neuron(3)}
    chain = [("input", "a"), ("a", "n"), ("n", "output")]
    for edges, message in (
        ([*chain, ("input", "b"), ("b", "n"), ("b", "n")], "stands twice"),
        ([*chain, ("input", "b"), ("b", "nobody")], "not in the graph"),
        (chain, "nothing feeds this node"),
    ):
        with pytest.raises(spikec.CompileError, match=message):
            spikec.load(graph(edges=edges, **nodes))
    silent = nir.NIRGraph({"input": nir.Input(np.array([3])), "n": neuron(3)}, [("input", "n")], type_check=False)
    with pytest.raises(spikec.InvalidModelError, match="no Output"):
        spikec.load(silent)


def test_shapes_are_checked_and_located():
    with pytest.raises(spikec.TypeMismatchError, match="takes 4 features") as error:
        spikec.load(graph(fc=affine(5, 4)))
    assert error.value.location == "fc"
    with pytest.raises(spikec.InvalidModelError, match=r"declared as \(7,\), and gets \(5,\)"):
        spikec.load(graph(fc=affine(5, 3), out=(7,)))
    with pytest.raises(spikec.TypeMismatchError, match=r"has shape \(4,\), and its input \(5,\)") as error:
        spikec.load(graph(fc=affine(5, 3), n=neuron(4)))
    assert error.value.location == "n"


def test_numbers_without_a_meaning_are_named_in_a_graph_as_in_a_file():
    source = small({"reset": "subtract", "dt": -1.0})
    source.nodes["n"].v_threshold = np.array([1.0, -1, 1, 1, 1])
    source.nodes["fc"].weight = source.nodes["fc"].weight * np.nan
    with pytest.raises(spikec.InvalidModelError) as error:
        spikec.load(source)
    assert [(p.location, p.message) for p in error.value.problems] == [
        ("", "its metadata dt is -1, and must be positive numbers"),
        ("fc", "15 of 15 numbers in its weight are NaN or infinite"),
        ("n", "its v_threshold is -1..1, and must be positive numbers"),
    ]
    for dt in (0, -1, "short", np.nan, [1e-4, 1e-4]):
        with pytest.raises(spikec.InvalidModelError, match="dt is"):
            spikec.load(small(), dt=dt)


def test_a_converter_of_somebody_that_fails_is_named():
    from spikec.frontends.nir import converter

    class Gate(nir.Scale):
        pass

    @converter(Gate)
    def leak(node, name, operand, reading):
        return node.colour

    try:
        with pytest.raises(
            spikec.InvalidModelError, match="its converter .*test_nir.leak fails .AttributeError"
        ) as error:
            spikec.load(graph(a=Gate(np.ones(3))))
        assert error.value.location == "a"
    finally:
        del converter._table[Gate]


@pytest.mark.parametrize("part", ["weight", "bias", "v_threshold"])
def test_a_net_runs_in_the_least_exact_of_its_floats(part):
    source = small()
    for node in (source.nodes["fc"], source.nodes["n"]):
        for field in ("weight", "bias", "v_threshold", "v_reset"):
            if hasattr(node, field):
                setattr(node, field, getattr(node, field).astype(np.float32 if field == part else np.float64))
    assert spikec.load(source).type("output").dtype == "float32"


@pytest.mark.slow
def test_a_limit_that_an_option_raises(tmp_path):
    nir.write(tmp_path / "x.nir", small())
    hints = []
    for allowed in (0, 100, 200, 400, 600, 800):  # too little for the arrays, for the texts, and enough for both
        try:
            spikec.load(tmp_path / "x.nir", max_bytes=allowed)
        except spikec.InvalidModelError as error:
            hints.append(error.hint)
    assert 0 < len(hints) < 6
    for hint in hints:
        needed = int(re.search(r"max_bytes=(\d+)", hint)[1])
        spikec.load(tmp_path / "x.nir", max_bytes=needed)
    with pytest.raises(spikec.InvalidModelError, match="more than a file of its size may unpack to"):
        spikec.load(tmp_path / "x.nir", max_bytes=0)


@pytest.mark.slow
def test_files_that_are_none(tmp_path):
    (tmp_path / "text.nir").write_text("hello")
    with pytest.raises(spikec.InvalidModelError, match=r"text.nir cannot be read as NIR"):
        spikec.load(tmp_path / "text.nir")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(spikec.InvalidModelError, match=r"other.h5 cannot be read as NIR"):
        spikec.load(tmp_path / "other.h5")
    with pytest.raises(spikec.InvalidModelError, match="there is no file"):
        spikec.load(tmp_path / "missing.nir")


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (1, 3), (3,)])
@pytest.mark.parametrize("kind", ["IF", "LIF", "CubaLIF"])
def test_parameters_of_one_number_or_with_leading_ones_are_for_all_neurons(kind, shape):
    """Against the same network with every parameter written out."""

    def network(shape):
        names = {"IF": ("r", "v_threshold"), "LIF": ("tau", "r", "v_leak", "v_threshold")}
        fields = names.get(kind, ("tau_syn", "tau_mem", "r", "v_leak", "v_threshold", "w_in"))
        values = {
            "r": 1.0,
            "v_threshold": 0.7,
            "tau": 4e-3,
            "v_leak": 0.1,
            "tau_syn": 3e-3,
            "tau_mem": 5e-3,
            "w_in": 2.0,
        }
        neurons = getattr(nir, kind)(**{field: np.full(shape, values[field]) for field in fields})
        nodes = {
            "input": nir.Input(np.array([4])),
            "fc": nir.Affine(np.random.default_rng(0).normal(size=(3, 4)), np.zeros(3)),
            "n": neurons,
            "output": nir.Output(np.array([3])),
        }
        edges = [("input", "fc"), ("fc", "n"), ("n", "output")]
        return nir.NIRGraph(nodes, edges, metadata={"dt": 1e-3, "reset": "value", "fire": ">"}, type_check=False)

    x = torch.rand(30, 2, 4, generator=torch.Generator().manual_seed(0))
    wanted = spikec.run(spikec.load(network((3,))), x)
    assert 0 < wanted.mean() < wanted.max()
    assert torch.equal(spikec.run(spikec.load(network(shape)), x), wanted)


@pytest.mark.slow
def test_a_node_that_is_a_text_is_refused(tmp_path):
    path = tmp_path / "x.nir"
    nir.write(path, small())
    with h5py.File(path, "r+") as file:
        name = next(name for name in file["node/nodes"] if name not in ("input", "output"))
        del file[f"node/nodes/{name}"]
        file[f"node/nodes/{name}"] = "Output"
    with pytest.raises(spikec.CompileError, match="its type is 'Output', which NIR has not"):
        spikec.load(path)


@pytest.mark.parametrize("axes", [(0, -1), (-3, -1), (-2, -1), (1, 2), (-3, -2)])
def test_the_axes_of_a_flatten_may_count_from_the_end(axes):
    flat = nir.Flatten({"input": np.array([2, 3, 4])}, *axes)
    shape = flat.output_type["output"]
    fires = nir.IF(np.ones(shape), np.ones(shape), np.zeros(shape))
    nodes = {"input": nir.Input(np.array([2, 3, 4])), "flat": flat, "fires": fires, "output": nir.Output(shape)}
    graph = nir.NIRGraph(nodes, list(itertools.pairwise(nodes)), metadata={"reset": "value"})
    x = torch.randint(0, 3, (1, 1, 2, 3, 4))
    found = spikec.run(spikec.load(graph), x.double())
    assert torch.equal(found, (x > 1).double().reshape(1, 1, *shape))
