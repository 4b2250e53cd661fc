"""onnx's own test cases of every operator that has a converter: the result is the stated one, or the case is refused.

Which cases give the stated result is held in ``tests/golden/onnx_node_cases.txt``, one name a line: a case that is lost
or gained changes that file. Samples are independent and real here, and onnx's cases know no batch: their first axis is
read as one. The first float input is the signal and the others are initializers; where that is refused, others are
signals too.
"""

import collections
import functools
import inspect
import re
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests

import spikec
from spikec.extend import loader
from spikec.frontends.onnx import converter

loader.modules("frontends", "onnx")
OPERATORS = sorted(filter(lambda key: isinstance(key, str), converter.keys()))
GOLDEN = Path(__file__).parents[2] / "golden" / "onnx_node_cases.txt"
FLOATS = ("float16", "bfloat16", "float32", "float64")

#: what no network of real numbers, sample by sample, can do
IMPOSSIBLE = {
    "the signal is no float tensor": r"is of type \w*(int|bool|string|float[48])|is an? (sequence|optional)",
    "the result is no float tensor": r"precision of float|only the first 1 output|output \w+ does not depend",
    "it mixes the samples of a batch": r"batch axis|(the|of a) batch|first axes of the inputs differ|transA",
    "it does to each sample another thing": r"differs from sample to sample|more axes than the signal|without a batch",
    "it multiplies signals": r"power of two signals|no single number|computed from the model's input",
    "it is of a form that is not read": r"the equation .* is not supported|1-norm is not supported",
    "it is older than what is read": r"is of opset [1-6]; 7 and up are read",
    "it learns": r"training mode",
    "it jumps": r"it jumps, and a rate|jumps at its threshold",
    "it has no number in it": r"holds no number|leaves nothing|does not expand|0\b.* cells",
}


@pytest.fixture(scope="module")
def cases():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = collections.defaultdict(list)
        for case in load_model_tests(kind="node"):
            if case.model is None:
                pytest.skip("this version of onnx brings its cases as files")
            if len(case.model.graph.node) == 1:
                found[case.model.graph.node[0].op_type].append(case)
    return found


def arrays(values):
    return [numpy_helper.to_array(v) if isinstance(v, onnx.TensorProto) else v for v in values]


def choices(inputs):
    """Which inputs are signals: the first float, then it and another, then all of them."""
    floats = [i for i, x in enumerate(inputs) if isinstance(x, (np.ndarray, np.generic)) and str(x.dtype) in FLOATS]
    first = floats[:1] or [0]
    return [first, *([first[0], i] for i in floats[1:]), floats or first]


def result(case, inputs, signals):
    """(what the graph gives, the rows of the batch that were fed: those without NaN)."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    for i, (declared, value) in enumerate(zip(list(model.graph.input), inputs, strict=True)):
        if i not in signals:
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), declared.name))
    graph = spikec.load(model)
    xs = [inputs[i].astype(np.float64 if inputs[i].dtype == np.float64 else np.float32) for i in signals]
    rows = np.all([np.isfinite(x).reshape(len(x), -1).all(1) for x in xs], axis=0)
    found = spikec.run(graph, [torch.tensor(x[rows]) for x in xs])
    return (found if isinstance(found, tuple) else (found,)), rows


def matches(case):
    """Hold the graph to the stated results.

    Raises:
        CompileError: the case is refused, whichever inputs are signals.
    """
    inputs, wanted = (arrays(each) for each in case.data_sets[0])
    refusals = []
    for signals in choices(inputs):
        try:
            found, rows = result(case, inputs, signals)
        except spikec.CompileError as error:
            refusals.append(error)
            continue
        for a, b in zip(found, wanted, strict=True):
            tolerance = functools.partial(np.testing.assert_allclose, rtol=case.rtol, atol=max(case.atol, 1e-6))
            rounded = a.numpy().astype(b.dtype)  # half and bfloat16 are float32 in the graph
            tolerance(rounded.astype(np.float64), b[rows].astype(np.float64))
        return
    raise spikec.CompileError([problem for error in refusals for problem in error.problems])


def outcome(case):
    try:
        matches(case)
    except spikec.CompileError as error:
        text = str(error)
        return next((why for why, pattern in IMPOSSIBLE.items() if re.search(pattern, text)), text)
    return "as stated"


def judge(operator, cases):
    """Hold an operator's cases to the golden file, as far as this version of onnx has them; returns their outcomes."""
    outcomes = {case.name: outcome(case) for case in cases[operator]}
    unexplained = {name: why for name, why in outcomes.items() if why not in ("as stated", *IMPOSSIBLE)}
    assert not unexplained
    stated = {name for name, why in outcomes.items() if why == "as stated"}
    assert stated == set(GOLDEN.read_text().split()) & set(outcomes), f"if that is meant, change {GOLDEN}"
    return list(outcomes.values())


@pytest.mark.slow
@pytest.mark.parametrize("operator", OPERATORS)
def test_every_case_of_an_operator_gives_the_stated_result_or_is_impossible(operator, cases, record_property):
    for why in judge(operator, cases):
        record_property("onnx's node tests", why)


@pytest.mark.slow
def test_no_case_is_lost_with_its_operator(cases):
    lost = {case.name for kind, found in cases.items() if kind not in OPERATORS for case in found}
    assert not lost.intersection(GOLDEN.read_text().split())


@pytest.mark.slow
@pytest.mark.parametrize("operator", ["SpaceToDepth", "Relu"])
def test_an_operator_that_refuses_everything_is_seen(operator, cases, monkeypatch):
    def refuse(call, *inputs, **attributes):
        call.refuse("it works along the batch axis")

    monkeypatch.setitem(converter._table, operator, refuse)
    with pytest.raises(AssertionError, match="test_" + operator.lower()):
        judge(operator, cases)


@functools.cache
def history():
    return onnx.defs.get_all_schemas_with_history()


@functools.cache
def versions(operator):
    schemas = [each for each in history() if each.name == operator and not each.domain]
    latest_before = max((each.since_version for each in schemas if each.since_version <= 7), default=7)
    return [each for each in schemas if each.since_version >= latest_before]


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_converter_takes_all_that_any_version_of_its_operator_has(operator):
    signature = inspect.signature(converter.get(operator))
    assert versions(operator)
    for schema in versions(operator):
        for count in range(schema.min_input, min(schema.max_input, schema.min_input + 3) + 1):
            signature.bind(None, *range(count), **dict.fromkeys(schema.attributes))
        required = {name: None for name, attribute in schema.attributes.items() if attribute.required}
        signature.bind(None, *range(schema.min_input), **required)
