"""Hints of refusals are followed: they lead to a conversion, and never back to where they came from."""

import ast
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import spikec

pytestmark = pytest.mark.slow


class Joined(nn.Module):
    """A forward that is a function of two Linears over the last axis and of the input."""

    def __init__(self, function):
        super().__init__()
        self.a, self.b, self.function = nn.Linear(4, 4), nn.Linear(4, 4), function

    def forward(self, x):
        return self.function(F.relu(self.a(x)), F.relu(self.b(x)), x)


def headed(*layers):
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(3))


def conv(channels, outputs=4, kernel=3, **options):
    return nn.Sequential(nn.Conv2d(channels, outputs, kernel, **options), nn.ReLU())


MODELS = {
    "1-d, many neurons": (headed(nn.Conv1d(8, 64, 3, padding=1), nn.ReLU()), (8, 40)),
    "3-d": (headed(nn.Conv3d(1, 4, 2), nn.ReLU()), (1, 4, 4, 4)),
    "3-d, many neurons": (headed(nn.Conv3d(1, 8, 2), nn.ReLU()), (1, 8, 8, 8)),
    "many neurons": (headed(conv(1, 16, padding=1)), (1, 12, 12)),
    "transposed": (headed(conv(1), nn.ConvTranspose2d(4, 2, 3), nn.ReLU()), (1, 6, 6)),
    "transposed, many neurons": (headed(conv(1, 16), nn.ConvTranspose2d(16, 16, 3), nn.ReLU()), (1, 14, 14)),
    "max-pool": (headed(conv(1), nn.MaxPool2d(2)), (1, 6, 6)),
    "max-pool, signed": (headed(nn.Conv2d(1, 4, 3), nn.MaxPool2d(3, 1, 1)), (1, 6, 6)),
    "max-pool, uneven": (headed(conv(1), nn.MaxPool2d((2, 1), 1)), (1, 7, 7)),
    "leaky": (headed(nn.Linear(4, 5), nn.LeakyReLU(0.1)), (4,)),
    "last axis": (headed(nn.Linear(4, 5), nn.ReLU()), (3, 4)),
    "last axis, many neurons": (headed(nn.Linear(4, 99), nn.ReLU()), (24, 4)),
    "reflection": (headed(conv(1), nn.ReflectionPad2d(1), conv(4)), (1, 6, 6)),
    "uneven average": (headed(conv(1), nn.AdaptiveAvgPool2d(3), conv(4, 4, 2)), (1, 7, 7)),
    "oblong kernel": (headed(nn.Conv2d(2, 4, (2, 3)), nn.ReLU()), (2, 7, 7)),
    "skip": (Joined(lambda a, b, x: a + x), (4,)),
    "concat": (Joined(lambda a, b, x: torch.cat([a, b], 1)), (3, 4)),
    "transposition": (Joined(lambda a, b, x: (a @ torch.eye(4)).transpose(1, 2)), (3, 4)),
    "two outputs": (Joined(lambda a, b, x: (a, b)), (4,)),
}
STARTS = [
    ("nir", {}),
    ("nir", {"profile": "spikingjelly"}),
    ("netx", {}),
    ("netx", {"reset": "soft"}),
    ("netx", {"reset": "hard"}),
]


def followed(state, hint):
    """The targets and options that a hint names, as (target, options)."""
    target, options = state
    hint = hint.replace("'", '"')  # an option is shown as Python shows its value
    for name, value in re.findall(r'\b(reset|profile|counters|timesteps)=("[\w-]+"|True|False|\d+)', hint):
        yield target, tuple({**dict(options), name: ast.literal_eval(value)}.items())
    for other in re.findall(r'"(spikingjelly|nir|netx|lava)"', hint):
        if f'profile="{other}"' not in hint:
            yield other, ()


def test_a_hint_is_read():
    start = "netx", (("reset", "soft"),)
    assert list(followed(start, 'use reset="hard"')) == [("netx", (("reset", "hard"),))]
    assert list(followed(start, 'use another target, such as "nir"')) == [("nir", ())]


@pytest.mark.filterwarnings("ignore::spikec.SpikecWarning")
@pytest.mark.parametrize("name", MODELS)
def test_hints_lead_to_a_conversion_and_never_back(name):
    torch.manual_seed(0)
    model, shape = MODELS[name]
    x = torch.rand(16, *shape) + 0.01
    model.eval()(x)
    known = {}

    def hints(state):
        """The hints of all problems with a target and its options; none where it converts."""
        if state not in known:
            options = {"calibration": x, "timesteps": 8, "normalization": "max", "verify": "off", **dict(state[1])}
            try:
                spikec.compile(model, state[0], **options)
            except spikec.CompileError as error:
                known[state] = [problem.hint for problem in error.problems]
            else:
                known[state] = []
        return known[state]

    def walk(state, path):
        """Whether some way on converts; no way may lead back to what was refused on the way."""
        assert state not in path, f"{' -> '.join(map(str, [*path, state]))}"
        refused = hints(state)
        ways = dict.fromkeys(way for hint in refused for way in followed(state, hint))
        converts = [walk(way, [*path, state]) for way in ways]  # all of them, because none may lead back
        return not refused or any(converts)

    for target, options in STARTS:
        assert walk((target, tuple(options.items())), []), (
            f"{target} {options}: {hints((target, tuple(options.items())))}"
        )
