import gc
import weakref

import attrs
import numpy as np
import pytest
import torch

import build
import spikec
from spikec import CompileError, Compiler, Pass, Pipeline, SpikecWarning, TypeMismatchError, VerificationError
from spikec.calibration.normalization import Normalization
from spikec.extend.loader import names, pass_named
from spikec.interpreter.probe import probe
from spikec.ir.ops import Linear
from spikec.ir.stages import FOLDED, SPIKING

X = torch.rand(30, 2, 8, 6)
TARGET = build.GraphTarget()


@attrs.frozen
class Sabotage(Pass):
    """Claims to be exact and is not."""

    name = "sabotage"
    needs = (FOLDED,)
    gain: float = 1.5

    def run(self, graph, context):
        for node in graph.match(Linear):
            graph.set_op(node.name, attrs.evolve(node.op, weight=node.op.weight * self.gain))
        return 1


@attrs.frozen
class Liar(Pass):
    name = "liar"

    def run(self, graph, context):
        return 3


def names_of(pipeline):
    return [p.name for p in pipeline]


def test_editing_makes_another_pipeline():
    default = Pipeline.default(TARGET)
    edited = default.insert_after("fold-batchnorm", Sabotage()).without("eliminate-identity")
    assert "sabotage" not in names_of(default)
    order = names_of(edited)
    assert order[order.index("fold-batchnorm") + 1] == "sabotage"
    order = names_of(default.insert_before("normalize", Sabotage()))
    assert order[order.index("normalize") - 1] == "sabotage"
    assert names_of(default.replace("normalize", "normalize")) == names_of(default)
    assert names_of(default + ["cast-parameters"])[-2:] == ["cast-parameters"] * 2


def test_a_wrong_order_is_refused_when_it_is_built():
    with pytest.raises(CompileError, match=r"relu-to-if runs on a graph that is calibrated; here it is folded"):
        Pipeline(["fold-batchnorm", "relu-to-if"])
    with pytest.raises(CompileError, match="normalize runs on a graph that is folded; here it is spiking"):
        Pipeline(["fold-batchnorm", "normalize", "relu-to-if", "normalize"])


def test_unknown_names_get_a_suggestion():
    with pytest.raises(CompileError, match="did you mean 'fold-batchnorm'"):
        Pipeline(["fold-batchnrm"])
    with pytest.raises(CompileError, match="did you mean 'normalize'"):
        Pipeline.default(TARGET).without("normalise")
    with pytest.raises(CompileError, match="not a pass"):
        Pipeline([3])


def test_only_passes_for_its_stage_remain_for_a_spiking_graph():
    kept = names_of(Pipeline.default(TARGET).from_stage(SPIKING))
    assert kept == ["init-potential", "choose", "avgpool-to-sumpool", "fold-rescale", "cast-parameters"]


def test_every_file_is_a_pass_of_its_name():
    for stem in names("passes"):
        assert pass_named(stem.replace("_", "-")).name == stem.replace("_", "-")


def test_a_pass_prints_its_options():
    assert str(Sabotage(gain=2.0)) == "sabotage{gain=2.0}"
    assert str(Sabotage()) == "sabotage"


@pytest.mark.parametrize("verify", ["each", "end"])
def test_a_pass_that_breaks_its_contract_is_named(verify):
    pipeline = Pipeline.default(TARGET).insert_after("fold-batchnorm", Sabotage())
    with pytest.raises(VerificationError, match="exact pass changed the output") as caught:
        Compiler(TARGET, calibration=X, pipeline=pipeline, verify=verify).run(build.residual())
    if verify == "each" and hasattr(caught.value, "__notes__"):
        assert "sabotage; run before it: eliminate-identity" in caught.value.__notes__[0]


@pytest.mark.slow
def test_verify_off_does_not_look():
    pipeline = Pipeline.default(TARGET).insert_after("fold-batchnorm", Sabotage())
    Compiler(TARGET, calibration=X, pipeline=pipeline, verify="off").run(build.residual())


def test_a_wrong_count_of_changes_is_refused():
    pipeline = Pipeline.default(TARGET).insert_after("fold-batchnorm", Liar())
    with pytest.raises(VerificationError, match=r"reports 3 change\(s\)"):
        Compiler(TARGET, calibration=X, pipeline=pipeline).run(build.residual())


@attrs.frozen
class Nudge(Pass):
    """A tuned pass that helps or harms: all biases of the last layer move."""

    name = "nudge"
    contract = "tuned"
    needs = (SPIKING,)
    by: float = 0.0

    def run(self, graph, context):
        op = graph["fc"]
        graph.set_op("fc", op.affine(np.ones(1), np.array([self.by, 0, 0, 0, 0])))
        return 1


@pytest.mark.slow
@pytest.mark.parametrize(("by", "kept"), [(0.0, True), (50.0, False)])
def test_a_tuned_pass_is_kept_only_if_agreement_does_not_fall(by, kept):
    pipeline = Pipeline.default(TARGET).insert_after("init-potential", Nudge(by=by))
    c = Compiler(TARGET, calibration=X, pipeline=pipeline, timesteps=8).run(build.residual())
    record = next(r for r in c.stages if r.name == "nudge")
    assert record.changes == int(kept)
    assert any("left out" in note.reason for note in c.report.notes if note.by == "nudge") != kept


def test_without_takes_every_pass_of_that_name():
    twice = Pipeline(["infer-types", "eliminate-identity", "infer-types"])
    assert [each.name for each in twice.without("infer-types")] == ["eliminate-identity"]


@pytest.mark.slow
def test_a_tuned_pass_without_samples_is_left_out_and_noted():
    pipeline = Pipeline.default(TARGET, normalization=Normalization(method="model")).insert_after(
        "init-potential", Nudge(by=1.0)
    )
    with pytest.warns(SpikecWarning):
        c = Compiler(TARGET, pipeline=pipeline).run(build.residual())
    assert any("no samples to tune on" in note.reason for note in c.report.notes)


def test_a_pass_needs_a_name_and_a_known_contract():
    with pytest.raises(CompileError, match="has no name"):

        class Nameless(Pass):
            pass

    with pytest.raises(CompileError, match="contract 'exakt'"):

        class Typo(Pass):
            name = "typo"
            contract = "exakt"

    with pytest.raises(CompileError, match="tuned and gives stage spiking"):

        class Resting(Pass):
            name = "resting"
            contract = "tuned"
            gives = SPIKING


def test_an_ordinary_exception_in_a_pass_keeps_its_type_and_names_the_pass():
    @attrs.frozen
    class Broken(Pass):
        name = "broken"

        def run(self, graph, context):
            return 1 // 0

    with pytest.raises(ZeroDivisionError) as caught:
        Compiler(TARGET, calibration=X, pipeline=[Broken()]).run(build.residual())
    assert "in pass 1 of 1, broken" in getattr(caught.value, "__notes__", ["in pass 1 of 1, broken"])[0]


@pytest.mark.slow
def test_dumps_remove_only_what_they_wrote(tmp_path):
    (tmp_path / "01-notes.txt").write_text("mine")
    for _ in range(2):
        Compiler(TARGET, calibration=X, dump_dir=tmp_path).run(build.residual())
    assert (tmp_path / "01-notes.txt").read_text() == "mine"
    with pytest.raises(CompileError, match="cannot be made"):
        Compiler(TARGET, calibration=X, dump_dir=tmp_path / "01-notes.txt").run(build.residual())


def test_pipeline_and_normalization_together_are_refused():
    with pytest.raises(CompileError, match="both pipeline and normalization"):
        Compiler(TARGET, pipeline=Pipeline.default(TARGET), normalization="max")


@pytest.mark.parametrize(
    "wrong",
    [
        {"timesteps": 0},
        {"timesteps": 1.5},
        {"verify": "maybe"},
        {"normalization": 1.5},
        {"normalization": "most"},
        {"normalization": True},
        {"normalization": "120%"},
    ],
)
def test_wrong_options(wrong):
    with pytest.raises(CompileError):
        Compiler(TARGET, **wrong)


def test_normalization_spellings():
    assert Normalization.parse("max") == Normalization(method="max", per_channel=False)
    assert Normalization.parse("99.9%") == Normalization(percentile=99.9, per_channel=False)
    assert Normalization.parse(1 / 3) == Normalization(method="max", factor=1 / 3, per_channel=False)
    assert Normalization().v_init == 0.5


def test_a_default_pipeline_takes_every_spelling_of_a_normalization():
    by = Pipeline.default(TARGET, normalization="99.5%", timesteps=8)
    (found,) = (each for each in by if each.name == "normalize")
    assert found.normalization == Normalization(percentile=99.5, per_channel=False)
    assert "correct-bias" in [each.name for each in by]
    assert "choose" not in [each.name for each in by]


@pytest.mark.slow
def test_dumps_diff_and_hold_no_addresses(tmp_path):
    for folder in ("one", "two"):
        Compiler(TARGET, calibration=X, dump_dir=tmp_path / folder).run(build.residual())
    one, two = (sorted(p for p in (tmp_path / f).iterdir() if p.stem != "index") for f in ("one", "two"))
    assert [p.name for p in one] == [p.name for p in two]
    assert all(a.read_text() == b.read_text() for a, b in zip(one, two, strict=True))
    assert (tmp_path / "one" / "00-import.txt").read_text().startswith("graph test {")
    assert "fold-batchnorm.diff" in [p.name.partition("-")[2] for p in one]
    assert "canonicalize-activations.txt" not in [p.name.partition("-")[2] for p in one]
    index = (tmp_path / "one" / "index.tsv").read_text().splitlines()
    assert len(index) == 2 + len(Pipeline.default(TARGET))
    assert "became an affine op of its own" in next(row for row in index if "-fold-batchnorm\t" in row)
    assert str(tmp_path) not in "".join(p.read_text() for p in one)


@pytest.mark.slow
def test_a_second_run_leaves_no_stale_dumps(tmp_path):
    Compiler(TARGET, calibration=X, dump_dir=tmp_path).run(build.residual())
    Compiler(TARGET, calibration=torch.rand(9, 6), dump_dir=tmp_path).run(build.mlp())
    assert not (tmp_path / "01-eliminate-identity.txt").exists()
    assert len(list(tmp_path.glob("*-fold-batchnorm.txt"))) == 1


@attrs.frozen
class Break(Pass):
    """Leaves the first layer undone, in one of three ways."""

    name = "break"
    how: str = "raise"

    def run(self, graph, context):
        first = graph.match(Linear)[0]
        weight = {"type": first.op.weight[:, 1:], "cycle": first.op.weight.T}.get(self.how, 2 * first.op.weight)
        graph.set_op(first.name, attrs.evolve(first.op, weight=weight.copy(), bias=None))
        if self.how == "raise":
            return 1 // 0
        if self.how == "cycle":
            graph.set_operands(first.name, graph.users(first.name)[0][0])
        return 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "error", "shown"),
    [
        ("raise", ZeroDivisionError, ": real<8>"),
        ("type", TypeMismatchError, ": ?"),
        ("cycle", CompileError, "%fc1 = linear(%bn1, weight=6x8#"),
        ("contract", VerificationError, ": real<8>"),
    ],
)
def test_a_pass_that_fails_leaves_its_dump_and_its_diff(tmp_path, how, error, shown):
    x, pipeline = torch.rand(9, 6), ["eliminate-identity", Break(how=how), "fold-batchnorm"]
    Compiler(TARGET, calibration=torch.rand(9, 6), dump_dir=tmp_path).run(build.mlp())  # what it left there must go
    with pytest.raises(error):
        Compiler(TARGET, calibration=x, pipeline=pipeline, verify="each", dump_dir=tmp_path).run(build.mlp())
    dump, diff = ((tmp_path / f"02-break.{suffix}").read_text() for suffix in ("txt", "diff"))
    assert shown in next(line for line in dump.splitlines() if "%fc1 =" in line)
    assert "\n-  %fc1 =" in diff
    assert "\n+  %fc1 =" in diff
    *_, before, row = (line.split("\t") for line in (tmp_path / "index.tsv").read_text().splitlines())
    assert before[:2] == ["01-eliminate-identity", "0"]
    assert row[:4] == ["02-break", "failed", "8", "8"]
    assert row[5].startswith(error.__name__)
    assert not list(tmp_path.glob("*-fold-batchnorm.*"))


def test_the_probe_is_of_the_graph():
    assert probe(build.mlp(), None, 3)[0].shape[1:] == (6,)


@attrs.frozen
class Spy(Pass):
    """Sees which ops that stood behind batch norms are still there, and what else may be asked for."""

    name = "spy"
    looks_back = False
    seen = []

    def run(self, graph, context):
        gc.collect()
        known = context.ann is not None, context.calibration.gathered is not None
        self.seen.append((weakref.ref(graph["conv1"]), known, [op() is not None for op, *_ in self.seen]))
        return 0


@attrs.frozen
class LooksBack(Spy):
    name = "looks-back"
    looks_back = True


@pytest.mark.slow
@pytest.mark.parametrize("verify", ["off", "end"])
def test_what_no_pass_to_come_looks_back_at_is_let_go_of(verify, monkeypatch):
    monkeypatch.setattr("spikec.interpreter.probe.PRODUCTS", 1)  # as of a net that is too large to be measured
    Spy.seen.clear()
    pipeline = Pipeline.default(TARGET, normalization="max").insert_after("relu-to-if", LooksBack()) + [Spy(), Spy()]
    spikec.compile(build.residual(), TARGET, calibration=X, pipeline=pipeline, verify=verify)
    assert [known for _, known, _ in Spy.seen] == [(True, True), (False, False), (False, False)]
    assert Spy.seen[-1][2] == [False, True]
    Spy.seen.clear()
    compilation = Compiler(TARGET, calibration=X, pipeline=pipeline, verify=verify).run(build.residual())
    assert Spy.seen[-1][2] == [True, True]
    assert compilation.calibration is not None
