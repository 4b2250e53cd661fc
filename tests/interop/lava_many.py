"""Runs under a Python that has lava: every ``*.net`` of a folder, in one process, on the inputs of the same name.

``lava_many.py LAVA_SCRIPT.py FOLDER`` reads ``NAME.net`` and ``NAME.in.npz``, and writes ``NAME.out.npz``, as the
script that spikec ships does of one network.
"""

import runpy
import sys
from pathlib import Path

import h5py
import numpy as np

script = runpy.run_path(sys.argv[1])
script["_stub"]()
for path in sorted(Path(sys.argv[2]).glob("*.net")):
    with np.load(path.with_suffix(".in.npz")) as archive:
        inputs = archive["inputs"]
    np.savez_compressed(path.with_suffix(".out.npz"), **script["run"](str(path), inputs))
    with h5py.File(path, "r+"):  # netx would keep it open, and nobody could write it again
        pass
