"""Several processes, each with its own part of the data: together they find what one does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import build
import spikec
from spikec import CalibrationError

X, LABELS = torch.rand(70, 2, 8, 6, generator=torch.Generator().manual_seed(0)), torch.arange(70) % 5
BATCHES = list(zip(X.split(10), LABELS.split(10), strict=True))

PROGRAM = """
import json
import os
import sys
from pathlib import Path
import numpy as np
import torch
from torch import distributed
import build
import spikec

torch.set_num_threads(1)
distributed.init_process_group("gloo")
rank, processes = distributed.get_rank(), distributed.get_world_size()
snn, batches = torch.load(f"{sys.argv[1]}/x.pt", weights_only=False)
mine = spikec.evaluate(snn, batches[rank::processes], 12, all_reduce=True)
last = spikec.evaluate(snn, batches if rank else [], 12, all_reduce=True)
np.save(f"{sys.argv[1]}/{rank}.npy", [mine, last])
model = build.residual()
compilation = spikec.Compiler("spikingjelly", calibration=batches[0][0].double(), normalization="max").run(model)
dealt = batches[1::2] if rank else batches[::2]
why = spikec.diagnose(compilation, dealt, 6, all_reduce=True)
how = spikec.diagnose(model, compilation.graph, dealt, timesteps=6, all_reduce=True)
Path(f"{sys.argv[1]}/{rank}.json").write_text(json.dumps([why.to_dict(), how.to_dict()]))
distributed.destroy_process_group()
threads = [Path(f"/proc/self/task/{each}/comm").read_text() for each in os.listdir("/proc/self/task")]
assert not any("gloo" in name for name in threads), threads  # else they may abort Python while it ends
"""


@pytest.mark.slow
def test_torchrun_evaluates_and_diagnoses_what_one_process_does(tmp_path):
    snn = spikec.compile(build.residual(), "spikingjelly", calibration=X.double(), normalization="max").float()
    torch.save((snn, BATCHES), tmp_path / "x.pt")
    (tmp_path / "evaluate.py").write_text(PROGRAM)
    path = [str(Path(build.__file__).parent), os.environ.get("PYTHONPATH", "")]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(tmp_path / "evaluate.py"), str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=env, timeout=300)
    whole = spikec.evaluate(snn, BATCHES, 12)
    assert len(set(whole)) > 2
    for rank in range(2):
        assert np.array_equal(np.load(tmp_path / f"{rank}.npy"), [whole, whole])
    model, threads = build.residual(), torch.get_num_threads()
    compilation = spikec.Compiler("spikingjelly", calibration=BATCHES[0][0].double(), normalization="max").run(model)
    torch.set_num_threads(1)
    why = spikec.diagnose(compilation, BATCHES, 6)
    how = spikec.diagnose(model, compilation.graph, BATCHES, timesteps=6)
    torch.set_num_threads(threads)
    for rank in range(2):
        assert (tmp_path / f"{rank}.json").read_text() == json.dumps([why.to_dict(), how.to_dict()])


@pytest.mark.slow
def test_processes_that_never_met():
    with pytest.raises(CalibrationError, match="not initialised"):
        spikec.evaluate(build.residual(), BATCHES, 2, all_reduce=True)
    compilation = spikec.Compiler("spikingjelly", calibration=X.double(), normalization="max").run(build.residual())
    with pytest.raises(CalibrationError, match="not initialised"):
        spikec.diagnose(compilation, BATCHES, 2, all_reduce=True)
