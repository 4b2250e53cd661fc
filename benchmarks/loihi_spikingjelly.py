"""What SpikingJelly's ``to_lava_blocks`` says of the networks of ``loihi.py``.

    PYTHONPATH=tests:tests/backends/netx:tests/interop slayer/bin/python benchmarks/loihi_spikingjelly.py

runs under the Python of ``tests/interop/test_slayer.py`` (see ``tests/interop/README.md``). Each network is given to it
in three ways: as SpikingJelly's own converter makes it of the ANN; a list of the layers of that, without its scalers;
and a list of the ANN's layers with IF neurons that reset to zero in place of ReLUs, as SpikingJelly's
tutorial on lava has networks. Weights and data are random: nothing here depends on them.
"""

from slayer_real import make_importable

make_importable()

import copy  # noqa: E402
import io  # noqa: E402
import re  # noqa: E402
from contextlib import redirect_stderr  # noqa: E402

import torch  # noqa: E402
from spikingjelly.activation_based import ann2snn, lava_exchange, neuron  # noqa: E402
from torch import nn  # noqa: E402

from loihi import CHANNELS, FRAMES, NETS  # noqa: E402


def converted(model: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """Convert an ANN with SpikingJelly's rate coding, each layer by its maximum."""
    recipe = ann2snn.RateCodingRecipe(dataloader=[(torch.rand(8, *shape), torch.zeros(8))], mode="max")
    with redirect_stderr(io.StringIO()):
        return ann2snn.FXConverter(recipe=recipe).convert(copy.deepcopy(model))


def chain(model: nn.Module) -> list[nn.Module]:
    """Return what a converted network calls, in that order, without SpikingJelly's own scalers."""
    called = [model.get_submodule(str(node.target)) for node in model.graph.nodes if node.op == "call_module"]
    return [each for each in called if type(each).__name__ != "VoltageScaler"]


def spiking(model: nn.Module) -> list[nn.Module]:
    """Return an ANN's layers with an IF neuron that resets to zero for each ReLU."""
    leaves = [each for each in model.modules() if not list(each.children())]
    return [neuron.IFNode(step_mode="m") if isinstance(each, nn.ReLU) else each for each in leaves]


def main() -> None:
    """Print what each network gives."""
    print("| network | converted | its layers in a list | the ANN's layers with IF neurons |\n|---|---|---|---|")
    for name, (make, _) in NETS.items():
        torch.manual_seed(0)
        shape = (CHANNELS, FRAMES) if name == "keywords" else (1, 28, 28)
        said = []
        for way in (
            lambda model, shape: converted(model, shape),
            lambda model, shape: chain(converted(model, shape)),
            lambda model, shape: spiking(model),
        ):
            try:
                said.append(f"{len(lava_exchange.to_lava_blocks(way(make().eval(), shape)))} blocks")
            except Exception as error:  # whatever it says is what is printed
                said.append(re.sub(" at 0x[0-9a-f]+", "", f"{type(error).__name__}: {error}"))
        print(f"| {name} | {' | '.join(said)} |")


if __name__ == "__main__":
    main()
