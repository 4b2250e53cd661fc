"""A random network: the text of a torch module.

It is put together line by line, and each line runs at once, so that the next one knows all shapes.
"""

import contextlib
import functools
import linecache
import operator
import re
import warnings

import attrs
import torch
from torch import nn
from torch.nn import functional as F

#: numbers that a value of a network may hold for each sample, and axes that it may have, the batch included
LARGEST = 400
AXES = 5
#: what a network may end in: heads, and a single number a sample
ENDS = [
    *("F.softmax({x}, 1)", "F.log_softmax({x}, 1)", "torch.sigmoid({x})", "torch.tanh({x})"),
    *("{x}.flatten(1).sum(1)", "{x}.flatten(1)[:, 0]", "F.relu({x}.flatten(1).mean(1) + 1)"),
    "{x}.flatten(1).sum(1) + {x}.flatten(1)[:, 0]",
]
#: an output must vary over the batch by this share of the largest number in the network, or it can check nothing
VARIES = 1e-2
BATCH = 6


@attrs.frozen
class Network:
    """A module as text.

    Attributes:
        shapes: of a sample of each input.
        layers: the text of each layer or parameter, ``self.l0``, ``self.l1``, ...
        lines: the body of ``forward``, whose last line returns the outputs.
        seed: of its weights and of the data.
        signed: whether data is negative too.
    """

    shapes: tuple[tuple[int, ...], ...]
    layers: tuple[str, ...]
    lines: tuple[str, ...]
    seed: int = 0
    signed: bool = False

    @property
    def source(self) -> str:
        """The class ``Net``."""
        arguments = "".join(f", x{i}" for i in range(len(self.shapes)))
        layers = "".join(f"        self.l{i} = {text}\n" for i, text in enumerate(self.layers))
        lines = "".join(f"        {line}\n" for line in self.lines)
        return (
            "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
            f"{layers}\n    def forward(self{arguments}):\n{lines}"
        )

    def build(self) -> nn.Module:
        """The module in float64 and eval mode, with the same weights every time."""
        name = "<random network>"
        linecache.cache[name] = (len(self.source), None, self.source.splitlines(keepends=True), name)
        space = {"torch": torch, "nn": nn, "F": F}
        exec(compile(self.source, name, "exec"), space)
        return built(space["Net"], self.seed)

    def data(self, count: int) -> tuple[torch.Tensor, ...]:
        """A batch for each input."""
        return data(self.shapes, count, self.seed, self.signed)


def built(kind, seed):
    """A module in float64 and eval mode: batch norms far from their defaults, biases away from zero."""
    torch.manual_seed(seed)
    model = kind().double()
    with torch.no_grad():
        for module in model.modules():
            if getattr(module, "running_mean", None) is not None:
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2)
                if module.affine:
                    module.weight.uniform_(-0.5, 1.5)
                    module.bias.normal_(0, 0.3)
            elif isinstance(getattr(module, "bias", None), torch.Tensor):
                module.bias.normal_(0, 0.2)
    return model.eval()


def data(shapes, count, seed, signed):
    """A batch in float64 for each input."""
    make = torch.Generator().manual_seed(seed + 1)
    draw = torch.randn if signed else torch.rand
    return tuple(draw(count, *shape, generator=make, dtype=torch.float64) for shape in shapes)


class Choices:
    """Bytes that choose: the first of the options where a byte is 0, and where there are no more of them."""

    def __init__(self, numbers: bytes) -> None:
        self.left = list(reversed(numbers))

    def pick(self, *options):
        """One of the options; those that should be left when a failure shrinks come first."""
        number = self.left.pop() if self.left else 0
        return options[number % len(options)]

    def some(self, count, *options):
        """A tuple of that many."""
        return tuple(self.pick(*options) for _ in range(count))


class Writer:
    """A network that is being written.

    Attributes:
        x: the name of the value that the current step is for; ``shape`` is its shape, batch included.
        choices: what the current step is to choose by.
    """

    def __init__(self, shapes, signed):
        self.module = nn.Module()
        self.layers, self.lines = [], []
        self.values = dict(zip((f"x{i}" for i in range(len(shapes))), data(shapes, BATCH, 0, signed), strict=True))
        self.taken = {}  # the shape that each layer was first called with

    @property
    def shape(self):
        return tuple(self.values[self.x].shape)

    @property
    def size(self):
        """Of the axes behind the channels."""
        return self.shape[2:]

    @property
    def channels(self):
        return self.shape[1]

    def pick(self, *options):
        return self.choices.pick(*options)

    def some(self, *options):
        """One for each axis behind the channels; a plain number where all are the same."""
        found = self.choices.some(len(self.size), *options)
        return found[0] if len(set(found)) == 1 else found

    def axis(self, first=1):
        """An axis of the value, counted from the front or from behind."""
        axis = self.pick(*range(first, len(self.shape)))
        return self.pick(axis, axis - len(self.shape))

    def length(self, axis):
        return self.shape[axis]

    def layer(self, text):
        """Call a new layer."""
        self.layers.append(text)
        name = f"l{len(self.layers) - 1}"
        with self.torch_may_refuse():
            setattr(self.module, name, eval(text, {"torch": torch, "nn": nn}).double().eval())
        self.taken[name] = self.shape
        self.taken[name] = self.shape
        return f"self.{name}({self.x})"

    def parameter(self, *shape):
        """A new parameter of that shape."""
        text = f"nn.Parameter(torch.randn({', '.join(map(str, shape))}))"
        self.layers.append(text)
        name = f"l{len(self.layers) - 1}"
        setattr(self.module, name, nn.Parameter(torch.randn(*shape, dtype=torch.float64)))
        return f"self.{name}"

    def other(self, like=None):
        """Another value of that shape, or of the current one's; the value itself where there is none."""
        wanted = self.shape if like is None else like
        found = [name for name, value in self.values.items() if tuple(value.shape) == wanted and name != self.x]
        return self.pick(*reversed(found)) if found else self.x

    def run(self, line):
        """Do what the line says.

        Raises:
            UnfitError: torch refuses it, or its result is larger than a test should be.
        """
        with self.torch_may_refuse(), torch.no_grad():
            exec(line, {"torch": torch, "nn": nn, "F": F, "self": self.module}, self.values)
        self.lines.append(line)

    @staticmethod
    @contextlib.contextmanager
    def torch_may_refuse():
        """Raise UnfitError where torch does not take what it is given."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        except (RuntimeError, ValueError, IndexError, TypeError, NotImplementedError) as error:
            raise UnfitError(str(error)) from error

    def step(self, step, numbers):
        """Let a step write its line for the latest value, or for an older one. What does not fit leaves nothing."""
        self.choices = Choices(numbers)
        self.x = list(self.values)[-1 - self.pick(*[0] * 9, 1, 2, 3) % len(self.values)]
        layers, lines, before = len(self.layers), len(self.lines), set(self.values)
        try:
            text = step(self)
            if text is None:
                raise UnfitError("it does not fit")
            if text not in self.values:
                self.run(f"{self.name()} = {text}")
            for name in self.values.keys() - before:
                self._check(self.values[name])
        except UnfitError:
            for number in range(layers, len(self.layers)):
                self.taken.pop(f"l{number}", None)
            del self.layers[layers:]
            del self.lines[lines:]
            for name in self.values.keys() - before:
                del self.values[name]

    def name(self, more=0):
        """The name for the next value, or for one after it."""
        return f"y{len(self.values) - sum(name[0] == 'x' for name in self.values) + more}"

    def _check(self, value):
        if not isinstance(value, torch.Tensor) or value.ndim < 2 or value.ndim > AXES or len(value) != BATCH:
            raise UnfitError("no value with a batch")
        if not 0 < value[0].numel() <= LARGEST or not torch.isfinite(value).all() or float(value.abs().max()) > 1e4:
            raise UnfitError("too large")

    def outputs(self, numbers, single):
        """Return one value, or several in a container, and say whether any varies enough."""
        self.choices = Choices(numbers)
        largest = max(float(value.abs().max()) for value in self.values.values())
        worth = [
            name
            for name, value in reversed(self.values.items())
            if name[0] == "y" and float((value - value.mean(0)).abs().max()) > VARIES * largest
        ]
        if not worth:
            return False
        first = worth[0]
        if end := self.pick(*[""] * 24, *ENDS):
            self.run(f"{self.name()} = {end.format(x=first)}")
            first = list(self.values)[-1]
        text = " ".join(self.lines)
        unused = [name for name in worth[1:] if len(re.findall(rf"\b{name}\b", text)) == 1]
        more = () if single else self.pick((), tuple(unused[:3]), self.choices.some(self.pick(1, 2), *worth))
        if not more:
            self.lines.append(f"return {first}")
            return True
        names = [first, *more]
        kind = self.pick("tuple", "list", "dict", "nested")
        self.lines.append(
            "return "
            + {
                "tuple": ", ".join(names),
                "list": f"[{', '.join(names)}]",
                "dict": "{" + ", ".join(f'"out{i}": {name}' for i, name in enumerate(names)) + "}",
                "nested": f"{names[0]}, [{', '.join(names[1:])}]",
            }[kind]
        )
        return True


class UnfitError(Exception):
    """A step that does not fit the value."""


def arguments(*given, **options):
    """The text of a call's arguments: those of value None are left out."""
    named = [f"{name}={value!r}" for name, value in options.items() if value is not None]
    return ", ".join([*map(str, given), *named])


def product(numbers):
    return functools.reduce(operator.mul, numbers, 1)
