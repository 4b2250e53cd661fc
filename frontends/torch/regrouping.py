"""Where the batch is in a tensor of another shape: by the sizes, which may hold it as a formula or as a number."""

import math
from collections.abc import Sequence
from typing import Any

from spikec.frontends.torch.batch import BatchSize


def regrouped_sizes(old: Sequence[int], front: int, shape: Sequence[Any]) -> tuple[list[int], int, int] | None:
    """(sizes for one sample, the axis that the batch is in, cells of it before the batch), or None.

    The sizes are those for a batch of any size where they say so, or leave one open, and else for the batch that the
    program was exported with, which is what they hold too much. ``front`` numbers of a sample are before the batch.
    """
    count = math.prod(old)
    if not count:
        return None
    if any(isinstance(size, BatchSize) for size in shape) or -1 in shape:
        one, two = (_solved([_at(size, n) for size in shape], n * count) for n in (1, 2))
        if one is None or two is None:
            return None
        differ = [i for i, (a, b) in enumerate(zip(one, two, strict=True)) if a != b]
        if len(differ) != 1 or two[differ[0]] != 2 * one[differ[0]]:
            return None
        sizes, place = one, differ[0]
    else:
        batch, rest = divmod(math.prod(shape), count)
        if rest or not batch:
            return None
        ends = [math.prod(shape[: i + 1]) for i in range(len(shape))]
        place = _place(front, shape) if batch == 1 else next(i for i, end in enumerate(ends) if end >= front * batch)
        if shape[place] % batch:
            return None
        sizes = [size // batch if i == place else size for i, size in enumerate(shape)]
    before, rest = divmod(front, math.prod(sizes[:place]))
    return None if rest or not before or sizes[place] % before else (sizes, place, before)


def _place(front: int, sizes: Sequence[int]) -> int:
    """Where a batch of one sample is: alone where it can be, else with the axis behind it unless that is the last.

    The tensor has the same numbers in any case. Where this is wrong, the batch may not come back to the front.

    Args:
        front: how many numbers there are in front of the batch.
        sizes: of the axes.
    """
    starts = [math.prod(sizes[:i]) for i in range(len(sizes))]
    places = [i for i, start in enumerate(starts) if start <= front <= start * sizes[i] and front % start == 0]
    alone = [i for i in places if sizes[i] == 1]
    inside = [i for i in places if i < len(sizes) - 1]
    return (alone or inside[-1:] or places)[0]


def _at(size: Any, batch: int) -> int:
    return size.at(batch) if isinstance(size, BatchSize) else size


def _solved(sizes: list[int], count: int) -> list[int] | None:
    """Sizes with the number for the one that is left open."""
    known = math.prod(size for size in sizes if size != -1)
    if known <= 0 or count % known or (-1 not in sizes and known != count) or sizes.count(-1) > 1:
        return None
    return [count // known if size == -1 else size for size in sizes]
