"""Runs a .net in lava's own simulation; a script for a Python that has lava, and need not have spikec or torch.

    python lava_script.py NET INPUTS.npz OUTPUTS.npz

INPUTS.npz holds ``inputs`` [T, B, ...], the spikes that the file's first layer is fed, in torch's order. OUTPUTS.npz
then holds ``hidden_<l>`` [T, B, ...], the spikes of each layer but the last, ``total`` [B, ...], the last layer's
summed current in units of its weights, and where that layer fires ``output`` [T, B, ...], its spikes; time-steps are
aligned with the input's.
"""

import sys
import types
from typing import Any

import h5py
import numpy as np

#: begins a line on stdout that says how many samples have run
DONE = "samples done:"


def _stub() -> None:
    """Stand in for torch and slayer, which netx imports and does not use here, and which weigh 5 GB."""
    for name in ("torch", "lava.lib.dl.slayer", "lava.lib.dl.slayer.neuron", "lava.lib.dl.slayer.neuron.rf"):
        sys.modules[name] = types.ModuleType(name)
    vars(sys.modules["torch"]).update(Tensor=object, tensor=object)
    vars(sys.modules["lava.lib.dl.slayer.neuron.rf"]).update(neuron_params=None)


def _turned(x: Any) -> Any:
    """Turn [T, ...] in torch's order into [..., T] in lava's, (W, H, C, T), or back."""
    return x.transpose(*range(x.ndim - 1, -1, -1))


def load(path: str, **options: Any) -> Any:
    """Load a file as lava's ``hdf5.Network``, with soft reset behind convolutions where the file asks for it.

    netx has no such layer: to it these neurons have hard reset. Here their current becomes their potential, from which
    a spike takes off the threshold, by a connection of each neuron to itself.

    Args:
        path: of the file.
        options: of ``hdf5.Network``.
    """
    from lava.lib.dl.netx import hdf5
    from lava.proc.conv.process import Conv

    net = hdf5.Network(net_config=path, **options)
    with h5py.File(path, "r") as file:
        groups = [file[f"layer/{i}"] for i in range(len(file["layer"]))]
        kept = [group for group in groups if "neuron" in group]
        for layer, group in zip(net.layers, kept, strict=True):
            if "softReset" in group:
                soft = {name: group["softReset"][name][()] for name in group["softReset"]}
                layer.neuron.du.init, layer.neuron.dv.init = soft["iDecay"] - 1, soft["vDecay"]
                layer.neuron.vth.init = soft["vThMant"]
                weight = soft["weight"].reshape(-1, 1, 1, 1)
                shape = layer.neuron.s_out.shape
                layer.synapse_rec = Conv(weight=weight, input_shape=shape, groups=len(weight))
                layer.neuron.s_out.connect(layer.synapse_rec.s_in)
                layer.synapse_rec.a_out.connect(layer.neuron.a_in)
    return net


def run(path: str, inputs: Any) -> dict[str, Any]:
    """Run all samples, one behind the other.

    A layer that has a bias must start each sample when its first spike arrives, l + 1 steps after the input; lava's
    own reset does that. Where layers inhibit themselves (soft reset), a spike of a sample's last step would reach into
    the next one: there all states are cleared between samples, which are padded until the last layer is done.
    """
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg
    from lava.proc import io

    steps, samples = inputs.shape[:2]
    with h5py.File(path, "r") as file:
        groups = file["layer"]
        recurrent = any("weight_rec" in group or "softReset" in group for group in groups.values())
        never = int(np.max(groups[f"{len(groups) - 1}/neuron/vThMant"])) == 131071
    net = load(path, **({} if recurrent else {"reset_interval": steps, "reset_offset": 1}))
    depth = len(net.layers)
    each = steps + depth if recurrent else steps
    fed = np.zeros((samples * each + depth + 1, *inputs.shape[2:]), dtype=np.int32)
    for sample in range(samples):
        fed[sample * each : sample * each + steps] = inputs[:, sample]
    source = io.source.RingBuffer(data=_turned(fed))
    source.s_out.connect(net.inp)
    sinks = []
    for layer in net.layers:
        sinks.append(io.sink.RingBuffer(shape=layer.out.shape, buffer=len(fed)))
        (net.out if layer is net.out_layer else layer.out).connect(sinks[-1].a_in)
    totals = []
    try:
        for sample in range(samples):
            count = each if recurrent or sample else each + depth
            # the default configuration computes in floats, and differs
            net.run(condition=RunSteps(num_steps=count), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))
            totals.append(_turned(net.out_layer.neuron.v.get()).astype(np.int64) >> 6)
            if recurrent:
                _clear(net)
            print(DONE, sample + 1, flush=True)
        spikes = [_turned(sink.data.get()) for sink in sinks]
    finally:
        net.stop()
        net.net_config.f.close()
    if never and spikes[-1].any():
        raise SystemExit("the output layer fired: its voltage passed the largest threshold")
    aligned = []
    for i, seen in enumerate(spikes):
        starts = [sample * each + 1 + i for sample in range(samples)]
        aligned.append(np.stack([seen[start : start + steps] for start in starts], axis=1).astype(bool))
    *hidden, output = aligned
    found = {f"hidden_{i}": seen for i, seen in enumerate(hidden)}
    if output.any():
        found["output"] = output
    return {"total": np.stack(totals), **found}


def _clear(net: Any) -> None:
    """Forget currents, voltages, and what is on its way between layers."""
    for layer in net.layers:
        synapses = layer.synapse, getattr(layer, "synapse_rec", None), layer
        for owner, names in ((layer.neuron, "uv"), *((each, ["a_buff", "a_buf"]) for each in synapses)):
            for name in names:
                if hasattr(owner, name):
                    state = getattr(owner, name)
                    state.set(np.zeros_like(state.get()))


if __name__ == "__main__":
    _stub()
    np.savez_compressed(sys.argv[3], **run(sys.argv[1], np.load(sys.argv[2])["inputs"]))
