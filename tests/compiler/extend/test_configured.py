"""What is wrong with a user's pass or target is said of the class, with what to do, when it is defined or made."""

from collections.abc import Sequence
from typing import Any, ClassVar

import attrs
import pytest

import nets
import spikec
from spikec.extend.loader import pass_named


@attrs.frozen
class Rounded(spikec.Pass):
    name: ClassVar[str] = "rounded"
    bits: int = 8
    share: float = 0.5
    layers: tuple[str, ...] | None = None

    def run(self, graph: spikec.Graph, context: spikec.Context) -> int:
        return 0


@attrs.frozen
class Board(spikec.Backend):
    name: ClassVar[str] = "board"
    cores: int = 4

    def emit(self, graph: spikec.Graph, context: spikec.Context) -> Any:
        return graph


class Plain(spikec.Pass):
    name = "plain"
    bits: int = 8


class PlainBoard(spikec.Backend):
    name = "plain-board"
    cores: int = 4


class Nameless(spikec.Backend):
    def emit(self, graph, context):
        return graph


@pytest.mark.parametrize(
    ("make", "said", "hint"),
    [
        (lambda: Plain(bits=3), "bits of class Plain are no options", "put @attrs.frozen above class Plain"),
        (lambda: Plain(), "bits of class Plain are no options", "put @attrs.frozen above class Plain"),
        (lambda: PlainBoard(cores=3), "cores of class PlainBoard are no options", "above class PlainBoard"),
        (lambda: Rounded(bit=3), "rounded .class Rounded. does not fit: .* 'bit'", "options are: bits, share, layers"),
        (lambda: Rounded(8, 0.5, None, 1), "rounded .class Rounded. does not fit: too many", "bits, share, layers"),
        (lambda: Rounded(bits="three"), "bits is 'three'", "give an integer"),
        (lambda: Rounded(bits=2.5), "bits is 2.5", "give an integer"),
        (lambda: Rounded(bits=True), "bits is True", "give an integer"),
        (lambda: Rounded(share="half"), "share is 'half'", "give a number"),
        (lambda: Rounded(layers=3), "layers is 3", "or None"),
        (lambda: Board(cores="all"), "target board .class Board. does not fit: cores is 'all'", "integer"),
        (lambda: Board(core=1), "target board .class Board. does not fit: .* 'core'", "options are: cores"),
        (lambda: Nameless(), "class Nameless has no name", "name ="),
        (lambda: pass_named("strict-threshold", fires=3), "strict-threshold does not fit: fires is 3", '">="'),
    ],
)
def test_an_option_that_does_not_fit_is_said_of_the_class(make, said, hint):
    with pytest.raises(spikec.CompileError, match=said) as caught:
        make()
    assert hint in caught.value.hint


def test_options_that_fit_are_taken():
    assert attrs.astuple(Rounded(3, share=1, layers=("a",))) == (3, 1, ("a",))
    assert attrs.evolve(Rounded(), bits=2).bits == 2
    assert Board(cores=2).cores == 2


def emit_of_the_graph_only(self, graph):
    return graph


def emit_of_more(self, graph, context, folder):
    return graph


def passes_of_nothing(self):
    return ()


def thresholds(self):
    return "any"


@pytest.mark.parametrize(
    ("member", "method", "said", "hint"),
    [
        ("emit", emit_of_the_graph_only, "Wrong.emit cannot be called", "def emit(self, graph, context)"),
        ("emit", emit_of_more, "Wrong.emit cannot be called: .*'folder'", "def emit(self, graph, context)"),
        ("check", emit_of_more, "Wrong.check cannot be called", "def check(self, graph)"),
        ("passes", passes_of_nothing, "Wrong.passes cannot be called", "def passes(self, timesteps)"),
        ("thresholds", thresholds, "Wrong.thresholds is a method", "put @property above it"),
    ],
)
def test_a_method_that_cannot_be_called_is_refused_where_the_class_is_defined(member, method, said, hint):
    with pytest.raises(spikec.CompileError, match=said) as caught:
        type(spikec.Backend)("Wrong", (spikec.Backend,), {"name": "wrong", member: method})
    assert hint in caught.value.hint


def test_a_pass_that_takes_no_context_is_refused_where_it_is_defined():
    with pytest.raises(spikec.CompileError, match=r"Short.run cannot be called"):

        class Short(spikec.Pass):
            name = "short"

            def run(self, graph):
                return 0


def test_a_method_may_take_more_than_it_is_given():
    class Wide(spikec.Backend):
        name = "wide"

        def emit(self, graph, context, *more, folder=None):
            return graph

        def passes(self, *args: Any) -> Sequence[str] | None:
            return None

    assert Wide().name == "wide"


@pytest.mark.slow
def test_a_target_that_emits_nothing_says_so():
    class Silent(spikec.Backend):
        name = "silent"

    with pytest.raises(spikec.CompileError, match="target silent emits nothing"):
        spikec.compile(nets.build("mlp"), Silent(), calibration=nets.batch("mlp"))


@pytest.mark.slow
def test_what_a_class_without_defaults_needs_is_no_obstacle_to_saving_others(tmp_path):
    @attrs.frozen
    class Needy(spikec.Backend):
        name: ClassVar[str] = "needy"
        cores: int

    graph = spikec.compile(nets.build("mlp"), "nir", calibration=nets.batch("mlp"))
    spikec.save(graph, tmp_path / "net.nir")
    assert (tmp_path / "net.nir").is_file()
