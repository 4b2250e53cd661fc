"""Runs under a Python that has lava: a file by lava-dl's own loader, ``hdf5.Network(path)``, and nothing of ours.

``lava_stock.py LAVA_SCRIPT.py NET INPUTS.npz OUTPUTS.npz`` feeds and writes what the script that spikec ships does.
"""

import runpy
import sys

import numpy as np

script = runpy.run_path(sys.argv[1])
script["_stub"]()

from lava.lib.dl.netx import hdf5  # noqa: E402 (needs the stubs)

run = script["run"]
run.__globals__["load"] = lambda path, **options: hdf5.Network(net_config=path, **options)
run.__globals__["_ours"] = str
with np.load(sys.argv[3]) as archive:
    inputs = archive["inputs"]
np.savez_compressed(sys.argv[4], **run(sys.argv[2], inputs))
