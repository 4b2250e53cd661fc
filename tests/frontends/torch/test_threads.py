"""Compiling in threads, beside threads that use torch, and after interrupts."""

import contextlib
import copy
import itertools
import logging
import math
import pickle
import random
import sys
import threading
import warnings

import onnx
import pytest
import torch
from torch import fx, nn

import spikec
from spikec.frontends.torch import trace as tracing

X = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Asking(nn.Module):
    """Symbolic tracing fails on it, so that torch.export reads it."""

    def __init__(self):
        super().__init__()
        self.hidden, self.head = nn.Linear(64, 8), nn.Linear(8, 3)

    def forward(self, x):
        assert not isinstance(x, fx.Proxy)
        return self.head(torch.relu(self.hidden(x.flatten(1))))


def plain():
    layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 5)
    return nn.Sequential(*layers).eval()


def onnx_model():
    """Its constants are computed by onnx, whose warnings are silenced meanwhile."""
    value, initial = onnx.helper.make_tensor_value_info, onnx.numpy_helper.from_array
    nodes = [
        onnx.helper.make_node("Sqrt", ["c"], ["k"]),
        onnx.helper.make_node("Flatten", ["x"], ["f"]),
        onnx.helper.make_node("MatMul", ["f", "k"], ["m"]),
        onnx.helper.make_node("Relu", ["m"], ["y"]),
    ]
    ends = [value("x", 1, ["n", 1, 8, 8])], [value("y", 1, ["n", 3])]
    graph = onnx.helper.make_graph(nodes, "net", *ends, [initial(torch.rand(64, 3).numpy(), "c")])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


def models():
    torch.manual_seed(0)
    return [plain(), plain(), Asking().eval(), torch.export.export(plain(), (X[:2],)), onnx_model()]


def compiled(model):
    return list(spikec.compile(model, "spikingjelly", calibration=X, timesteps=8).state_dict().values())


@pytest.fixture
def switching():
    """Threads take turns a hundred times as often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(before / 100)
    yield
    sys.setswitchinterval(before)


def in_threads(*works):
    failed = []

    def guarded(work):
        try:
            work()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    if failed:
        raise failed[0]


@pytest.mark.slow
def test_fifty_compiles_in_two_threads_give_what_each_gives_alone(switching):
    """A third thread runs a model of the user's meanwhile, and checks another."""
    nets = models()
    alone = [compiled(net) for net in nets]
    filters, ready = list(warnings.filters), threading.Event()
    own = plain()
    right = own(X)

    def work(order):
        for i in order:
            found = compiled(nets[i])
            assert all(map(torch.equal, found, alone[i])), f"model {i}"

    def both():
        try:
            in_threads(lambda: work([0, 1, 2, 4, 3] * 5), lambda: work([0, 2, 4, 1, 3] * 5))
        finally:
            ready.set()

    def use():
        while not ready.is_set():
            assert torch.equal(own(X), right)
            assert spikec.check(nets[1], "nir", calibration=X) == []

    in_threads(both, use)
    assert list(warnings.filters) == filters


class Held(nn.Module):
    """Counts its calls, and does what it is given to do."""

    def __init__(self, end):
        super().__init__()
        self.fc, self.end, self.calls = nn.Linear(4, 3), end, 0
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        self.seen += 1
        y = self.fc(x)
        self.end()
        return torch.relu(y)


def nothing():
    pass


def interrupt():
    raise KeyboardInterrupt


def state(model):
    return pickle.dumps({name: (vars(each), each.training) for name, each in model.named_modules()})


@pytest.mark.parametrize("end", [nothing, interrupt])
def test_tracing_leaves_the_model_as_it_was(end):
    model = Held(end).eval()
    before, patched = state(model), (nn.Module.__call__, nn.Module.__getattr__)
    try:
        spikec.load(model, torch.rand(2, 4))
    except KeyboardInterrupt:
        assert end is interrupt
    assert state(model) == before
    assert (nn.Module.__call__, nn.Module.__getattr__) == patched
    assert tracing.TRACING.acquire(blocking=False)
    tracing.TRACING.release()
    copy.deepcopy(model)


def test_an_interrupt_in_torch_export_leaves_the_model_as_it_was(monkeypatch):
    model = Asking().eval()
    before = state(model)
    patched = nn.Module.__call__, nn.Module.__getattr__

    def linear(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(nn.functional, "linear", linear)
    with pytest.raises(KeyboardInterrupt):
        spikec.load(model, X)
    assert state(model) == before
    assert (nn.Module.__call__, nn.Module.__getattr__) == patched
    assert torch.is_grad_enabled()


def test_what_runs_layer_by_layer_puts_no_hooks_on_the_model():
    model = plain()
    graph = spikec.load(model, X)
    found = spikec.frontends.torch.fx.frontend.layer_results(model, graph, [X])
    torch.testing.assert_close(found["5"], model(X).detach())
    assert not any(each._forward_hooks for each in model.modules())


def test_a_closure_over_the_model_itself_is_traced():
    model = nn.Module()
    model.fc, model.act = nn.Linear(4, 3), nn.ReLU()
    model.parts, model.call = [model.fc, model.act], lambda x: model.act(model.fc(x))
    model.forward = lambda x: model.call(x) + model.parts[1](model.parts[0](x))

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model
            self.bound = self.twice

        def twice(self, x):
            return self.inner.call(x) * 2

        def forward(self, x):
            return self.bound(x) + self.inner(x)

    whole, x = Whole().eval(), torch.randn(5, 4)
    graph = spikec.load(whole, x)
    assert graph.imported.notes == []
    assert {source.path for source in graph.sources} >= {"inner.fc", "inner.act"}
    torch.testing.assert_close(spikec.run(graph, x), whole(x).detach())


@pytest.mark.slow
def test_the_grad_mode_comes_back_after_an_interrupt_where_torch_ends_a_block():
    """What torch.inference_mode holds sets the mode once more when it is freed, which is later than the interrupt."""

    def compiled_until(last):
        """Compile, up to that end of a block of torch's; how many there are, and the grad mode afterwards."""
        count = itertools.count(1)

        def profile(frame, event, arg):
            if event == "call" and frame.f_code is torch.inference_mode.__exit__.__code__ and next(count) == last:
                raise KeyboardInterrupt

        sys.setprofile(profile)
        try:
            with contextlib.suppress(KeyboardInterrupt):
                compiled(model)
        finally:
            sys.setprofile(None)
        found, _ = torch.is_grad_enabled(), torch.set_grad_enabled(True)
        return next(count) - 1, found

    model = plain()
    blocks, _ = compiled_until(0)
    assert blocks > 5
    assert all(compiled_until(k)[1] for k in range(1, blocks + 1))


@pytest.mark.parametrize("last", [1, 2, 30])
def test_an_interrupt_while_torch_fx_puts_its_patches_back(last):
    """It patches two methods of nn.Module and the functions of ``math`` while it traces; a call puts each back."""
    count = itertools.count(1)
    before = dict(vars(nn.Module)), dict(vars(math))

    def profile(frame, event, arg):
        if event == "call" and frame.f_code.co_name == "revert" and next(count) == last:
            raise KeyboardInterrupt

    sys.setprofile(profile)
    try:
        with pytest.raises(KeyboardInterrupt):
            compiled(plain())
    finally:
        sys.setprofile(None)
    assert next(count) > last
    assert (dict(vars(nn.Module)), dict(vars(math))) == before


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it may hit a generator that ends
@pytest.mark.parametrize("model", [plain(), Asking().eval()], ids=["fx", "export"])
def test_an_interrupt_anywhere_leaves_nothing_half_done(model):
    """Some of the calls of functions in a compile, wherever they are, raise a KeyboardInterrupt in place of running."""

    def now():
        modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype()
        return (
            state(model),
            nn.Module.__call__,
            nn.Module.__getattr__,
            modes,
            list(warnings.filters),
            logging.root.level,
        )

    def call(last):
        """Compile, up to that call of a function; the number of calls."""
        count = itertools.count(1)

        def profile(frame, event, arg):
            if event == "call" and next(count) == last:
                raise KeyboardInterrupt

        sys.setprofile(profile)
        try:
            found = compiled(model)
        except KeyboardInterrupt:
            return None
        finally:
            sys.setprofile(None)
        return found, next(count)

    right = compiled(model)
    before = now()
    _, total = call(0)
    numbers = random.Random(0)
    for _ in range(20):
        call(numbers.randrange(1, total))
        assert now() == before
        assert tracing.TRACING.acquire(blocking=False)
        tracing.TRACING.release()
    assert all(map(torch.equal, compiled(model), right))
