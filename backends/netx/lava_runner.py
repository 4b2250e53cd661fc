"""Runs a netx file in lava's own simulation, in a Python that has lava."""

import collections
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs
import numpy as np
from torch import Tensor

from spikec.backends.netx.lava_script import DONE
from spikec.backends.netx.model import NetxNetwork
from spikec.ir.errors import InvalidModelError, MissingDependencyError
from spikec.ir.progress import Progress, shown, track
from spikec.ir.types import Array

_SCRIPT = Path(__file__).with_name("lava_script.py")
_INSTALL = (
    'in a Python 3.10: pip install lava-nc==0.10.0 h5py "numpy<2"; pip install --no-deps lava-dl==0.6.0; then say '
    "which Python that is: python="
)


@attrs.frozen(eq=False)
class LavaRun:
    """What lava computed; time-steps are aligned with the input's.

    Attributes:
        output: [B, ...] in the ANN's units, the mean over T; float64.
        inputs: bool [T, B, ...], what the file's first layer was fed.
        spikes: bool [T, B, ...] of each layer that fires, by the neuron's name in the graph, relays left out.
        total: int64 [B, ...], the output layer's summed current, or its number of spikes.
    """

    output: Array
    inputs: Array
    spikes: dict[str, Array]
    total: Array


def run_in_lava(
    model: NetxNetwork | str | os.PathLike[str],
    x: Tensor | Array,
    timesteps: int | None = None,
    *,
    python: str = "python3.10",
    progress: bool | Callable[[Progress], None] | None = None,
) -> LavaRun:
    """Run a network in lava's fixed-point simulation on the CPU, as Loihi 2 would run it.

    Args:
        model: what ``spikec.compile(..., "netx")`` returned, or the path of a file, of lava-dl's too.
        x: [B, ...] real inputs, which are encoded as :meth:`NetxNetwork.run` does; spikes [T, B, ...] where it takes
            those.
        timesteps: T; None for the T that the network was compiled for.
        python: an interpreter with lava-nc 0.10.0 and lava-dl 0.6.0, which are for Python 3.10; it needs neither torch
            nor spikec.
        progress: show how many samples have run, as in :func:`spikec.compile`.

    Raises:
        MissingDependencyError: there is no such interpreter, or no lava in it.
        InvalidModelError: the input does not fit, or lava failed; the message holds what it said.
    """
    net = model if isinstance(model, NetxNetwork) else NetxNetwork.load(model)
    if shutil.which(python) is None:
        raise MissingDependencyError(f"there is no interpreter {python!r}", hint=_INSTALL)
    inputs = net.encode(x, timesteps)
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder) / name) for name in ("net.net", "inputs.npz", "outputs.npz")]
        if isinstance(model, NetxNetwork):
            model.save(paths[0])
        else:
            paths[0] = os.path.abspath(model)  # the file itself, as lava reads it
        np.savez(paths[1], inputs=inputs)
        with shown(progress):
            _run([python, str(_SCRIPT), *paths], inputs.shape[1])
        with np.load(paths[2]) as arrays:
            found = dict(arrays)
    names = {layer.name: f"hidden_{i}" for i, layer in enumerate(net.layers[:-1])}
    if net.layers[-1].fires:
        names[net.layers[-1].name] = "output"
    spikes: dict[str, Array] = {}
    for layer in net.layers:
        if layer.name in names:
            none = np.zeros((*inputs.shape[:2], *layer.shape), dtype=bool)
            seen = found.get(names[layer.name], none).reshape(none.shape)
            spikes[layer.name] = seen[:, :, : layer.shape[0] - layer.relays]
    total = spikes[net.layers[-1].name].sum(0) if net.layers[-1].fires else found["total"]
    total = total.reshape(inputs.shape[1], *net.output_shape)
    return LavaRun(total / len(inputs) * net.output_scale, inputs, spikes, total)


def _run(command: Sequence[str], samples: int) -> None:
    """Run the script, and tell who watches how many samples are done."""
    with tempfile.TemporaryFile("w+") as errors:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process:
            assert process.stdout is not None
            try:
                done = (line for line in process.stdout if line.startswith(DONE))
                collections.deque(track(done, "samples in lava", samples), maxlen=0)
            except BaseException:  # an interrupt, or an error of who watches
                process.kill()
                raise
        if process.returncode:
            errors.seek(0)
            said = (errors.read().strip().splitlines() or ["nothing was said"])[-1]
            if "ModuleNotFoundError" in said:
                raise MissingDependencyError(f"{command[0]} has no lava: {said}", hint=_INSTALL)
            raise InvalidModelError(f"lava failed: {said}")
