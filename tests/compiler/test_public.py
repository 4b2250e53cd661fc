"""What ``import spikec`` brings, and what answers without torch."""

import subprocess
import sys

import pytest

import spikec


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_help_and_wrong_usage_need_no_torch():
    said = python(
        "import sys\n"
        "from spikec.shell.cli import main\n"
        "for command in (['--help'], ['compile', '--help'], ['--version'], ['nothing'], ['compile'], ['diagnose']):\n"
        "    try:\n"
        "        main(command, prog_name='spikec')\n"
        "    except SystemExit:\n"
        "        pass\n"
        "assert 'torch' not in sys.modules\n"
    )
    assert said.returncode == 0, said.stderr
    assert "Compile trained networks" in said.stdout
    assert "No such command 'nothing'" in said.stderr


@pytest.mark.slow
def test_public_names_come_when_one_is_asked_for_and_what_is_put_in_their_place_stays():
    said = python(
        "import spikec, sys\n"
        "assert 'torch' not in sys.modules\n"
        "run, spikec.run = spikec.run, None\n"
        "assert 'spikec.diagnosis' not in sys.modules and spikec.diagnose and spikec.run is None\n"
        "spikec.run = run\n"
        "from spikec import *\n"
        "assert load is spikec.load is sys.modules['spikec.reading'].load\n"
        "assert spikec.ir.ops.Conv and spikec.__version__\n"
    )
    assert said.returncode == 0, said.stderr


def test_public_names_are_listed_and_others_are_none():
    assert {*spikec.__all__, "__version__"} <= set(dir(spikec))
    with pytest.raises(AttributeError, match="module 'spikec' has no attribute 'nothing'"):
        spikec.nothing  # noqa: B018


@pytest.mark.slow
def test_reading_a_module_imports_no_other_format_and_none_of_torchs_compilers():
    said = python(
        "import sys, torch, spikec\n"
        "from torch import nn\n"
        "layers = [nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2)]\n"
        "model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()\n"
        "before = set(sys.modules)\n"
        "spikec.load(model, torch.rand(2, 1, 8, 8))\n"
        "heavy = {'onnx', 'nir', 'h5py', 'sympy', 'torch._dynamo', 'torch._inductor', 'torch.onnx'}\n"
        "assert 'spikec.diagnosis' not in sys.modules\n"
        "assert not heavy & (set(sys.modules) - before), heavy & set(sys.modules)\n"
    )
    assert said.returncode == 0, said.stderr


@pytest.mark.slow
def test_a_compile_imports_none_of_torchs_compilers():
    """They take a second and a half; imported within a process group they also keep that group's threads alive."""
    said = python(
        "import sys, torch, spikec\n"
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.convs = nn.ModuleList(nn.Conv2d(c, 4, 3, padding=1) for c in (2, 4, 4, 4, 12))\n"
        "        self.up, self.smooth = nn.Upsample(scale_factor=2), nn.Upsample(scale_factor=2, mode='bilinear')\n"
        "        self.transposed, self.norm = nn.ConvTranspose2d(4, 4, 2, 2), nn.GroupNorm(2, 4)\n"
        "        self.head = nn.Linear(4, 3)\n"
        "    def forward(self, x):\n"
        "        x = self.convs[0](x).relu()\n"
        "        x = x + self.convs[1](x).relu() - self.norm(self.convs[2](x))\n"
        "        inner = self.convs[3](nn.functional.max_pool2d(x, 2)).relu()\n"
        "        x = torch.cat([self.up(inner), self.smooth(inner).relu(), self.transposed(inner).relu()], 1)\n"
        "        x = nn.functional.silu(self.convs[4](x))\n"
        "        return self.head((x * x.mean((2, 3), keepdim=True).sigmoid()).amax((2, 3)))\n"
        "model, x = Net().eval(), torch.rand(8, 2, 6, 6)\n"
        "sys.modules['torch._dynamo'] = None  # an import of it fails\n"
        "for options in {}, {'timesteps': 4}, {'normalization': 'max'}, {'accumulate': True}:\n"
        "    snn = spikec.Compiler('spikingjelly', calibration=x, **options).run(model)\n"
        "    assert spikec.diagnose(snn, x, timesteps=4).layers\n"
    )
    assert said.returncode == 0, said.stderr
