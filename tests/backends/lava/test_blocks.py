"""Blocks for lava without lava: their integers against arithmetic written out here; tests/interop has real slayer."""

import builtins

import h5py
import numpy as np
import pytest
import torch
from torch import nn

import spikec
from spikec import UnsupportedOpError
from spikec.backends import lava
from spikec.backends.netx import NetxNetwork
from spikec.backends.netx.sim import IntegerLayer, run_layers
from spikec.ir.errors import InvalidModelError, MissingDependencyError

T = 20


class IFNode(nn.Module):
    """What SpikingJelly's neuron shows of itself."""

    def __init__(self, **facts):
        super().__init__()
        vars(self).update({"v_threshold": 1.0, "v_reset": 0.0, **facts})


class LIFNode(IFNode):
    pass


def spikes(*shape, rate=0.3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(T, 3, *shape, generator=generator) < rate).float()


def cuba(currents, i_decay, v_decay, threshold, bias=0):
    """Loihi's neuron in integers of 1/64 of a weight unit, as section 1 of the netx documentation states it."""
    u = np.zeros(currents.shape[1:], dtype=np.int64)
    v = np.zeros_like(u)
    fired = []
    for a in currents:
        u = np.trunc(u * (4096 - i_decay) / 4096).astype(np.int64) + 64 * a
        v = np.trunc(v * (4096 - v_decay) / 4096).astype(np.int64) + u + 64 * bias
        fired.append(v > 64 * threshold)
        v[fired[-1]] = 0
    return np.array(fired)


@pytest.mark.parametrize(("i_decay", "v_decay"), [(1.0, 0.0), (1.0, 1 / 50), (0.3, 0.07), (0.0, 1.0)])
@pytest.mark.parametrize("bias", [False, True])
def test_a_block_spikes_as_the_chips_integers_do(i_decay, v_decay, bias):
    torch.manual_seed(3)
    block = lava.BlockContainer(nn.Linear(12, 7, bias=bias), lava.CubaLIFNode(i_decay, v_decay, 0.3), "m")
    x = spikes(12)
    weight = 2 * torch.round(block.synapse.weight * 32).long().numpy()
    shift = 2 * torch.round(block.synapse.bias * 32).long().numpy() if bias else 0
    currents = x.long().numpy() @ weight.T
    right = cuba(currents, round(4096 * i_decay), round(4096 * v_decay), int(0.3 * 64), shift)
    found = block(x).detach().numpy().astype(bool)
    assert right.sum() > 30
    assert np.array_equal(found, right)


def test_single_steps_are_the_multi_step_call_in_spikes_and_gradient():
    torch.manual_seed(4)
    block = lava.BlockContainer(nn.Conv2d(2, 4, 3, padding=1), lava.CubaLIFNode(0.4, 0.1, requires_grad=True), "m")
    x, wish = spikes(2, 5, 5), torch.randn(T, 3, 4, 5, 5)
    whole = block(x)
    parameters = list(block.parameters())
    expected = torch.autograd.grad((whole * wish).sum(), parameters)
    block.reset()
    block.step_mode = "s"
    steps = torch.stack([block(step) for step in x])
    assert torch.equal(steps, whole)
    for found, right in zip(torch.autograd.grad((steps * wish).sum(), parameters), expected, strict=True):
        assert torch.allclose(found, right, rtol=1e-4, atol=1e-6)


def test_decays_train_by_the_derivative_of_the_equations():
    """Against torch's own derivative of the same recursion in floats; nothing spikes, so that no surrogate is in it."""
    node = lava.CubaLIFNode(0.3, 0.07, v_threshold=100.0, requires_grad=True, step_mode="m")
    x, wish = torch.rand(T, 2, 3), torch.randn(T, 2, 3)
    found = torch.autograd.grad((node.potential(x) * wish).sum(), [node.current_decay, node.voltage_decay])
    decays = [d.detach().round().requires_grad_() for d in (node.current_decay, node.voltage_decay)]
    i = v = torch.zeros(2, 3)
    potentials = []
    for step in x:
        i = i * (1 - decays[0] / 4096) + step
        v = v * (1 - decays[1] / 4096) + i
        potentials.append(v)
    expected = torch.autograd.grad((torch.stack(potentials) * wish).sum(), decays)
    for ours, right in zip(found, expected, strict=True):
        assert torch.allclose(ours, right, rtol=5e-3)


def test_weights_are_rounded_to_even_integers_in_range_and_keep_their_gradient():
    x = torch.tensor([-9.0, -3.99, -0.016, 0.016, 0.5, 3.96, 9.0], requires_grad=True)
    whole = lava.quantize_8bit(x, descale=True)
    assert whole.tolist() == [-256, -256, -2, 2, 32, 254, 254]
    assert torch.equal(lava.quantize_8bit(x), whole / 64)
    (gradient,) = torch.autograd.grad(lava.quantize_8bit(x).sum(), x)
    assert gradient.tolist() == [0, 1, 1, 1, 1, 1, 0]
    assert lava.quantize_bias(torch.tensor([70.0, -70.0]), descale=True).tolist() == [4094, -4096]


def test_layouts_are_moved_and_moved_back():
    x = torch.rand(6, 4, 2, 3)
    assert lava.tnx_to_nxt(x).shape == (4, 2, 3, 6)
    assert torch.equal(lava.nxt_to_tnx(lava.tnx_to_nxt(x)), x)
    assert torch.equal(lava.tnx_to_nxt(x)[1, :, :, 5], x[5, 1])


def net(*, bias=True):
    torch.manual_seed(5)
    return nn.Sequential(
        lava.BlockContainer(nn.Conv2d(2, 4, (3, 2), padding=1, bias=bias), lava.CubaLIFNode(1.0, 0.05, 0.4), "m"),
        lava.BlockContainer(lava.SumPool2d(2), lava.CubaLIFNode(1.0, 0.0, 1.0), "m"),
        lava.BlockContainer(nn.Flatten(), step_mode="m"),
        lava.BlockContainer(nn.Linear(48, 5, bias=bias), lava.CubaLIFNode(0.5, 0.0, 0.2), "m"),
    )


def layers_of(path):
    """The layers of a file, read here dataset by dataset; ``save_blocks`` says nothing of a host's encoder."""
    with h5py.File(path) as file:
        groups = [file[f"layer/{i}"] for i in range(len(file["layer"]))]
        kinds = [group["type"][0].decode() for group in groups]
        layers = []
        for kind, group in zip(kinds, groups, strict=True):
            if kind not in ("input", "flatten"):
                sizes = {key: tuple(group[key][()]) for key in ("stride", "padding", "dilation") if key in group}
                neuron = {key: int(group[f"neuron/{key}"][()]) for key in ("vThMant", "iDecay", "vDecay")}
                layers.append(
                    IntegerLayer(
                        kind=kind, name="", shape=tuple(group["shape"][()]), weight=group["weight"][()],
                        threshold=neuron["vThMant"], current_decay=neuron["iDecay"], voltage_decay=neuron["vDecay"],
                        bias=group["bias"][()] if "bias" in group else None,
                        groups=int(group["groups"][()]) if "groups" in group else 1, **sizes,
                    )
                )  # fmt: skip
        return kinds, layers


@pytest.mark.slow
def test_blocks_are_written_as_the_netx_file_that_spikes_like_them(tmp_path):
    blocks, x = net(), spikes(2, 6, 7)
    blocks[3].synapse.weight.data.add_(0.05)
    lava.save_blocks(blocks, tmp_path / "net.net", (2, 6, 7))
    kinds, layers = layers_of(tmp_path / "net.net")
    assert kinds == ["input", "conv", "conv", "flatten", "dense"]
    responses = run_layers(layers, x.numpy().astype(bool))
    signal, at = x, 0
    for block in blocks:
        signal = block(signal)
        if block.neuron is not None:
            assert responses[at].spikes.sum() > 20
            assert np.array_equal(responses[at].spikes.reshape(signal.shape), signal.detach().numpy().astype(bool))
            at += 1
    assert at == len(responses)
    file = NetxNetwork.load(tmp_path / "net.net")
    trace = file.simulate(x)
    assert (file.name, file.encoder, file.output_shape) == ("net", None, (5,))
    assert list(trace.spikes) == ["0", "1", "3"]
    assert np.array_equal(trace.steps, responses[-1].spikes)
    assert np.array_equal(spikec.run(tmp_path / "net.net", x.double()), trace.steps)
    with pytest.raises(InvalidModelError, match="none of the blocks has neurons"):
        lava.save_blocks(blocks[2:3], tmp_path / "none.net", (2, 6, 7))
    with pytest.raises(UnsupportedOpError, match="is no BlockContainer"):
        lava.save_blocks([nn.Flatten()], tmp_path / "none.net", (2, 6, 7))


def test_neurons_of_spikingjelly_are_read_by_their_attributes():
    node = lava.to_cuba_neuron(LIFNode(tau=50.0, decay_input=False, lava_s_cale=128))
    assert (node.current_decay.item(), round(node.voltage_decay.item(), 2), node.scale) == (4096, 81.92, 128)
    assert lava.to_cuba_neuron(IFNode(v_threshold=1.51)).v_threshold == 96 / 64
    assert lava.to_cuba_neuron(node) is node


def trains(spikes):
    """[T, N, 1] as the tutorial shows it: a line of 0 and 1 for each sample."""
    return ["".join(str(int(spike)) for spike in sample) for sample in spikes[:, :, 0].T]


@pytest.mark.parametrize(
    ("node", "leak", "seed", "printed"),
    [
        (IFNode(), 0.0, 91, ["00101000", "01010101"]),
        (LIFNode(tau=50.0, decay_input=False), 1 / 50, 50317, ["01010010", "00100101"]),
    ],
    ids=["IF", "LIF"],
)
def test_neurons_and_blocks_make_the_trains_that_the_lava_tutorial_prints(node, leak, seed, printed):
    """Its input is ``torch.rand([8, 2, 1])``, of a seed that it does not tell; of this one its equations print that."""
    x = torch.rand(8, 2, 1, generator=torch.Generator().manual_seed(seed))
    v, fired = torch.zeros(2, 1), []
    for step in x:
        v = v - leak * v + step
        fired.append(v >= 1)
        v = v * ~fired[-1]
    assert trains(torch.stack(fired)) == printed
    neuron = lava.to_cuba_neuron(node)
    neuron.step_mode = "m"
    assert trains(neuron(x)) == printed
    block = lava.BlockContainer(nn.Linear(1, 1, bias=False), node, "m")
    nn.init.ones_(block.synapse.weight)
    assert trains(block(x)) == printed


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: lava.to_cuba_neuron(IFNode(v_reset=None)), ["IFNode", "v_reset is None", "netx"]),
        (lambda: lava.to_cuba_neuron(LIFNode(tau=2.0, decay_input=True)), ["LIFNode", "decay_input=False"]),
        (lambda: lava.to_cuba_neuron(nn.ReLU()), ["ReLU", "IFNode"]),
        (lambda: lava.CubaLIFNode(1.5, 0.0), ["current_decay", "1.5", "1/tau"]),
        (lambda: lava.CubaLIFNode(1.0, 0.0, v_threshold=0.001), ["v_threshold", "0.001"]),
        (lambda: lava.CubaLIFNode(1.0, 0.0, v_reset=-0.5), ["v_reset", "-0.5"]),
        (lambda: lava.BlockContainer(nn.AvgPool2d(2), IFNode()), ["AvgPool2d", "SumPool2d"]),
        (lambda: lava.BlockContainer(nn.MaxPool2d(2), IFNode()), ["MaxPool2d", "SumPool2d"]),
        (lambda: lava.BlockContainer(nn.Linear(2, 2)), ["Linear", "neurons"]),
        (lambda: lava.BlockContainer(nn.Flatten(), IFNode()), ["Flatten"]),
        (lambda: lava.BlockContainer(nn.Flatten(2)), ["Flatten", "all axes"]),
        (lambda: lava.BlockContainer(nn.Conv2d(1, 1, 3, padding="same"), IFNode()), ["Conv2d", "'same'", "numbers"]),
        (lambda: lava.BlockContainer(nn.Conv2d(1, 1, 3, padding_mode="reflect", padding=1), IFNode()), ["reflect"]),
        (lambda: lava.BlockContainer(nn.Linear(2, 2), IFNode(), "x"), ["step_mode", "'x'"]),
        (lambda: lava.CubaLIFNode(1.0, 0.0, step_mode="x"), ["step_mode", "'x'"]),
        (lambda: lava.containers([nn.Linear(2, 2)]), ["Linear", "IFNode"]),
        (lambda: lava.save_blocks([nn.Linear(2, 2)], "a.net", (2,)), ["Linear", "BlockContainer"]),
        (lambda: lava.save_blocks(net(), "a.net", (3, 6, 7)), ["block 0", "[3, 6, 7]"]),
    ],
)
def test_what_lava_has_not_is_refused_by_name(make, words):
    with pytest.raises(spikec.CompileError) as caught:
        make()
    for word in words:
        assert word in str(caught.value)


@pytest.mark.slow
def test_without_lava_dl_the_target_says_what_to_install_and_what_works_without(monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.startswith("lava"):
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    torch.manual_seed(7)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    for make in (
        lambda: spikec.compile(model, "lava", calibration=torch.rand(8, 8), timesteps=4),
        lambda: lava.to_lava_neuron(IFNode()),
        lambda: net()[0].to_lava_block(),
    ):
        with pytest.raises(MissingDependencyError) as caught:
            make()
        assert "lava-dl==0.6.0" in str(caught.value)
        assert "netx" in str(caught.value)
    assert [b.synapse.bias is None for b in lava.containers([nn.Linear(4, 3, bias=False), IFNode()])] == [True]


@pytest.mark.slow
def test_a_block_trains():
    torch.manual_seed(6)
    blocks, x, labels = net(), spikes(2, 6, 7), torch.tensor([0, 1, 2])
    optimizer = torch.optim.Adam(blocks.parameters(), 0.05)
    losses = []
    for _ in range(15):
        for block in blocks:
            block.reset()
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(blocks(x).mean(0) * 5, labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
