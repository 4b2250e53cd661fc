"""Every node of NIR, with parameters of each neuron, against the equations in numpy; and what files leave open."""

import itertools

import h5py
import nir
import numpy as np
import pytest
import torch

import spikec
from nir_numpy import evaluate

T, B, DT = 50, 3, 1e-3
RNG = np.random.default_rng(0)


def each(low, high, shape):
    return RNG.uniform(low, high, shape)


def i(shape):
    return nir.I(r=each(200, 900, shape))


def integrate(shape):
    return nir.IF(r=each(200, 900, shape), v_threshold=each(0.3, 0.9, shape), v_reset=each(-0.2, 0.2, shape))


def li(shape):
    return nir.LI(tau=each(2e-3, 9e-3, shape), r=each(0.5, 2, shape), v_leak=each(-0.1, 0.1, shape))


def lif(shape):
    rest = {"v_leak": each(-0.1, 0.1, shape), "v_reset": each(-0.2, 0.1, shape)}
    return nir.LIF(tau=each(2e-3, 9e-3, shape), r=each(1, 3, shape), v_threshold=each(0.2, 0.5, shape), **rest)


def cuba_fields(shape):
    taus = {"tau_syn": each(2e-3, 6e-3, shape), "tau_mem": each(2e-3, 9e-3, shape)}
    return {**taus, "r": each(1, 3, shape), "w_in": each(1, 3, shape), "v_leak": each(-0.1, 0.1, shape)}


def cuba_li(shape):
    return nir.CubaLI(**cuba_fields(shape))


def cuba(shape):
    return nir.CubaLIF(**cuba_fields(shape), v_threshold=each(0.2, 0.9, shape), v_reset=each(-0.2, 0.1, shape))


def threshold(shape):
    return nir.Threshold(each(-0.3, 0.9, shape))


def delay(shape):
    return nir.Delay(RNG.integers(0, 7, shape) * DT)


def scale(shape):
    return nir.Scale(np.broadcast_to(each(-2, 2, (shape[0],) + (1,) * (len(shape) - 1)), shape).copy())


def scale_of_cells(shape):
    return nir.Scale(each(-2, 2, shape))


NODES = [i, integrate, li, lif, cuba_li, cuba, threshold, delay, scale]


def chain(shape, out=None, metadata=None, **nodes):
    nodes = {"input": nir.Input(np.array(shape)), **nodes, "output": nir.Output(None if out is None else np.array(out))}
    edges = list(itertools.pairwise(nodes))
    return nir.NIRGraph(nodes, edges, metadata=metadata or {"dt": DT, "reset": "value"}, type_check=False)


def agree(graph, shape, path=None, dt=DT, x=None, **options):
    x = RNG.uniform(-0.5, 2, (T, B, *shape)) if x is None else x
    wanted = evaluate(graph, x, soft=False, dt=dt)
    (output,) = [wanted[name] for name, node in graph.nodes.items() if isinstance(node, nir.Output)]
    loaded = spikec.load(path or graph, **options)
    np.testing.assert_allclose(spikec.run(loaded, torch.tensor(x)).numpy(), output, rtol=1e-9, atol=1e-9)
    assert output.std() > 0.05
    module = spikec.compile(path or graph, "spikingjelly", **options)
    module.step_mode = "m"
    inputs = torch.tensor(x).to(getattr(torch, loaded.type("input").dtype))
    torch.testing.assert_close(module(inputs).detach(), spikec.run(loaded, inputs))
    return loaded


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 4, 3)])
@pytest.mark.parametrize("make", [*NODES, scale_of_cells])
def test_every_node_with_parameters_of_each_neuron(make, shape, tmp_path):
    graph = chain(shape, n=make(shape))
    agree(graph, shape)
    graph.nodes["output"] = nir.Output(np.array(shape))
    nir.write(tmp_path / "x.nir", graph)
    agree(graph, shape, tmp_path / "x.nir")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_random_graphs(seed):
    rng = np.random.default_rng(seed)
    size = 6
    nodes, edges, made = {"input": nir.Input(np.array([size]))}, [], ["input"]
    for k in range(8):
        name = f"n{k}"
        if k % 2:
            nodes[name] = NODES[rng.integers(len(NODES))]((size,))
        else:
            nodes[name] = nir.Affine(rng.normal(0, 0.7, (size, size)), rng.normal(0, 0.2, size))
        starts = rng.choice(made[-4:], size=min(len(made), 1 + rng.integers(2)), replace=False)
        edges += [(str(start), name) for start in starts]
        made.append(name)
        if k > 2 and k % 2 == 0 and rng.random() < 0.5:  # a way back
            edges.append((f"n{k - 1}", f"n{k - 3}"))
    nodes["output"] = nir.Output(np.array([size]))
    edges += [(made[-1], "output"), (made[-2], "output")]
    agree(
        nir.NIRGraph(nodes, list(dict.fromkeys(edges)), metadata={"dt": DT, "reset": "value"}, type_check=False),
        (size,),
    )


@pytest.mark.slow
@pytest.mark.parametrize("reset", [None, "value"])
def test_no_neuron_at_all(reset, tmp_path):
    """Affine alone is a network in time as well: it says nothing of time, and takes steps one by one."""
    graph = chain((4,), (3,), fc=nir.Affine(each(-1, 1, (3, 4)), each(-1, 1, 3)), metadata={})
    loaded = agree(graph, (4,), dt=None)
    assert loaded.is_spiking
    again = spikec.compile(graph, "nir")
    spikec.save(again, tmp_path / "x.nir")
    agree(graph, (4,), tmp_path / "x.nir", dt=None)


def test_a_delay_that_is_no_whole_number_of_steps():
    graph = chain((2,), d=nir.Delay(np.array([1e-3, 1.4e-3])))
    with pytest.raises(spikec.UnsupportedOpError, match=r"its delay is 1\.4 steps of 0\.001 s") as error:
        spikec.load(graph)
    assert error.value.location == "d"
    x = torch.rand(20, 1, 2, dtype=torch.float64)
    with pytest.warns(spikec.SpikecWarning, match="dt = 0.0002 as you say"):
        found = spikec.run(spikec.load(graph, dt=2e-4), x)
    assert torch.equal(found[5:, :, 0], x[:-5, :, 0])
    assert torch.equal(found[7:, :, 1], x[:-7, :, 1])
    assert not found[:5].any()
    with pytest.raises(spikec.UnsupportedOpError, match="its delay is in seconds, and nothing says how long"):
        spikec.load(chain((2,), d=nir.Delay(np.array([1e-3, 1e-3])), metadata={"x": 1}))
    with pytest.raises(spikec.InvalidModelError, match="its delay is -0.001, and must be numbers from 0 on"):
        spikec.load(chain((2,), d=nir.Delay(np.array([-1e-3, -1e-3]))))
    with pytest.raises(spikec.InvalidModelError, match=r"is kept for 1,000,000,000,000 steps") as error:
        spikec.load(chain((2,), d=nir.Delay(np.array([1e9, 1e9]))))
    assert error.value.location == "d"


@pytest.mark.parametrize("batched", [(1, 5), (1, 1, 5)])
def test_inputs_and_parameters_with_axes_for_the_batch(batched):
    """As norse and rockpool export them."""
    weight, bias = each(-1, 1, (6, 5)), each(-1, 1, 6)
    plain = chain((5,), (6,), fc=nir.Affine(weight, bias), n=lif((6,)))
    fields = {name: getattr(plain.nodes["n"], name) for name in ("tau", "r", "v_leak", "v_threshold", "v_reset")}
    ones = (1,) * (len(batched) - 1)
    neurons = nir.LIF(**{name: value.reshape(*ones, 6) for name, value in fields.items()})
    odd = chain(batched, (*ones, 6), fc=nir.Affine(weight, bias), n=neurons)
    loaded = spikec.load(odd)
    assert loaded.type("input").shape == (5,)
    note = f"input 'input' of shape {batched} is read as (5,): axes of 1 in front count the batch"
    assert note in loaded.imported.notes
    x = torch.tensor(RNG.uniform(-0.5, 2, (T, B, 5)))
    assert torch.equal(spikec.run(loaded, x), spikec.run(spikec.load(plain), x))


def test_a_channel_of_its_own_is_no_batch():
    conv = nir.Conv2d(None, each(-1, 1, (2, 1, 3, 3)), 1, 0, 1, 1, np.zeros(2))
    assert spikec.load(chain((1, 6, 6), conv=conv, n=integrate((2, 4, 4)))).type("input").shape == (1, 6, 6)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1), (4, 1, 1)])
def test_parameters_of_maps_that_are_shared(shape):
    values = {"tau": each(2e-3, 9e-3, shape), "r": each(1, 3, shape), "v_leak": np.zeros(shape)}
    values |= {"v_threshold": each(0.2, 0.5, shape), "v_reset": np.zeros(shape)}
    full = nir.LIF(**{name: np.broadcast_to(value, (4, 3, 2)).copy() for name, value in values.items()})
    shared = nir.LIF(**{name: np.asarray(value) for name, value in values.items()})
    x = torch.tensor(RNG.uniform(-0.5, 2, (T, B, 4, 3, 2)))
    wanted = spikec.run(spikec.load(chain((4, 3, 2), n=full)), x)
    assert 0.02 < wanted.mean() < 0.98
    assert torch.equal(spikec.run(spikec.load(chain((4, 3, 2), n=shared)), x), wanted)


def test_a_branch_that_nothing_uses_is_left_out():
    graph = chain((4,), (4,), n=integrate((4,)))
    used = chain((4,), (4,), n=graph.nodes["n"])
    graph.nodes |= {"side": nir.Affine(np.eye(4), np.zeros(4)), "m": integrate((4,))}
    graph.edges += [("input", "side"), ("side", "m")]
    loaded = agree(graph, (4,))
    assert list(loaded) == list(spikec.load(used))
    ledger = spikec.Compiler("spikingjelly").run(graph).ledger
    assert {row[0]: row[-1] for row in ledger.rows()}["m"] == "its result is not used"


@pytest.mark.slow
def test_files_of_old_versions(tmp_path):
    """nir 0.2 wrote convolutions without input_shape, CubaLIF without w_in, and neurons without v_reset."""
    conv = nir.Conv2d((6, 6), each(-1, 1, (2, 3, 3, 3)), 1, 0, 1, 1, np.zeros(2))
    flat = nir.Flatten({"input": np.array([2, 4, 4])}, 0, -1)
    last = cuba((32,))
    last.w_in, last.v_reset, last.v_threshold = np.ones(32), np.zeros(32), np.full(32, 0.2)
    graph = chain((3, 6, 6), (32,), conv=conv, flat=flat, n=last)
    nir.write(tmp_path / "x.nir", graph)
    with h5py.File(tmp_path / "x.nir", "r+") as file:
        nodes = file["node/nodes"]
        for place in ("conv/input_shape", "n/w_in", "n/v_reset"):
            del nodes[place]
        for node in nodes:
            if "metadata" in nodes[node]:
                del nodes[node]["metadata"]
        file["version"][()] = "0.2.0"
    agree(graph, (3, 6, 6), tmp_path / "x.nir")
