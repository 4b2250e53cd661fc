"""Files made by hand to do harm or to be misread: for each what makes it of a good one, and what its refusal says.

``PYTHONPATH=tests python tests/hostile_files.py`` reads them all and prints processor time and peak memory of each, the
worst last.
"""

import io
import json
import os
import pickle
import re
import resource
import subprocess
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path

import h5py
import nir
import numpy as np
import torch

import mutated_files
import spikec
from spikec.ir import untrusted

FILES = {}


def hostile(name, good, says):
    """Register a function that turns the copy of a good file at a path into a hostile one."""

    def add(change):
        FILES[name] = (good, change, says)
        return change

    return add


# ------------------------------------------------------------------ HDF5

W, N, C, P = "node/nodes/n2_linear_2", "node/nodes/n1_relu_1", "node/nodes/n0_conv2d_0", "node/nodes/n2_avgpool2d_2"


def changed(change):
    def apply(path):
        with h5py.File(path, "r+") as file:
            change(file)

    return apply


def put(place, thing, **options):
    """Return a change that replaces what is at a place."""

    def change(file):
        if place in file:
            del file[place]
        if options:
            file.create_dataset(place, **options)
        else:
            file[place] = thing() if callable(thing) else thing

    return changed(change)


def scaled(place, factor):
    def change(file):
        file[place][...] = np.asarray(file[place][()] * factor)

    return changed(change)


def stands_for(place, make):
    """Return a change that puts there what ``make`` gives for the file."""

    def change(file):
        thing = make(file)
        if place in file:
            del file[place]
        file[place] = thing

    return changed(change)


def virtual(file):
    layout = h5py.VirtualLayout((3, 6), "f4")
    layout[...] = h5py.VirtualSource("other.h5", "weight", (3, 6))
    del file[f"{W}/weight"]
    file.create_virtual_dataset(f"{W}/weight", layout)


def bomb(file):
    """Store 3 GB of zeros in 3 MB."""
    del file[f"{W}/weight"]
    size = 10_000_000
    dataset = file.create_dataset(f"{W}/weight", (75, size), "f4", chunks=(1, size), compression="gzip")
    packed = zlib.compress(bytes(4 * size))
    for row in range(75):
        dataset.id.write_direct_chunk((row, 0), packed)


def deep(file):
    group = file["node/nodes"]
    for _ in range(1000):
        group = group.create_group("g")


def doubled(file):
    """Make groups that hold the next one twice: 2^30 ways through 30 groups."""
    group = file["node"]
    for _ in range(30):
        inner = group.create_group("a")
        group["b"] = inner
        group = inner


def same_text(path):
    """Store one text of a megabyte, and 200,000 references to it."""
    with h5py.File(path, "r+") as file:
        dataset = file.create_dataset("node/metadata/many", (200_000,), h5py.string_dtype())
        dataset[0] = "x" * 1_000_000
        start = dataset.id.get_offset()
    data = bytearray(path.read_bytes())
    data[start : start + 16 * 200_000] = bytes(data[start : start + 16]) * 200_000
    path.write_bytes(data)


def heap(size):
    """Return a change of the size of the second text in a heap: such as made HDF5 2.0 run in circles, or crash."""

    def apply(path):
        data = bytearray(path.read_bytes())
        for found in re.finditer(b"GCOL", bytes(data)):
            first = found.start() + 16
            second = first + 16 + (int.from_bytes(data[first + 8 : first + 16], "little") + 7) // 8 * 8
            data[second + 8 : second + 16] = size.to_bytes(8, "little")
        path.write_bytes(data)

    return apply


def sparse(file):
    del file[f"{W}/weight"]
    file.create_dataset(f"{W}/weight", (10**11,), "f8")[-1] = 1.0


def instead(make):
    def apply(path):
        path.unlink()
        make(path)

    return apply


def leaky(change):
    """Return a change that writes a net with a LIF neuron whose fields are changed."""

    def apply(path):
        fields = dict.fromkeys(("tau", "r", "v_leak", "v_threshold", "v_reset"), np.ones(4)) | change
        nodes = {"input": nir.Input(np.array([4])), "lif": nir.LIF(**fields), "output": nir.Output(np.array([4]))}
        edges = [("input", "lif"), ("lif", "output")]
        nir.write(path, nir.NIRGraph(nodes, edges, metadata={"dt": 1e-4, "reset": "value"}, type_check=False))

    return apply


IS_NO_FILE = "no ordinary file"
for name, change, says in (
    ("external storage", put(f"{W}/weight", None, shape=(3, 6), dtype="f4", external=[("x.bin", 0, 72)]), "external"),
    ("an external link", put(f"{W}/weight", h5py.ExternalLink("other.h5", "/weight")), "link to elsewhere"),
    ("a soft link", put(f"{W}/weight", h5py.SoftLink("/node/nodes")), "link to elsewhere"),
    ("a virtual dataset", changed(virtual), "virtual"),
    (
        "a weight that is not there",
        put(f"{W}/weight", None, shape=(200_000, 200_000), dtype="f4", chunks=(1000, 1000), compression="gzip"),
        "0 are stored",
    ),
    ("3 GB in 3 MB", changed(bomb), "3,000,000"),
    ("800 GB in a file with a hole", changed(sparse), "800,000,000"),
    ("a group that holds itself", stands_for("node/nodes/loop", lambda file: file["node"]), "holds itself"),
    ("groups 1000 deep", changed(deep), "deep in each other"),
    ("groups that hold the next one twice", changed(doubled), "stands at two places"),
    ("a text 200,000 times", same_text, "metadata/many"),
    ("a text of size 0", heap(0), "cannot be read as NIR"),
    ("a text whose end is its start", heap(2**64 - 16), "cannot be read as NIR"),
    ("a text of 2^58 bytes", heap(2**58), "cannot be read as NIR"),
    ("a name of 60,000 letters", put("node/nodes/" + "x" * 60_000, 1.0), "more than 1000"),
    ("a name that clears the screen", put("node/nodes/\x1b[2J", 1.0), "cannot be printed"),
    ("no data", put(f"{W}/weight", h5py.Empty("f4")), "without data"),
    ("records", put(f"{W}/weight", np.zeros(3, dtype=[("a", "i4")])), "neither numbers nor texts"),
    ("references", stands_for(f"{W}/weight", lambda file: file["node"].ref), "neither numbers nor texts"),
    ("arrays of any length", put(f"{W}/weight", None, shape=(3,), dtype=h5py.vlen_dtype("f4")), "neither numbers"),
    ("a text for a weight", put(f"{W}/weight", "heavy"), "its weight is 'heavy', and must be numbers"),
    ("a weight of one axis", put(f"{W}/weight", np.ones(6)), "a weight has 2 axes"),
    ("a bias that does not fit", put(f"{W}/bias", np.ones(4)), "bias of shape (4,)"),
    ("an empty weight", put(f"{W}/weight", np.ones((0, 6))), "its weight has no numbers"),
    ("NaN in a weight", scaled(f"{W}/weight", np.nan), "18 of 18 numbers in its weight are NaN"),
    ("infinity in a bias", scaled(f"{W}/bias", np.inf), "in its bias are NaN or infinite"),
    ("a negative threshold", scaled(f"{N}/v_threshold", -1), "its v_threshold is -"),
    ("thresholds of zero", scaled(f"{N}/v_threshold", 0), "its v_threshold is 0, and must be positive"),
    ("a negative tau", leaky({"tau": -np.ones(4)}), "its tau is -1, and must be positive"),
    ("NaN for one tau", leaky({"tau": np.array([1, 1, np.nan, 1])}), "1 of 4 numbers in its tau are NaN"),
    ("an infinite leak", leaky({"v_leak": np.full(4, np.inf)}), "in its v_leak are NaN or infinite"),
    ("r = 0", leaky({"r": np.zeros(4), "tau": np.full(4, 1e-9)}), "its tau is 1e-09 s, and a step 0.0001 s"),
    ("another number of neurons", put(f"{N}/v_threshold", np.ones(5)), "n1_relu_1"),
    ("an unknown node", put(f"{N}/type", "Neuron"), "n1_relu_1"),
    ("a node without a type", changed(lambda file: file.__delitem__(f"{N}/type")), "n1_relu_1"),
    ("a node without a field", changed(lambda file: file.__delitem__(f"{N}/r")), "n1_relu_1"),
    ("a node with a field more", put(f"{N}/colour", 1.0), "colour"),
    ("a node that is a number", put("node/nodes/five", 5.0), "five"),
    ("an input of 2^40 numbers", put("node/nodes/input/shape", [2**40]), "max_bytes"),
    ("an input of no size", put("node/nodes/input/shape", [-4]), "its shape is -4"),
    ("an input of a text", put("node/nodes/input/shape", "four"), "its shape is 'four'"),
    ("axes by name", put("node/nodes/input/metadata/axes", "last"), "its metadata axes is 'last'"),
    ("axes of another rank", put("node/nodes/input/metadata/axes", [1, 0]), "of a sample that has 1"),
    ("a negative model_shape", put("node/nodes/input/metadata/model_shape", [-4]), "its metadata model_shape is -4"),
    ("a huge model_shape", put("node/nodes/input/metadata/model_shape", [2**40]), "input"),
    ("an edge to nobody", put("node/edges", np.array([["input", "x"]], dtype=object)), "not in the graph"),
    ("edges of numbers", put("node/edges", np.zeros((4, 2))), "no pairs of names"),
    ("edges of three", put("node/edges", np.array([["a", "b", "c"]], dtype=object)), "no pairs of names"),
    ("metadata that are a number", put("node/metadata", 3.0), "no table"),
    ("a negative dt", put("node/metadata/dt", -1e-4), "metadata dt is -0.0001"),
    ("dt as a text", put("node/metadata/dt", "short"), "metadata dt is 'short'"),
    ("an unknown reset", put("node/metadata/reset", "sometimes"), "known: subtract, value"),
    ("NaN for v_init", put("node/metadata/v_init", np.nan), "metadata v_init are NaN"),
    ("a negative output_scale", put("node/metadata/output_scale", -1.0), "metadata output_scale is -1"),
    ("an empty file", lambda path: path.write_bytes(b""), "cannot be read as NIR"),
    ("random bytes", lambda path: path.write_bytes(np.random.default_rng(0).bytes(9999)), "cannot be read as NIR"),
    ("a pipe", instead(os.mkfifo), IS_NO_FILE),
    ("a folder", instead(Path.mkdir), IS_NO_FILE),
    ("a device", instead(lambda path: path.symlink_to("/dev/zero")), IS_NO_FILE),
):
    hostile(f"nir: {name}", "mlp.nir", says)(change)

for name, change, says in (
    ("stride 0", put(f"{C}/stride", [0, 1]), "its stride is 0..1, and must be whole numbers from 1 on"),
    ("a stride with a fraction", put(f"{C}/stride", [1.5, 1.5]), "its stride is 1.5"),
    ("negative padding", put(f"{C}/padding", [-1, 0]), "its padding is -1..0"),
    ("padding of 10^7", put(f"{C}/padding", [10**7, 0]), "max_bytes"),
    ("padding of 10^18", put(f"{C}/padding", [10**18, 0]), "n0_conv2d_0"),
    ("padding by another word", put(f"{C}/padding", "mirror"), "n0_conv2d_0"),
    ("no dilation", put(f"{C}/dilation", [0, 0]), "its dilation is 0"),
    ("groups that do not divide", put(f"{C}/groups", 3), "n0_conv2d_0"),
    ("groups by name", put(f"{C}/groups", "two"), "its groups is 'two'"),
    ("an empty kernel", put(f"{P}/kernel_size", [0, 2]), "its kernel_size is 0..2"),
    ("a kernel larger than its input", put(f"{P}/kernel_size", [99, 99]), "n2_avgpool2d_2"),
    ("flatten of axis 9", put("node/nodes/n3_flatten_3/start_dim", 9), "n3_flatten_3"),
):
    hostile(f"nir: {name}", "cnn.nir", says)(change)

for name, good, change, says in (
    ("external storage", "mlp", put("layer/1/weight", None, shape=(6, 4), dtype="i4", external="x"), "external"),
    ("a weight that is not there", "mlp", put("layer/1/weight", None, shape=(90_000, 90_000), dtype="i4"), "0 are"),
    ("NaN in a weight", "mlp", put("layer/1/weight", np.full((6, 5), np.nan)), "are NaN"),
    ("a threshold too large", "mlp", put("layer/1/neuron/vThMant", 2**40), "its vThMant is"),
    ("a negative decay", "mlp", put("layer/1/neuron/vDecay", -1), "its vDecay is -1"),
    ("a negative encoder_threshold", "mlp", put("spikec/encoder_threshold", -1.0), "encoder_threshold is -1"),
    ("an output_scale of 0", "mlp", put("spikec/output_scale", 0.0), "output_scale is 0"),
    ("too few names", "mlp", put("spikec/names", np.array(["a"], dtype=object)), "must name each in a way of its own"),
    ("another encoder", "mlp", put("spikec/encoder_shape", [10**9]), "its encoder makes"),
    ("a layer without weights", "mlp", changed(lambda file: file.__delitem__("layer/1/weight")), "no weight"),
    ("stride 0", "cnn", put("layer/1/stride", [0, 1]), "its stride is 0..1"),
    ("groups of 0", "cnn", put("layer/1/groups", 0), "its groups is 0"),
    ("padding of 10^6", "cnn", put("layer/1/padding", [10**6, 10**6]), "does not make"),
):
    hostile(f"net: {name}", f"{good}.net", says)(change)

# ------------------------------------------------------------------ zips


def array(name, thing, **options):
    """Return a change that replaces an array of an .npz."""

    def apply(path):
        with np.load(path) as file:
            arrays = dict(file)
        (found,) = [key for key in arrays if key.endswith(name)] or [name]
        arrays[found] = thing(arrays[found]) if callable(thing) else thing
        with path.open("wb") as out:
            np.savez(out, **arrays)

    return apply


def part(name, data, how=zipfile.ZIP_DEFLATED):
    """Return a change that adds a file to a zip."""

    def apply(path):
        with zipfile.ZipFile(path, "a", how) as file:
            file.writestr(name, data() if callable(data) else data)

    return apply


def npy(header):
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def byte_of_record(offset, value):
    """Return a change of bytes in the last record of a zip's directory."""

    def apply(path):
        data = bytearray(path.read_bytes())
        at = data.rindex(b"PK\x01\x02") + offset
        data[at : at + len(value)] = value
        path.write_bytes(data)

    return apply


HUGE = npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }")
for name, change, says in (
    ("a pickle", part("x.npy", lambda: npy("{'descr': '|O', 'fortran_order': False, 'shape': (), }")), "numbers"),
    ("8 TB by its header", part("x.npy", HUGE), "another size than its part"),
    ("a negative size", part("x.npy", npy("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }")), "size"),
    ("a header of code", part("x.npy", npy("__import__('os').system('false')")), "x.npy"),
    ("600 MB in 600 KB", part("x.npy", lambda: bytes(600_000_000)), "600,0"),
    ("a size that it cannot have", byte_of_record(24, (2**27).to_bytes(4, "little")), "which it cannot"),
    ("another packing", part("x.npy", b"0" * 99, zipfile.ZIP_BZIP2), "another way than deflate"),
    ("a password", byte_of_record(8, b"\x01"), "saved calibration"),
    ("negative maxima", array("/maximum", lambda x: -1 - x), "maxima"),
    ("NaN maxima", array("/maximum", lambda x: x * np.nan), "maxima"),
    ("keys that fall", array("/keys", lambda x: x[::-1]), "keys do not rise"),
    ("keys of no channel", array("/keys", lambda x: x.astype(np.int64) + 2**40), "keys do not rise"),
    ("more counts than values", array("/count", 1), "more than 1 in a channel"),
    ("NaN samples", array("retained_0", lambda x: x * np.nan), "samples"),
    ("samples of another shape", array("retained_0", lambda x: x[:, :2]), "samples"),
    ("a text for a number", array("samples", "many"), "saved calibration"),
    ("half of it", lambda path: path.write_bytes(path.read_bytes()[:2000]), "zip"),
    ("a count below 0", array("/count", -1), "its counts are negative"),
    ("a pipe", instead(os.mkfifo), "no ordinary file"),
    ("no calibration", lambda path: np.savez(path, x=np.ones(3)), "saved calibration"),
):
    hostile(f"npz: {name}", "mlp.npz", says)(change)


class Call:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def pickled(*call):
    """Return a change to a file of weights whose pickle makes a call."""

    def apply(path):
        buffer = io.BytesIO()
        with zipfile.ZipFile(path) as file, zipfile.ZipFile(buffer, "w") as out:
            for name in file.namelist():
                data = pickle.dumps({"x": Call(*call)}, 2) if name.endswith("data.pkl") else file.read(name)
                out.writestr(name, data)
        path.write_bytes(buffer.getvalue())

    return apply


for name, change, says in (
    ("a call of the system", pickled(os.system, "touch /tmp/harm"), "posix system"),
    ("100 GB out of a call", pickled(bytearray, 10**11), "bytearray"),
    ("4 TB of one number", lambda path: torch.save({"x": torch.zeros(1).expand(10**12)}, path), "4,000,000,000,000"),
    ("no tensors", lambda path: torch.save({"x": 1}, path), "tensors by name"),
    ("the format of old", lambda path: torch.save({}, path, _use_new_zipfile_serialization=False), "zip"),
    ("half of it", lambda path: path.write_bytes(path.read_bytes()[:900]), "zip"),
):
    hostile(f"pt: {name}", "mlp.pt", says)(change)


def rewritten(part, change):
    """Return a change of one part of a zip, whose name ends so."""

    def apply(path):
        buffer = io.BytesIO()
        with zipfile.ZipFile(path) as file, zipfile.ZipFile(buffer, "w") as out:
            for name in file.namelist():
                out.writestr(name, change(file.read(name)) if name.endswith(part) else file.read(name))
        path.write_bytes(buffer.getvalue())

    return apply


def network(change):
    """Return a change of the module in a file of a network."""

    def apply(path):
        net = torch.load(path, weights_only=False)
        change(net)
        torch.save(net, path)

    return apply


def weight_of(net):
    return next(part for part in net.modules() if isinstance(part, torch.nn.Linear)).weight


def expand(net):
    weight_of(net).data = torch.zeros(1, 1).expand(10**6, 10**6)


for name, change, says in (
    ("a call of the system", pickled(os.system, "touch /tmp/harm"), "no network"),
    ("32 GB for a list of objects", rewritten("data.pkl", lambda _: b"\x80\x02}r\xff\xff\xff\x7f."), "counts objects"),
    ("attributes set on a function", rewritten("data.pkl", lambda _: b"c_codecs\nencode\n}b."), "attributes of a"),
    ("4 TB of one number", network(expand), "numbers in the file"),
    ("NaN weights", network(lambda net: weight_of(net).data.fill_(np.nan)), "NaN or infinity"),
    ("a part that is gone", network(lambda net: net._modules.popitem()), "is damaged"),
    (
        "an op that is no op",
        rewritten("data.pkl", lambda x: x.replace(b"ops.io\nInput", b"graph\nGraph")),
        "is damaged",
    ),
    ("half of it", lambda path: path.write_bytes(path.read_bytes()[:900]), "zip"),
):
    hostile(f"pth: {name}", "mlp.pth", says)(change)


def program(old, new):
    """Return a change of a text in the program of a .pt2, which must be there."""

    def change(data):
        assert old in data
        return data.replace(old, new)

    return rewritten("models/model.json", change)


LINEAR, SIZE = b"torch.ops.aten.linear.default", b"Symbol('s"
WEIGHTS = "model_weights_config.json"
for name, change, says in (
    ("a call of the system", program(LINEAR, b"torch.os.system"), "'torch.os.system', which is no function of aten"),
    ("a call that opens a file", program(LINEAR, b"torch.ops.aten.from_file.default"), "from_file"),
    ("a size that is code", program(SIZE, b"__import__('os').system('"), "a size is"),
    ("a size without end", program(SIZE, b"9**9**9**9**9+Symbol('s"), "a size is"),
    ("an import", program(b"builtins.tuple", b"antigravity.tuple"), "in 'antigravity.tuple'"),
    (
        "pickled weights",
        rewritten(WEIGHTS, lambda x: x.replace(b'"use_pickle": false', b'"use_pickle": true')),
        "pickled",
    ),
    (
        "4 TB of weights",
        rewritten(WEIGHTS, lambda x: x.replace(b'{"as_int": 6}', b'{"as_int": 1000000000000}')),
        "bytes in",
    ),
    ("half of it", lambda path: path.write_bytes(path.read_bytes()[:900]), "zip"),
):
    hostile(f"pt2: {name}", "mlp.pt2", says)(change)


# ------------------------------------------------------------------ reading them


def work(folder):
    """Read every hostile file in a fork of this process; says what came of it in lines of JSON."""
    torch.set_num_threads(1)
    spikec.load(folder / "mlp.nir")  # what is imported at its first use
    untrusted._start = mutated_files.Forked
    for number, (name, (good, change, _)) in enumerate(FILES.items()):
        path = folder / "hostile" / f"{number}{Path(good).suffix}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes((folder / good).read_bytes())
        change(path)
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            read(name, path)
            os._exit(0)
        if status := os.waitpid(pid, 0)[1]:
            print(json.dumps({"name": name, "said": f"the process ended with {status}", "seconds": 0, "peak": 0}))


def read(name, path):
    """Read one file; its peak memory is that of this process or the one that reads HDF5."""
    start, said = mutated_files.processor_seconds(), "accepted"
    try:
        mutated_files.USES[path.suffix[1:]](path)
    except spikec.CompileError as error:
        said = f"refused: {error}"
    except BaseException as error:
        said = f"{type(error).__name__}: {error}"
    seconds = mutated_files.processor_seconds() - start
    peak = sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) * 1024
    print(json.dumps({"name": name, "said": said, "seconds": seconds, "peak": peak}), flush=True)


def outcomes(folder):
    """Return what came of each hostile file: what was said, seconds, and peak memory in bytes.

    Args:
        folder: with the good files.
    """
    command = [sys.executable, "-W", "ignore", __file__, "work", str(folder)]
    modules = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}  # as this process finds them
    done = subprocess.run(command, stdout=subprocess.PIPE, timeout=600, check=False, env=modules)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {line["name"]: line for line in lines}


if __name__ == "__main__":
    if sys.argv[1:2] == ["work"]:
        work(Path(sys.argv[2]))
    else:
        with tempfile.TemporaryDirectory(prefix="spikec-") as made:
            mutated_files.make(Path(made))
            everything = outcomes(made).values()
        for found in sorted(everything, key=lambda each: max(each["seconds"] / 5, each["peak"] / 2**30)):
            text = " | ".join(found["said"].splitlines())[:120]
            print(f"{found['seconds']:6.2f} s {found['peak'] / 2**20:6.0f} MB  {found['name']}: {text}")
