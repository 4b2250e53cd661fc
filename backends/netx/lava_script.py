"""Runs a .net in lava's own simulation; a script for a Python that has lava, and need not have spikec or torch.

    python lava_script.py NET INPUTS.npz OUTPUTS.npz

INPUTS.npz holds ``inputs`` [T, B, ...], the spikes that the file's first layer is fed, in torch's order. OUTPUTS.npz
then holds ``hidden_<l>`` [T, B, ...], the spikes of each layer but the last, ``total`` [B, ...], the last layer's
summed current in units of its weights, and where that layer fires ``output`` [T, B, ...], its spikes; time-steps are
aligned with the input's.
"""

import io
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


def _ours(path: str) -> Any:
    """Return the file, or where it holds a network that stock netx does not read, one in memory of that alone."""
    with h5py.File(path, "r") as file:
        if "layer" not in file.get("spikec", {}):
            return path
        memory = io.BytesIO()
        with h5py.File(memory, "w") as alone:
            file.copy("spikec/layer", alone, "layer")
    return memory


def load(path: str, **options: Any) -> Any:
    """Load a file as lava's ``hdf5.Network``, with soft reset behind convolutions where the file asks for it.

    netx has no such layer: to it these neurons have hard reset. Here their current becomes their potential, from which
    a spike takes off the threshold, by a connection of each neuron to itself. A file may hold a network of its own for
    stock netx, in ``layer``; then ours is in ``spikec/layer``.

    Args:
        path: of the file.
        options: of ``hdf5.Network``.
    """
    from lava.lib.dl.netx import hdf5
    from lava.proc.conv.process import Conv

    source = _ours(path)
    net = hdf5.Network(net_config=source, **options)
    with h5py.File(source, "r") as file:
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
    """Run all samples, one behind the other, in one network.

    A layer starts a sample when its first spike arrives, l + 1 steps after the input. Lava's own reset clears currents
    and voltages there. Of layers that have spikes come back to them (soft reset), those of a sample's last step would
    arrive in the next one; lava's ``Reset`` clears them.

    Spikes leave lava step by step through its ``Extractor``: lava reads and writes variables number by number, which
    takes longer than all the rest.
    """
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg
    from lava.proc import io

    steps, samples = inputs.shape[:2]
    with h5py.File(_ours(path), "r") as file:
        never = int(np.max(file[f"layer/{len(file['layer']) - 1}/neuron/vThMant"])) == 131071
    net = load(path, reset_interval=steps, reset_offset=1)
    depth = len(net.layers)
    fed = np.zeros((samples * steps + depth + 1, *inputs.shape[2:]), dtype=np.int32)
    fed[: samples * steps] = np.moveaxis(inputs, 1, 0).reshape(-1, *inputs.shape[2:])
    source = io.source.RingBuffer(data=_turned(fed))
    source.s_out.connect(net.inp)
    taps, resets = [], []
    for i, layer in enumerate(net.layers):
        taps.append(io.extractor.Extractor(shape=layer.out.shape, buffer_size=steps + depth + 1))
        (net.out if layer is net.out_layer else layer.out).connect(taps[-1].in_port)
        if hasattr(layer, "synapse_rec"):
            resets.append(io.reset.Reset(interval=steps, offset=i))
            back = layer.synapse_rec
            resets[-1].connect_var(back.a_buff if hasattr(back, "a_buff") else back.a_buf)
    totals: list[Any] = []
    spikes: list[list[Any]] = [[] for _ in taps]
    # the default configuration computes in floats, and differs; the extractor has no model that says which it does
    models = {io.extractor.Extractor: io.extractor.PyLoihiExtractorModel}
    config = Loihi2SimCfg(select_tag="fixed_pt", exception_proc_model_map=models)
    try:
        for sample in range(samples):
            count = steps if sample else steps + depth
            net.run(condition=RunSteps(num_steps=count), run_cfg=config)
            for tap, seen in zip(taps, spikes, strict=True):
                seen.extend(_turned(tap.receive()) != 0 for _ in range(count))
            totals.append(_turned(net.out_layer.neuron.v.get()).astype(np.int64) >> 6)
            print(DONE, sample + 1, flush=True)
    finally:
        net.stop()
        net.net_config.f.close()
    if never and np.any(spikes[-1]):
        raise SystemExit("the output layer fired: its voltage passed the largest threshold")
    *hidden, output = (
        np.stack(seen[i + 1 : i + 1 + samples * steps]).reshape(samples, steps, *seen[0].shape).swapaxes(0, 1)
        for i, seen in enumerate(spikes)
    )
    found = {f"hidden_{i}": seen for i, seen in enumerate(hidden)}
    if output.any():
        found["output"] = output
    return {"total": np.stack(totals), **found}


if __name__ == "__main__":
    _stub()
    with np.load(sys.argv[2]) as archive:
        inputs = archive["inputs"]
    np.savez_compressed(sys.argv[3], **run(sys.argv[1], inputs))
