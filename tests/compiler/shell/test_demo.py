import html
import io
import re
import sys
import warnings

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from rich.console import Console
from torch import nn

import spikec
from spikec.extend.passbase import Note
from spikec.shell import demo
from spikec.shell.cli import main
from spikec.shell.demo import Digits, Training
from spikec.shell.demo_folder import Export, closing_words, why_lower

pytestmark = pytest.mark.slow  # the digits are read by way of scikit-learn, and nets are trained

QUICK = Training(epochs=1, batch=50)


@pytest.fixture(scope="module")
def data():
    return demo.digits()


@pytest.fixture(scope="module")
def few(data):
    return Digits(data.train[:300], data.train_labels[:300], data.test[:60], data.test_labels[:60])


def shown(net, few, **options):
    """What is said about where the weights come from."""
    console = Console(file=io.StringIO())
    assert same(demo.trained(few, QUICK, console=console, **options), net)
    return console.file.getvalue()


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_digits_are_split_evenly_and_always_alike(data):
    assert data.train.shape == (4000, 1, 28, 28)
    assert data.test.shape == (1000, 1, 28, 28)
    assert (float(data.train.min()), float(data.train.max())) == (0.0, 1.0)
    assert torch.bincount(data.test_labels).tolist() == [100] * 10
    assert torch.bincount(data.train_labels).tolist() == [400] * 10
    rows = {row.numpy().tobytes() for row in data.train}
    assert not any(row.numpy().tobytes() in rows for row in data.test)
    again = demo.digits()
    assert torch.equal(again.test, data.test)
    assert not torch.equal(demo.digits(seed=1).test, data.test)


def test_held_out_batches(data):
    batches = data.held_out(130, batch=50)
    assert [len(x) for x, _ in batches] == [50, 50, 30]
    assert torch.equal(torch.cat([x for x, _ in batches]), data.test[:130])
    assert sum(len(labels) for _, labels in data.held_out()) == 1000


def test_the_tutorial_network_has_the_tutorials_shape():
    net = demo.tutorial_cnn().eval()
    assert net(torch.rand(3, 1, 28, 28)).shape == (3, 10)
    assert sum(p.numel() for p in net.parameters()) == 320 + 2 * 9248 + 3 * 64 + 330


def test_shifts_move_and_fill_with_zeros():
    images = torch.arange(1.0, 13.0).reshape(1, 1, 3, 4).repeat(200, 1, 1, 1)
    found = demo.shifted(images, 1, torch.Generator().manual_seed(0))
    padded = np.pad(images[0, 0].numpy(), 1)
    allowed = {padded[i : i + 3, j : j + 4].tobytes() for i in range(3) for j in range(3)}
    assert {image[0].numpy().tobytes() for image in found} == allowed


def test_training_follows_from_its_seed_and_leaves_torchs_alone(few):
    state = torch.get_rng_state()
    one = demo.train(few, QUICK)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert same(one, demo.train(few, QUICK))
    assert not same(one, demo.train(few, Training(epochs=1, batch=50, seed=1)))
    assert not one.training


def test_training_learns(few):
    assert demo.accuracy(demo.train(few, Training(epochs=6, batch=20)), few) > 0.5


def test_weights_are_kept_and_taken_again(few, tmp_path, monkeypatch):
    net = demo.train(few, QUICK)
    assert "weights kept in" in shown(net, few, cache=tmp_path / "new")
    monkeypatch.setattr(demo, "train", lambda *_: pytest.fail("trained again"))
    assert shown(net, few, cache=tmp_path / "new").startswith("weights of an earlier run")
    assert not demo.trained(few, QUICK, cache=tmp_path / "new").training
    assert len(list((tmp_path / "new").iterdir())) == 1


def test_another_recipe_or_another_code_takes_no_old_weights(monkeypatch, tmp_path):
    assert QUICK.digest == Training(epochs=1, batch=50).digest
    assert len({Training(seed=seed).digest for seed in range(5)} | {QUICK.digest}) == 6
    changed = tmp_path / "demo.py"
    changed.write_text("another net")
    before = QUICK.digest
    monkeypatch.setattr(demo, "__file__", str(changed))
    assert QUICK.digest != before


@pytest.mark.parametrize("content", [b"", b"no weights", "cut", "other", "list"])
def test_a_broken_cache_file_is_said_and_replaced(few, tmp_path, content):
    net = demo.trained(few, QUICK, cache=tmp_path)
    (path,) = tmp_path.iterdir()
    if content == "cut":
        path.write_bytes(path.read_bytes()[:20000])
    elif content == "other":
        torch.save({"weight": torch.ones(2)}, path)
    elif content == "list":
        torch.save([1, 2], path)
    else:
        path.write_bytes(content)
    said = shown(net, few, cache=tmp_path)
    assert "cannot be read" in said
    assert "training again" in said
    assert "weights kept in" in said
    assert shown(net, few, cache=tmp_path).startswith("weights of an earlier run")


def test_weights_that_cannot_be_kept_are_used_all_the_same(few, tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot be kept" in shown(demo.train(few, QUICK), few, cache=tmp_path / "file" / "folder")


def test_the_cache_folder_follows_the_platform(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert demo.cache_folder() == tmp_path / "spikec"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("pathlib.Path.home", lambda: tmp_path)
    for platform, parts in (("linux", (".cache", "spikec")), ("darwin", ("Library", "Caches", "spikec"))):
        monkeypatch.setattr(sys, "platform", platform)
        assert demo.cache_folder() == tmp_path.joinpath(*parts)
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "Local"))
    assert demo.cache_folder() == tmp_path / "Local" / "spikec" / "Cache"


@pytest.mark.parametrize(("module", "package"), [("mlxtend.data", "mlxtend"), ("matplotlib.figure", "matplotlib")])
def test_a_missing_package_is_named_before_anything_is_done(module, package, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, module, None)
    result = CliRunner().invoke(main, ["demo", "--out", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert f"needs the package {package}" in result.stderr
    assert 'pip install "spikec[demo]"' in result.stderr
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_cannot_be_made(tmp_path, monkeypatch, few):
    monkeypatch.setattr(demo, "digits", lambda: few)
    (tmp_path / "file").write_text("")
    with pytest.raises(spikec.CompileError, match="cannot be made"):
        demo.run(tmp_path / "file" / "out", Console(quiet=True), QUICK, cache=tmp_path)


def test_the_demo_takes_one_thread_and_gives_the_others_back(tmp_path, monkeypatch, few):
    threads = []

    def trained(*_, **__):
        threads.append(torch.get_num_threads())
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "digits", lambda: few)
    monkeypatch.setattr(demo, "trained", trained)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(KeyboardInterrupt):
            demo.run(tmp_path / "out", Console(quiet=True), QUICK, cache=tmp_path)
        assert (threads, torch.get_num_threads()) == ([1], 2)
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def small():
    net = nn.Sequential(
        nn.Conv2d(1, 4, 5, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64, 10)
    )
    return net.eval()


@pytest.mark.parametrize("found", [None, "/usr/bin/spikec"])
def test_the_last_words_say_how_to_call_it_where_the_shell_does_not_find_it(found, monkeypatch, tmp_path):
    monkeypatch.setattr("shutil.which", lambda name: found)
    said = "\n".join(closing_words(tmp_path, 8))
    assert (f"{sys.executable} -m spikec" in said) == (found is None)


def test_the_whole_demo_with_a_small_net(tmp_path, monkeypatch, few, small):
    monkeypatch.setattr(demo, "digits", lambda: few)
    monkeypatch.setattr(demo, "trained", lambda *_, **__: small)
    out = tmp_path / "deep" / "out"
    with (tmp_path / "log").open("w") as log, warnings.catch_warnings():
        warnings.simplefilter("ignore", spikec.SpikecWarning)
        demo.run(out, Console(width=80, file=log), count=40)
    said = (tmp_path / "log").read_text()
    for label in ("ANN", *demo.SHOWN, "default", *(f"T={steps}" for steps in (4, 8, 16, 32, 50))):
        assert label in said
    assert str(out) in said
    assert (out / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    for target in ("spikingjelly", "nir", "netx"):
        assert (out / "passes" / target / "00-import.txt").exists()
    page = (out / "index.html").read_text()
    assert said.count("mnist.net") > 2
    for file in out.iterdir():
        assert f"  {file.name} " in said, "what it is and what to do next"
        assert file.name == "index.html" or f'"{file.name}"' in page
    links = re.findall(r'(?:href|src)="([^"]+)"', page)
    assert len(links) > 8
    assert all((out / link).exists() for link in links)
    assert demo.THRESHOLDS in page
    (why,) = re.findall("<p>((?:Why|Its weights).*)</p>", page)
    assert html.unescape(why) in said


def test_the_commands_that_the_demo_ends_with_do_what_they_say(tmp_path, monkeypatch, few, small):
    monkeypatch.setattr(demo, "digits", lambda: few)
    monkeypatch.setattr(demo, "trained", lambda *_, **__: small)
    out, console = tmp_path / "out", Console(width=80, file=io.StringIO())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", spikec.SpikecWarning)
        demo.run(out, console, count=40)
    commands = re.findall(r"^ +spikec (.*)$", console.file.getvalue(), re.M)
    assert len(commands) == 4
    monkeypatch.chdir(out)
    for command in commands:
        found = CliRunner().invoke(main, command.split())
        assert found.exit_code == 0, (command, found.output)
    assert isinstance(torch.load("mnist.pt", weights_only=False), nn.Module)


@pytest.mark.parametrize(
    ("accuracy", "says"), [(0.9, "3.0 % less often than mnist.nir: Its neurons are reset"), (0.94, "cost")]
)
def test_why_netx_is_lower_is_said_in_words(accuracy, says, tmp_path):
    notes = (Note("legalize-netx", "relu1", "hard reset in all layers"),)
    exports = [Export("nir", tmp_path, 0.93, 1, 100, ()), Export("netx", tmp_path, accuracy, 1, 100, notes)]
    assert says in why_lower(exports)


def test_mode_curves_are_those_of_evaluate(few, small, tmp_path):
    curves = demo.mode_curves(small, few, tmp_path, 20)
    assert list(curves) == [*demo.SHOWN, "default"]
    snn = spikec.compile(small, "spikingjelly", calibration=few.train, normalization=1 / 3)
    np.testing.assert_array_equal(curves["1/3"], spikec.evaluate(snn, few.held_out(20), 50))


def test_an_export_is_what_the_file_says(few, small, tmp_path):
    found = demo.export(small, few, "nir", tmp_path, 30)
    graph = spikec.load(str(found.path))
    x, labels = few.test[:30], few.test_labels[:30]
    scale = torch.tensor(graph.type(graph.outputs[0]).scale)
    said = (spikec.run(graph, x, demo.EXPORT_STEPS).mean(0) * scale).argmax(1)
    assert found.count == 30
    assert found.accuracy == pytest.approx(float((said == labels).float().mean()))
    assert found.agreement == pytest.approx(float((said == small(x).argmax(1)).float().mean()))
