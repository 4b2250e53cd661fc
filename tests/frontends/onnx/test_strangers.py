"""Hostile ONNX files, see ``onnx_hostile.py``: each is refused in 5 s and 1 GB, by a spikec error with the place."""

import itertools

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

import spikec
from limited import outcome
from onnx_hostile import FILES, HUGE
from onnx_models import agrees, model, node, random
from spikec.frontends.onnx.frontend import frontend

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def _imported():
    """What is imported when it is needed is there before children are forked."""
    spikec.load(model([node("Neg", "c", "k"), node("Add", "x k", "y")], ["n", 4], c=random(4)))


@pytest.fixture(scope="module")
def outcomes(_imported, tmp_path_factory):
    found = {}
    for name, (build, _) in FILES.items():
        folder = tmp_path_factory.mktemp("strangers") / "models"
        folder.mkdir()
        found[name] = outcome(spikec.load, build(folder))
    return found


@pytest.mark.parametrize("name", FILES)
def test_a_hostile_file_is_refused_at_once(outcomes, name):
    found, (_, words) = outcomes[name], FILES[name]
    assert found.kind == "refused"
    assert found.is_fine
    assert not [word for word in words if word not in found.said]


def test_the_worst_hostile_files(outcomes, record_property):
    for what in ("seconds", "peak"):
        name = max(outcomes, key=lambda each, what=what: getattr(outcomes[each], what))
        record_property(f"hostile .onnx file with most {what}", f"{name}: {getattr(outcomes[name], what):,}")
        print(f"\nmost {what}: {name}: {getattr(outcomes[name], what):,}")


def test_what_a_stranger_may_take_is_raised_by_an_option():
    proto = model(
        [node("Tile", "c s", "k", name="tile"), node("MatMul", "x k", "y")], ["n", 4], c=random(4, 1), s=[1, 99]
    )
    with pytest.raises(spikec.UnsupportedOpError, match="takes 1,584 bytes") as caught:
        spikec.load(proto, max_bytes=1000)
    assert (caught.value.location, "max_bytes=1584" in caught.value.hint) == ("tile", True)
    assert spikec.load(proto, max_bytes=10**6).type("y").shape == (99,)
    agrees(proto, 4)


def test_branches_in_branches_are_read_as_deep_as_a_file_holds_them():
    inner = node("Identity", "c", "r")
    for _ in range(28):
        result = [helper.make_tensor_value_info("r", TensorProto.FLOAT, None)]
        branch, other = (helper.make_graph([each], "branch", [], result) for each in (inner, node("Neg", "c", "r")))
        inner = node("If", "t", "r", name="choice", then_branch=branch, else_branch=other)
    agrees(model([inner, node("Add", "x r", "y")], ["n", 4], t=np.array(True), c=random(4)), 4)


def test_a_long_chain_is_read_in_linear_time(tmp_path):
    names = ["x", *(f"n{i}" for i in range(3000)), "y"]
    proto = model([node("Relu", a, b) for a, b in itertools.pairwise(names)], ["n", 4])
    (tmp_path / "chain.onnx").write_bytes(proto.SerializeToString())
    assert outcome(spikec.load, tmp_path / "chain.onnx", seconds=30).said == "read"


def test_what_nobody_uses_is_not_computed_for_the_comparison_either():
    dead = [node("ConstantOfShape", "s", "d", name="dead"), node("Relu", "d", "e")]
    proto = model([*dead, node("Relu", "x", "y")], ["n", 4], s=np.array([HUGE, HUGE]))
    x = torch.randn(3, 4)
    assert torch.equal(spikec.run(spikec.load(proto), x), x.relu())
    assert torch.equal(frontend.reference(proto)([x])[0], x.relu())


def test_constants_of_one_name_in_two_branches_are_two():
    def choice(value, result):
        made = [node("Identity", "inner", result)]
        given = helper.make_graph(
            made,
            "branch",
            [],
            [helper.make_tensor_value_info(result, TensorProto.FLOAT, None)],
            [helper.make_tensor("inner", TensorProto.FLOAT, [1], [value])],
        )
        return node("If", "t", f"{result}_out", then_branch=given, else_branch=given)

    nodes = [choice(1.0, "a"), choice(5.0, "b"), node("Add", "a_out b_out", "k"), node("Add", "x k", "y")]
    agrees(model(nodes, ["n", 4], t=np.array(True)), 4)


def test_a_weight_that_is_no_number_is_named_by_its_initializer():
    weight = random(4, 3)
    weight[1, 1] = np.nan
    nodes = [node("Gemm", "x fc.weight fc.bias", "y", name="fc")]
    with pytest.raises(spikec.InvalidModelError, match=r"NaN or infinity: 'fc\.weight'") as caught:
        spikec.load(model(nodes, ["n", 4], **{"fc.weight": weight, "fc.bias": random(3)}))
    assert caught.value.location == "fc"


def test_a_constant_that_only_the_comparison_meets_is_refused_by_a_spikec_error():
    proto = model([node("Relu", "x", "y")], ["n", 4], unused=random(4))
    proto.graph.initializer[0].data_type = 99
    assert spikec.load(proto).outputs
    with pytest.raises(spikec.InvalidModelError, match="cannot be run by itself"):
        spikec.compile(proto, "spikingjelly")


def test_an_opset_that_is_not_known_yet_goes_by_the_newest():
    nodes = [node("Softmax", "c", "k"), node("Add", "x k", "y")]
    newest, unknown = (spikec.load(model(nodes, ["n", 4], opset, c=random(1, 4))) for opset in (24, 2**62))
    x = torch.randn(3, 4)
    assert torch.equal(spikec.run(newest, x), spikec.run(unknown, x))
