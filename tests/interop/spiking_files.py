"""Runs under a Python that has spikec and SpikingJelly or snnTorch: files of their models for every reader of NIR.

``spiking_files.py LIBRARY FOLDER`` leaves, of some of :mod:`spiking_real`'s cases, FOLDER/PROFILE-N.nir, a network of
float32 with its inputs x [T, B, ...] in PROFILE-N.npz; and in FOLDER/refused.json why a profile refuses a case.
"""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from spiking_real import T, jelly_cases, prepared, snntorch_cases

import spikec

PROFILES = ("spikingjelly", "snntorch", "norse", "sinabs")
#: of how many cases one is taken
EVERY = 4


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
    for number, (case, net, shape) in enumerate({"spikingjelly": jelly_cases, "snntorch": snntorch_cases}[library]()):
        if number % EVERY:
            continue
        net, x = prepared(net).float(), 3 * torch.randn(T, 3, *shape)
        several = any(getattr(module, "step_mode", "s") == "m" for module in net.modules())
        for profile in PROFILES:
            path = folder / f"{profile}-{number}.nir"
            if reason := written(net, x if several else x[0], profile, path):
                refused[f"{profile}, {case}"] = reason
            else:
                np.savez(path.with_suffix(".npz"), x=x.numpy())
    (folder / "refused.json").write_text(json.dumps(refused, indent=1))
