"""Mutates files of strangers and reads them: every one must give a spikec error or a result, soon and in little memory.

    python tests/mutated_files.py FORMAT COUNT [FIRST]

reads COUNT mutated files of a FORMAT (nir, net, npz, pt2, pt for weights, or pth for networks that spikec wrote), those
of the seeds from FIRST on, and prints what came of them; it fails if one raised anything but a spikec error, crashed,
took more than 5 s, or more than 1 GB. A process reads one file after the other, with a limit on its memory, and is
started anew where it died or hangs. The process that reads an HDF5 file is forked here instead of started, which is the
same program and a hundred times as fast.
"""

import collections
import contextlib
import io
import json
import os
import resource
import selectors
import subprocess
import sys
import tempfile
import traceback
import warnings
import zipfile
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import nn

import spikec
from spikec.backends.netx.model import NetxNetwork
from spikec.ir import untrusted, untrusted_hdf5

SECONDS, MEMORY = 5, 1 << 30

# ------------------------------------------------------------------ good files


def make(folder):
    """Write the good files, whose mutations are read: several of each format."""
    torch.manual_seed(0)
    mlp, x = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval(), torch.rand(64, 4)
    pool = (nn.AvgPool2d(2), nn.Flatten())
    cnn = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), *pool, nn.Linear(64, 5)).eval()
    images = torch.rand(64, 1, 8, 8)
    for name, model, data in (("mlp", mlp, x), ("cnn", cnn, images)):
        spikec.save(spikec.compile(model, "nir", calibration=data, timesteps=8), folder / f"{name}.nir")
        spikec.save(
            spikec.compile(model, "netx", calibration=data, timesteps=8, reset="soft" if name == "mlp" else "hard"),
            folder / f"{name}.net",
        )
        spikec.calibrate(model, data).save(folder / f"{name}.npz")
        torch.save(model.state_dict(), folder / f"{name}.pt")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", spikec.SpikecWarning)  # that it is not called .pt, as the weights are here
            spikec.save(spikec.compile(model, "spikingjelly", calibration=data), folder / f"{name}.pth")
        batch = torch.export.Dim("batch") if name == "mlp" else None
        program = torch.export.export(model, (data,), dynamic_shapes=({0: batch},) if batch else None)
        torch.export.save(program, folder / f"{name}.pt2")
        for suffix in (".nir", ".net"):  # the newer layout of HDF5, which packs groups in another way
            source, latest = folder / f"{name}{suffix}", folder / f"{name}_latest{suffix}"
            with h5py.File(source) as old, h5py.File(latest, "w", libver="latest") as new:
                for key in old:
                    old.copy(key, new)


# ------------------------------------------------------------------ mutations

NUMBERS = (0, 1, -1, 2, 255, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1)


def flip(raw, rng):
    """Change some bytes, anywhere or near the start, or cut the end off."""
    raw = raw or b"0"
    data = bytearray(raw[: rng.integers(1, len(raw) + 1)] if rng.random() < 0.2 else raw)
    for _ in range(int(rng.choice([1, 2, 4, 8, 16]))):
        at = int(rng.integers(0, len(data) if rng.random() < 0.7 else min(len(data), 2048)))
        kind = rng.integers(0, 3)
        if kind == 0:
            data[at] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1:
            data[at] = int(rng.integers(0, 256))
        else:
            width = int(rng.choice([2, 4, 8]))
            number = int(rng.choice([0, 1, 255, 65535, 2**31 - 1, 2**32 - 1, len(raw), int(rng.integers(len(raw)))]))
            data[at : at + width] = (number % 2 ** (8 * width)).to_bytes(width, "little")
    return bytes(data[: len(raw) + 16])


def value(rng):
    """Give something that a file should not hold in most places."""
    shape = [(), (1,), (3,), (2, 3), (0,), (1, 1, 1, 1), (4, 4)][rng.integers(0, 7)]
    choices = (
        lambda: np.full(shape, rng.choice(NUMBERS), dtype=np.uint64),
        lambda: np.full(shape, rng.choice([-1, -(2**40), 7]), dtype=np.int64),
        lambda: np.full(shape, rng.choice([np.nan, np.inf, -1.0, 1e300, 1e-320, 0.5]), dtype=np.float64),
        lambda: np.full(shape, -2.0, dtype=np.float16),
        lambda: rng.normal(size=shape).astype(">f4"),
        lambda: np.full(shape, True),
        lambda: np.full(shape, 1 + 2j),
        lambda: "text",
        lambda: "x" * 5000,
        lambda: np.array([b"bytes", b"\xff\xfe"]),
        lambda: np.zeros(2, dtype=[("a", "i4"), ("b", "f4")]),
    )
    return choices[rng.integers(0, len(choices))]()


def edit_array(array, rng):
    """Give an array that is nearly the same."""
    choices = (
        lambda: array.astype(rng.choice(["i1", "i8", "f8", "f2", "S3", "u8"])),
        lambda: np.where(rng.random(array.shape) < 0.3, array * rng.choice([-1, 0, 2, 1e6, np.nan]), array),
        lambda: array.T,
        lambda: np.concatenate([np.atleast_1d(array)] * 2),
        lambda: np.atleast_1d(array)[:-1],
    )
    return choices[rng.integers(0, len(choices))]()


def edit_hdf5(raw, rng):
    """Change, add, move and remove what an HDF5 file holds."""
    buffer = io.BytesIO(raw)
    with h5py.File(buffer, "r+") as file:
        for _ in range(int(rng.choice([1, 1, 2, 4]))):
            places = []
            file.visit(places.append)
            if places:
                edit_place(file, str(rng.choice(places)), places, rng)
    return buffer.getvalue()


def edit_place(file, place, places, rng):
    """Do one thing to a group or dataset."""
    other = str(rng.choice(places))
    parent = file[place.rpartition("/")[0] or "/"]
    name = place.rpartition("/")[2]
    new = str(rng.choice([name, name + "_", "weight", "v_reset", "metadata", "x" * 2000, "\n", "Ω", "type", "dt"]))

    def put(thing):
        if name in parent:
            del parent[name]
        parent[name] = thing

    def bomb():
        if name in parent:
            del parent[name]
        parent.create_dataset(name, shape=(30000, 30000), dtype="f4", chunks=(3000, 3000), compression="gzip")

    def dataset():
        held = file[place]  # maybe a bomb by now
        if isinstance(held, h5py.Dataset) and held.dtype.kind in "biuf" and held.size < 1_000_000:
            put(edit_array(np.asarray(file[place][()]), rng))

    choices = (
        lambda: parent.pop(name),
        lambda: put(value(rng)),
        lambda: put(value(rng)),
        lambda: put(h5py.SoftLink("/" + other)),
        lambda: put(h5py.ExternalLink("other.h5", "/x")),
        lambda: put(file[other]),
        lambda: put(file[other].ref),
        lambda: put(h5py.Empty("f4")),
        lambda: parent.move(name, new),
        lambda: file.copy(file[other], parent, new) if len(places) < 500 else None,
        lambda: parent.__setitem__(new, value(rng)),
        bomb,
        lambda: put(file[other][()]) if getattr(file[other], "size", 0) < 1_000_000 else None,
        *[dataset] * 5,
    )
    with contextlib.suppress(KeyError, ValueError, TypeError, OSError, AttributeError, RuntimeError):
        choices[rng.integers(0, len(choices))]()  # where this place has it


def edit_zip(raw, rng):
    """Change the parts of a zip: their headers, data, names and how they are packed."""
    with zipfile.ZipFile(io.BytesIO(raw)) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    names = list(parts)
    for _ in range(int(rng.choice([1, 1, 2, 4]))):
        name, other = (str(each) for each in rng.choice(names, 2))
        kind = rng.integers(0, 11)
        if kind == 0:
            parts.pop(name, None)
        elif kind == 1 and name in parts:
            parts[name] = flip(parts[name], rng)
        elif kind == 2 and other in parts:
            parts[name] = parts[other]
        elif kind == 3:
            buffer = io.BytesIO()
            np.save(buffer, value(rng), allow_pickle=False)
            parts[name] = buffer.getvalue()
        elif kind == 4:
            array = np.array([{"a": 1}], dtype=object)
            buffer = io.BytesIO()
            np.save(buffer, array, allow_pickle=True)
            parts[name] = buffer.getvalue()
        elif kind == 5 and name in parts:
            shape = str(rng.choice(["(1000000000000,)", "(-1,)", "()", "(3, 7)", "'x'"]))
            header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
            parts[name] = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + parts[name][128:]
        elif kind == 6 and name in parts:
            parts[str(rng.choice(["shape_1.npy", "marks.npy", "../x.npy", "a/maximum.npy"]))] = parts[name]
        elif kind == 7:
            parts[name] = b"0" * int(rng.choice([0, 10, 10_000_000]))
        elif parts.get(name, b"").startswith(b"\x93NUMPY"):
            buffer = io.BytesIO()
            with contextlib.suppress(ValueError, EOFError, TypeError, MemoryError):  # it may be broken already
                np.save(buffer, edit_array(np.load(io.BytesIO(parts[name])), rng))
                parts[name] = buffer.getvalue()
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w") as file:
        warnings.simplefilter("ignore")
        for name, data in parts.items():
            rare = rng.random() < 0.01
            how = zipfile.ZIP_BZIP2 if rare else rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
            file.writestr(name, data, compress_type=int(how))
            if rng.random() < 0.01:
                file.writestr(name, data)
    return buffer.getvalue()


def mutated(folder, kind, seed):
    """Return the bytes of the mutated file of a seed."""
    rng = np.random.default_rng(seed)
    sources = sorted(folder.glob(f"*.{kind}"))
    raw = sources[seed // 2 % len(sources)].read_bytes()
    if seed % 2:
        return flip(raw, rng)
    return edit_hdf5(raw, rng) if kind in ("nir", "net") else edit_zip(raw, rng)


# ------------------------------------------------------------------ reading


def use_graph(path):
    graph = spikec.load(path)
    xs = [torch.rand(2, *graph.type(name).shape, dtype=getattr(torch, graph.type(name).dtype)) for name in graph.inputs]
    spikec.run(graph, xs, 2 if graph.is_spiking else None)


def use_net(path):
    model = NetxNetwork.load(path)
    model.run(torch.zeros(3, 1, *model.fed_shape) if model.encoder is None else torch.rand(1, *model.encoder.shape), 3)
    repr(model.summary())
    with contextlib.suppress(spikec.UnsupportedOpError):
        model.to_graph()


def use_npz(path):
    found = spikec.Calibration.load(path)
    for statistics in found.nodes.values():
        statistics.percentile(99.9)
        statistics.layer().bins()
    found.merge(found)


def use_pt(path):
    untrusted.read_weights(path)


USES = {"nir": use_graph, "net": use_net, "npz": use_npz, "pt": use_pt, "pth": use_graph, "pt2": use_graph}


def processor_seconds():
    """Return the processor time of this process and those that it has waited for; other load does not count."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def own_peak():
    """Return the most bytes that this program had; getrusage counts what started it too."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


class Forked:
    """What :mod:`spikec.ir.untrusted` starts, as a fork of this process."""

    def __init__(self, task):
        ours, theirs = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.dup2(theirs, 1)
            os.close(ours)
            sys.stdin, sys.stdout = io.StringIO(json.dumps(task) + "\n"), os.fdopen(1, "w", closefd=False)
            try:
                untrusted_hdf5.main()
            finally:
                os._exit(0)
        os.close(theirs)
        self.stdout = os.fdopen(ours, "rb")
        self.code = None

    def kill(self):
        if self.code is None:
            os.kill(self.pid, 9)

    def wait(self):
        if self.code is None:
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.code


def work(folder, kind, first, end):
    """Read the files of some seeds; says on stdout, in lines of JSON, which is next and what came of it."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    untrusted._start = Forked
    path = folder / "mutated" / f"{os.getpid()}.{kind}"
    path.parent.mkdir(exist_ok=True)
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY, mapped + MEMORY))
    for seed in range(first, end):
        path.write_bytes(mutated(folder, kind, seed))
        print(json.dumps({"next": seed}), flush=True)
        start, said = processor_seconds(), "a result"
        try:
            USES[kind](path)
        except spikec.CompileError as error:
            told = all(problem.message and problem.hint for problem in error.problems)
            said = "a spikec error" if told else f"an error without a hint: {error}"
        except BaseException as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            said = f"{type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}"
        peak = max(own_peak(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
        print(json.dumps({"said": said, "seconds": processor_seconds() - start, "peak": peak}), flush=True)
    path.unlink()


def outcomes(folder, kind, count, first=0):
    """Read mutated files of the good ones in a folder.

    Returns:
        By what came of them, their seeds; the slowest's processor time in seconds; the largest peak memory in bytes.
    """
    found, slowest, peak, seed, end = collections.defaultdict(list), 0.0, 0, first, first + count
    while seed < end:
        command = [sys.executable, __file__, "work", str(folder), kind, str(seed), str(end)]
        modules = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}  # as this process finds them
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=modules) as worker:
            selector = selectors.DefaultSelector()
            selector.register(worker.stdout, selectors.EVENT_READ)
            while seed < end:
                said = None
                if selector.select(60):  # the first answer comes behind a slow import
                    line = worker.stdout.readline()
                    said = json.loads(line) if line else {"said": f"the process ended with {worker.wait()}"}
                else:
                    worker.kill()
                    said = {"said": "it hangs"}
                if "said" not in said:
                    seed = said["next"]
                    continue
                slow = said.get("seconds", 0.0)
                slowest, peak = max(slowest, slow), max(peak, said.get("peak", 0))
                found["it took too long" if slow > SECONDS else said["said"]].append(seed)
                seed += 1
                if "seconds" not in said:
                    break
    return dict(found), slowest, peak


if __name__ == "__main__":
    if sys.argv[1] == "work":
        work(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
        sys.exit()
    with tempfile.TemporaryDirectory(prefix="spikec-") as made:
        make(Path(made))
        found, slowest, peak = outcomes(made, sys.argv[1], int(sys.argv[2]), int((sys.argv[3:] or ["0"])[0]))
    for said, seeds in found.items():
        print(f"{len(seeds):6} {said}", "" if said in ("a result", "a spikec error") else seeds[:10])
    print(f"slowest {slowest:.2f} s, largest peak of a process {peak / 2**20:.0f} MB")
    sys.exit(not found.keys() <= {"a result", "a spikec error"} or peak > MEMORY)
