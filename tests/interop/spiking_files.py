"""Runs under a Python that has spikec and SpikingJelly or snnTorch: files of their models for every reader of NIR.

``spiking_files.py LIBRARY FOLDER`` leaves of each case FOLDER/PROFILE-N.nir, a network of float32, and its inputs x,
[T, B, ...], in PROFILE-N.npz; and in FOLDER/refused.json why a profile refuses a case.
"""

import itertools
import json
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

import spikec

sys.path.insert(0, str(Path(__file__).parent))  # also where Python is told not to look there
from spiking_real import T, jelly_cases, prepared

PROFILES = ("spikingjelly", "snntorch", "norse", "sinabs")


def spikingjelly():
    """One in four of the cases that our own import is held to."""
    return itertools.islice(jelly_cases(), 0, None, 4)


def snntorch():
    """Neurons that reset with their spike: a later reset no other tool has."""
    import snntorch

    for reset, kind, each in itertools.product(("subtract", "zero"), ("Leaky", "Synaptic"), (False, True)):

        def neurons(n, reset=reset, kind=kind, each=each):
            options = {"beta": torch.rand(n) if each else 0.7, "threshold": 0.7, "reset_mechanism": reset}
            more = {"alpha": 0.6} if kind == "Synaptic" else {}
            return getattr(snntorch, kind)(**options, **more, reset_delay=False, init_hidden=True, output=n == 5)

        yield f"{kind} {reset} {each}", nn.Sequential(nn.Linear(6, 9), neurons(9), nn.Linear(9, 5), neurons(5)), (6,)


def written(net, example, profile, path):
    """Whether the file is there, or why it is not."""
    try:
        spikec.save(spikec.compile(net, "nir", example_input=example, profile=profile, timesteps=T), path)
    except spikec.CompileError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.simplefilter("ignore", spikec.SpikecWarning)
    library, folder = sys.argv[1], Path(sys.argv[2])
    refused = {}
    for number, (case, net, shape) in enumerate({"spikingjelly": spikingjelly, "snntorch": snntorch}[library]()):
        net, x = prepared(net).float(), 3 * torch.randn(T, 3, *shape)
        several = any(getattr(module, "step_mode", "s") == "m" for module in net.modules())
        for profile in PROFILES:
            path = folder / f"{profile}-{number}.nir"
            if reason := written(net, x if several else x[0], profile, path):
                refused[f"{profile}, {case}"] = reason
            else:
                np.savez(path.with_suffix(".npz"), x=x.numpy())
    (folder / "refused.json").write_text(json.dumps(refused, indent=1))
