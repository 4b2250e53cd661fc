"""Properties that hold of every network, on networks that hypothesis makes; README.md says how to run more of them."""

import os
import random
import runpy
import warnings
from collections import Counter

import attrs
import pytest
from hypothesis import HealthCheck, Phase, assume, given, seed, settings

from random_networks import properties, reproduction
from random_networks.generator import networks, written
from random_networks.network import VARIES, Network
from random_networks.vocabulary import STEPS
from spikec.ir.ops import AvgPool

#: how many networks there are in all roads together, and which ones
COUNT = int(os.environ.get("SPIKEC_RANDOM_NETWORKS", "2000"))
SEED = int(os.environ.get("SPIKEC_RANDOM_SEED", "0"))
#: in a batch of data
SAMPLES = 16
#: networks that one test runs at most, and networks that hypothesis makes at a time
CHUNK, BATCH = 100, 10


@attrs.frozen
class Road:
    """A property, and the networks that it is held to.

    Attributes:
        holds: the property.
        target: whose steps the networks are made of; None for all steps.
        fast: how many networks the fast tier runs.
        share: how many of 2,000 networks it gets, those of the fast tier included.
        converted: the share of networks, in percent, that must not be refused.
    """

    holds: object
    target: str | None
    fast: int
    share: int
    converted: int


ROADS = [
    Road(properties.import_equals_torch, None, 16, 800, 80),
    Road(properties.exported_program_equals_torch, None, 3, 160, 70),
    Road(properties.onnx_equals_torch, None, 4, 240, 50),
    Road(properties.dynamo_onnx_equals_torch, None, 0, 10, 0),
    Road(properties.module_equals_interpreter, None, 6, 330, 70),
    Road(properties.module_survives_export, None, 2, 60, 70),
    Road(properties.error_falls, None, 3, 200, 70),
    Road(properties.nir_file_equals_interpreter, "nir", 3, 120, 30),
    Road(properties.netx_file_equals_interpreter, "netx", 3, 140, 40),
]


def run(holds, target, count, number):
    """Hold a property to that many networks; returns what it has seen, and how often.

    Hypothesis goes over to variants of the networks that it has made after BATCH of them: then it starts anew.
    """
    seen, files = Counter(), set()

    def each(network: Network):
        model, xs = network.build(), network.data(SAMPLES)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch has something to say about some networks
            assume(answers_differ(model, xs))
            try:
                seen[holds(model, xs, network.seed)] += 1
            except Exception as error:
                files.add(reproduction.write(network, holds, SAMPLES, error))
                raise

    try:
        for start in range(0, count, BATCH):
            several = settings(
                max_examples=min(BATCH, count - start),
                deadline=None,
                database=None,
                report_multiple_bugs=False,
                phases=(Phase.generate, Phase.shrink),
                suppress_health_check=list(HealthCheck),
            )
            seed(f"{number} {start}")(several(given(networks(target))(each)))()
    finally:
        for path in files:
            print(f"repeated by: python {path}")
    return seen


def answers_differ(model, xs):
    """Whether torch runs the model, and no output is nearly the same for all samples, which would say nothing of it."""
    try:
        outputs = properties.answers(model, xs)
    except RuntimeError:  # a view of a tensor that lies otherwise in memory than when the network was written
        return False
    return all(float((y - y.mean(0)).abs().max()) > VARIES * float(y.abs().max()) for y in outputs)


def chunks():
    for road in ROADS:
        sizes = [road.fast, *split(road.share * COUNT // 2000 - road.fast)]
        for number, size in enumerate(sizes):
            if size:
                marks = [pytest.mark.slow] if number else []
                yield pytest.param(road, size, number, id=f"{road.holds.__name__}-{number}", marks=marks)


def split(count):
    return [min(CHUNK, count - done) for done in range(0, count, CHUNK)] if count > 0 else []


@pytest.mark.parametrize(("road", "count", "chunk"), list(chunks()))
def test_random_networks(road, count, chunk, record_property):
    seen = run(road.holds, road.target, count, 1000 * SEED + chunk)
    for what, times in seen.items():
        for _ in range(times):
            record_property(f"random networks, {road.holds.__name__}", what.partition(":")[0])
    if count == CHUNK:
        equal, refused = seen["equal"], sum(times for what, times in seen.items() if what.startswith("refused"))
        assert 100 * equal >= road.converted * (equal + refused), seen.most_common()


# ------------------------------------------------------------------ the tests' own parts


@pytest.mark.parametrize("name", STEPS)
def test_each_step_fits_some_networks(name):
    """A step that fits none would test nothing."""
    bytes_of = random.Random(name).randbytes
    found = [
        written([("relu", b""), ("linear", b""), (name, b"\0" + bytes_of(15))], bytes_of(5), b"", 0, True)
        for _ in range(30)
    ]
    assert sum(bool(network and len(network.lines) > 3) for network in found) >= 3


def only_positive(model, xs, seed=0):
    """A property that does not hold."""
    assert all(float(y.min()) >= -0.5 for y in properties.answers(model, xs)), "a negative number"
    return "equal"


def test_a_failure_shrinks_to_a_file_that_repeats_it(tmp_path, monkeypatch):
    monkeypatch.setattr(reproduction, "FOLDER", tmp_path)
    with pytest.raises(AssertionError, match="a negative number"):
        run(only_positive, None, 100, 0)
    (path,) = tmp_path.iterdir()
    text = path.read_text()
    assert "hypothesis" not in text
    assert text.count("        y") <= 2, "it has shrunk"
    with pytest.raises(AssertionError, match="a negative number"):
        runpy.run_path(str(path), run_name="__main__")


def slow_if_not_fast(road):
    return pytest.param(road, id=road.holds.__name__, marks=[] if road.fast else [pytest.mark.slow])


@pytest.mark.parametrize("road", [slow_if_not_fast(road) for road in ROADS])
def test_the_file_of_every_property_runs_alone(road, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reproduction, "FOLDER", tmp_path)
    network = Network(
        ((4,),), ("nn.Linear(4, 3)", "nn.ReLU()", "nn.Linear(3, 2)"), ("return self.l2(self.l1(self.l0(x0)))",)
    )
    path = reproduction.write(network, road.holds, SAMPLES, ValueError("a\\b"))
    assert "random_networks" not in path.read_text()
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out.endswith("equal\n")


def test_a_planted_fault_is_found(tmp_path, monkeypatch):
    """Average pools that are a millionth off; README.md lists other faults that were planted by hand."""
    monkeypatch.setattr(reproduction, "FOLDER", tmp_path)
    right = AvgPool.eval
    monkeypatch.setattr(AvgPool, "eval", lambda self, x: right(self, x) * (1 + 1e-6))
    with pytest.raises(AssertionError, match="the import differs by"):
        run(properties.import_equals_torch, None, 300, 0)
