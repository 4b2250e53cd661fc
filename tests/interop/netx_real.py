"""Runs a .net in real lava and compares it with what spikec's simulation did.

    python netx_real.py NET TRACE.npz

runs under an interpreter with lava-nc 0.10.0 and lava-dl 0.6.0 (Python 3.10; torch is not needed, see
README.md). TRACE.npz holds ``inputs`` [T, B, ...], ``hidden_<l>`` [T, B, ...] for each hidden layer with its
relays, and ``total`` [B, ...]. Prints one line a sample; exit code 0 only if no spike and no output differs.
"""

import sys
import types

import h5py
import numpy as np


def stub():
    """What netx imports and does not use on this path: torch and slayer, 5 GB of them."""
    if sys.version_info[:2] != (3, 10):
        raise SystemExit("lava-dl 0.6.0 runs on Python 3.10")
    for name in ("torch", "lava.lib.dl.slayer", "lava.lib.dl.slayer.neuron", "lava.lib.dl.slayer.neuron.rf"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["torch"].Tensor = sys.modules["torch"].tensor = object
    sys.modules["lava.lib.dl.slayer.neuron.rf"].neuron_params = None


stub()

from lava.lib.dl.netx import hdf5  # noqa: E402
from lava.magma.core.run_conditions import RunSteps  # noqa: E402
from lava.magma.core.run_configs import Loihi2SimCfg  # noqa: E402
from lava.proc import io  # noqa: E402


def to_lava(x):
    """[T, ...] in torch order to [..., T] in lava's, (W, H, C, T)."""
    return x.transpose(*range(x.ndim - 1, -1, -1))


def run_sample(path, inputs):
    """One sample: spikes [T, ...] of each hidden layer in torch order, and the output's summed current."""
    steps = len(inputs)
    with h5py.File(path, "r") as file:
        biased = any("bias" in layer for layer in file["layer"].values())
    # a layer with a bias must not start before its first input arrives; layers without need nothing
    reset = {"reset_interval": 10 * steps, "reset_offset": 1} if biased else {}
    net = hdf5.Network(net_config=path, **reset)
    depth = len(net.layers)
    padded = np.concatenate([inputs, np.zeros((depth + 1, *inputs.shape[1:]), inputs.dtype)])
    source = io.source.RingBuffer(data=to_lava(padded.astype(np.int32)))
    source.s_out.connect(net.inp)
    sinks = []
    for layer in net.layers[:-1]:
        sink = io.sink.RingBuffer(shape=layer.out.shape, buffer=steps + depth)
        layer.out.connect(sink.a_in)
        sinks.append(sink)
    silent = io.sink.RingBuffer(shape=net.layers[-1].out.shape, buffer=steps + depth)
    net.out.connect(silent.a_in)
    try:
        # the output layer's voltage is complete at the step in which it gets the last spike
        net.run(condition=RunSteps(num_steps=steps + depth), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))
        hidden = [to_lava(sink.data.get())[1 + i : 1 + i + steps] for i, sink in enumerate(sinks)]
        fired = int(silent.data.get().sum())
        voltage = net.out_layer.neuron.v.get()
        total = to_lava(voltage).astype(np.int64) >> 6
    finally:
        net.stop()
        net.net_config.f.close()
    if fired:
        raise SystemExit("the output layer fired")
    return hidden, total


def main(path, trace_path):
    """Compare every sample."""
    trace = np.load(trace_path)
    layers = sum(key.startswith("hidden_") for key in trace.files)
    wrong = 0
    for sample in range(trace["inputs"].shape[1]):
        hidden, total = run_sample(path, trace["inputs"][:, sample])
        if len(hidden) != layers:
            raise SystemExit(f"netx has {len(hidden)} hidden layers, the trace {layers}")
        spikes = differ = 0
        for i, found in enumerate(hidden):
            wanted = trace[f"hidden_{i}"][:, sample]
            spikes += int(wanted.sum())
            differ += int((found.astype(bool) != wanted).sum())
        outputs = int((total.reshape(-1) != trace["total"][sample].reshape(-1)).sum())
        print(f"sample {sample}: {differ} of {spikes} spikes differ, {outputs} of {total.size} outputs differ")
        wrong += differ + outputs
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
