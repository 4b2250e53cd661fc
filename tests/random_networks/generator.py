"""Random networks for hypothesis."""

import re

from hypothesis import strategies as st

from random_networks.network import Choices, Network, Writer
from random_networks.vocabulary import FOR, STEPS

#: bytes that a step may choose by
NUMBERS = 16


def networks(target=None, steps=10):
    """Networks of that many steps at most, of those that the target can carry."""
    names = sorted(FOR[target], key=lambda name: name != "affine")  # failures shrink towards the first
    numbers = st.binary(min_size=NUMBERS, max_size=NUMBERS)
    body = st.lists(st.tuples(st.sampled_from(names), numbers), min_size=1, max_size=steps)
    made = st.builds(written, body, numbers, numbers, st.integers(0, 999), st.just(target == "netx"))
    return made.filter(lambda network: network is not None)


def written(body, first, last, seed, single):
    """The network that these numbers say, or None where its output hardly varies."""
    shapes, signed = beginning(Choices(first))
    writer = Writer(shapes[:1] if single else shapes, signed)
    for name, numbers in body:
        writer.step(STEPS[name], numbers)
    if not writer.outputs(last, single):
        return None
    text = "\n".join(writer.lines)
    used = [i for i in range(len(shapes)) if re.search(rf"\bx{i}\b", text)]
    for new, old in enumerate(used):
        text = re.sub(rf"\bx{old}\b", f"x{new}", text)
    return Network(tuple(shapes[i] for i in used), tuple(writer.layers), tuple(text.split("\n")), seed, signed)


def beginning(choices):
    """(the shapes of a sample of each input, whether data is signed)."""
    signed = choices.pick(False, True)
    count, alike = choices.pick(1, 1, 1, 2, 3), choices.pick(True, False)
    one = sample(choices)
    return (one, *(one if alike else sample(choices) for _ in range(count - 1))), signed


def sample(choices):
    axes = choices.pick(2, 2, 1, 0, 3)
    return choices.pick(2, 3, 4, 1), *choices.some(axes, *((4, 5, 6, 3) if axes < 3 else (3, 4, 2)))
