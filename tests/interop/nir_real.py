"""Runs under a Python that has one importer of NIR: what that tool makes of a file, as it is documented, untouched.

``nir_real.py TOOL FILE IN.npz OUT.npz`` imports FILE, runs it a step at a time, and leaves its output, [T, B, ...], in
OUT. IN holds x [T, B, ...] and dt in seconds, for the importers that have this argument.
"""

import sys

import nir
import numpy as np
import torch


def spikingjelly(path, x, dt):
    from spikingjelly.activation_based.nir_exchange import import_from_nir

    return with_state(import_from_nir(path, dt=dt), x)


def snntorch(path, x, _):
    from snntorch.import_nir import import_from_nir

    return with_state(import_from_nir(nir.read(path)), x)


def norse(path, x, dt):
    from norse.torch import from_nir

    return with_state(from_nir(nir.read(path), dt=dt), x)


def norse_soft(path, x, dt):
    """Its CubaLIF can subtract, where its caller says so."""
    from norse.torch import from_nir
    from norse.torch.functional.reset import reset_subtract

    return with_state(from_nir(nir.read(path), dt=dt, reset_method=reset_subtract), x)


def sinabs(path, x, _):
    from sinabs.nir import from_nir

    return with_state(from_nir(nir.read(path), batch_size=x.shape[1]), x)


def rockpool(path, x, _):
    """It takes all steps at once, as [B, T, ...]."""
    from rockpool.nn.modules.torch.nir import from_nir

    return from_nir(nir.read(path))(x.transpose(0, 1))[0].transpose(0, 1)


def with_state(net, x):
    outputs, state = [], None
    for step in x:
        y, state = net(step, state)
        outputs.append(y)
    return torch.stack(outputs)


TOOLS = {call.__name__: call for call in (spikingjelly, snntorch, norse, norse_soft, sinabs, rockpool)}

if __name__ == "__main__":
    torch.set_num_threads(1)
    tool, file, source, target = sys.argv[1:]
    with np.load(source) as archive:
        data = dict(archive)
    with torch.no_grad():
        output = TOOLS[tool](file, torch.from_numpy(data["x"]), float(data["dt"]))
    np.savez(target, output=output.numpy())
