"""Files appear whole or not at all, and only where a file may be."""

import os
import signal
import stat
import subprocess
import sys

import pytest
import torch
from torch import nn

import spikec
from spikec import InvalidModelError
from spikec.ir.files import replacing

#: compiles the same net for each target and saves it, with each of the prefixes that are given
SAVE = """
import sys, torch, spikec
from torch import nn
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3)).eval()
for target, suffix in (("spikingjelly", ".pt"), ("nir", ".nir"), ("netx", ".net")):
    artifact = spikec.compile(model, target, calibration=torch.rand(8, 64), timesteps=8)
    for prefix in sys.argv[1:]:
        try:
            spikec.save(artifact, prefix + suffix)
        except spikec.CompileError as error:
            print(error)
"""


def python(code, *arguments, **variables):
    command = [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **variables}, timeout=300)


def kinds_of_places(folder):
    os.mkfifo(folder / "pipe")
    (folder / "folder").mkdir()
    (folder / "device").symlink_to("/dev/full")
    (folder / "link").symlink_to(folder / "pipe")
    (folder / "circle").symlink_to(folder / "circle")
    return sorted(folder.iterdir())


def test_only_files_are_replaced(tmp_path):
    places = kinds_of_places(tmp_path)
    before = [os.lstat(place) for place in places]
    for place in [*places, tmp_path / "no" / "file"]:
        with pytest.raises(InvalidModelError) as caught, replacing(place) as part:
            part.write_bytes(b"new")
        assert str(place) in str(caught.value) or str(place.parent) in str(caught.value)
    after = [os.lstat(place) for place in places]
    assert [(each.st_mode, each.st_ino) for each in after] == [(each.st_mode, each.st_ino) for each in before]
    assert sorted(tmp_path.iterdir()) == places
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)


def test_a_link_is_followed_and_permissions_stay(tmp_path):
    file, link = tmp_path / "file", tmp_path / "link"
    with replacing(file) as part:
        part.write_bytes(b"old")
    assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~os.umask(os.umask(0o022) or 0o022)
    file.chmod(0o600)
    link.symlink_to(file)
    with replacing(link) as part:
        part.write_bytes(b"new")
    assert link.is_symlink()
    assert (file.read_bytes(), stat.S_IMODE(file.stat().st_mode)) == (b"new", 0o600)
    file.unlink()
    with replacing(link) as part:
        part.write_bytes(b"again")
    assert file.read_bytes() == b"again"


def test_names_of_any_length(tmp_path):
    for name in ("a", "a." + 250 * "b", 250 * "a" + ".npz"):
        with replacing(tmp_path / name) as part:
            part.write_bytes(b"x")
        assert (tmp_path / name).read_bytes() == b"x"
    with pytest.raises(InvalidModelError, match="name too long"), replacing(tmp_path / (300 * "a")) as part:
        part.write_bytes(b"x")


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_what_interrupts_leaves_the_old_file(error, tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"old")
    with pytest.raises(error), replacing(file) as part:  # noqa: PT012
        part.write_bytes(b"half")
        raise error
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("file", b"old")]


def test_a_folder_that_may_not_be_written_to(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o500)
    with pytest.raises(InvalidModelError, match="cannot be written"), replacing(tmp_path / "x") as part:
        part.write_bytes(b"x")


def test_a_writer_that_writes_nothing(tmp_path):
    with pytest.raises(InvalidModelError, match="cannot be written"), replacing(tmp_path / "x"):
        pass


@pytest.mark.slow
def test_a_full_disk_is_an_error_that_leaves_the_old_file(tmp_path):
    files = [tmp_path / f"model{suffix}" for suffix in (".net", ".nir", ".pt")]
    for file in files:
        file.write_bytes(b"old")
    done = python("import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))" + SAVE, tmp_path / "model")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("cannot be written: File too large") == 3
    assert sorted(tmp_path.iterdir()) == files
    assert all(file.read_bytes() == b"old" for file in files)


@pytest.mark.slow
def test_the_same_thing_is_the_same_bytes(tmp_path):
    for seed in ("0", "1"):
        done = python(SAVE, tmp_path / f"one{seed}", tmp_path / f"another{seed}", PYTHONHASHSEED=seed)
        assert done.returncode == 0, done.stderr
    for suffix in (".pt", ".nir", ".net"):
        files = list(tmp_path.glob(f"*{suffix}"))
        assert len(files) == 4
        assert len({file.read_bytes() for file in files}) == 1, suffix


#: stays in the middle of writing a file
WRITE = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background of a shell it is ignored, and inherited
from spikec.ir.files import replacing
with replacing(sys.argv[1]) as part:
    part.write_bytes(b"half")
    print("half", flush=True)
    time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_who_is_killed_while_writing_leaves_the_old_file(sent, tmp_path):
    file = tmp_path / "model.pt"
    file.write_bytes(b"old")
    with subprocess.Popen([sys.executable, "-c", WRITE, str(file)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "half\n"
        process.send_signal(sent)
    assert file.read_bytes() == b"old"
    if sent is signal.SIGINT:
        assert list(tmp_path.iterdir()) == [file]


@pytest.mark.slow
def test_a_module_is_saved_under_any_name(tmp_path):
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    x = torch.rand(8, 4)
    module = spikec.compile(model, "spikingjelly", calibration=x)
    for name in ("plain", ".hidden", "a.b"):
        with pytest.warns(spikec.SpikecWarning, match=r"does not end in \.pt"):
            spikec.save(module, tmp_path / name)
        assert torch.equal(torch.load(tmp_path / name, weights_only=False)(x), module(x))
        module.reset()


@pytest.mark.slow
def test_what_was_read_is_saved_as_the_same_bytes(tmp_path):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3)).eval()
    first, second = tmp_path / "first.pt", tmp_path / "second.pt"
    spikec.save(spikec.compile(model, "spikingjelly", calibration=torch.rand(8, 1, 8, 8)), first)
    spikec.save(torch.load(first, weights_only=False), second)
    assert second.read_bytes() == first.read_bytes()
