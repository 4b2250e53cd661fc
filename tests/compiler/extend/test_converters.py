"""The tables of converters."""

from spikec.extend.converters import Converters


class Base:
    def meaning(self):
        return 1


class Derived(Base):
    pass


class Redefined(Base):
    def meaning(self):
        return 2


def test_a_class_takes_the_converter_of_the_base_whose_meaning_it_keeps_also_if_it_was_asked_for_before():
    table = Converters("converter")
    kinds = (Base, Derived, Redefined)
    assert [table.for_class(kind) for kind in kinds] == [None, None, None]
    base = table(Base)(lambda: "base")
    assert [table.for_class(kind) for kind in kinds] == [base, base, None]
    own = table(Derived)(lambda: "own")
    assert [table.for_class(kind) for kind in kinds] == [base, own, None]
