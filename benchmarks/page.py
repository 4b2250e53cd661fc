"""The page of a dump in Chromium: the picture of it in README.md, and how long that of a ResNet-50 takes to open.

Arguments: the PNG to write, docs/dump.png where there is none; ``--only-picture``. Chromium is looked for on the path,
and in SPIKEC_CHROMIUM.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import nn

import spikec
from resnets import resnet18, resnet50

#: the script that a page is measured by: it runs behind the page's own, and asks for the layout of all that is drawn
MEASURE = "document.body.getBoundingClientRect(); document.body.dataset.opened = performance.now()"
#: how often a page is opened
TIMES = 5
#: of the picture, in pixels, and how many colours are left of it
SIZE, COLORS = (1500, 850), 64


def main() -> None:
    """Draw the picture, and print the measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("png", nargs="?", type=Path, default=Path(__file__).parents[1] / "docs" / "dump.png")
    parser.add_argument("--only-picture", action="store_true")
    given = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        page = dumped(resnet18(), 32, Path(folder) / "small")
        picture(page, "fold-batchnorm", "conv2d_3_body_0", given.png)
        print(f"{given.png}: {given.png.stat().st_size / 1000:.0f} kB")
        if not given.only_picture:
            page = dumped(resnet50(), 224, Path(folder) / "large")
            print(f"the page of a ResNet-50: {page.stat().st_size / 1e6:.1f} MB")
            measure(page)


def dumped(model: nn.Module, side: int, folder: Path) -> Path:
    """Compile a network for the target nir on a few random images, and return the page that it leaves."""
    images = torch.rand(4, 3, side, side)
    spikec.Compiler("nir", calibration=images, normalization="max", verify="off", dump_dir=folder).run(model)
    return folder / "index.html"


def picture(page: Path, name: str, node: str, png: Path) -> None:
    """Write the page as it shows the graph before and after a pass, with a node chosen, in few colours."""
    names = [each["name"] for each in json.loads(page.with_suffix(".json").read_text())["passes"]]
    shown = f"{page.as_uri()}#pass={names.index(name)}&node={node}&both=1"
    chromium(f"--screenshot={png}", f"--window-size={SIZE[0]},{SIZE[1]}", "--hide-scrollbars", shown)
    Image.open(png).convert("RGB").quantize(COLORS).save(png, optimize=True)


def measure(page: Path) -> None:
    """Print how long Chromium takes until the page is laid out, by its own clock and by that of its process."""
    used = page.with_name("measured.html")
    used.write_text(page.read_text().replace("</body>", f"<script>{MEASURE}</script></body>"))
    own, whole = [], []
    for _ in range(TIMES):
        started = time.perf_counter()
        text = chromium("--dump-dom", used.as_uri())
        whole.append(time.perf_counter() - started)
        (opened,) = re.findall(r'data-opened="([\d.]+)"', text)
        own.append(float(opened) / 1000)
    print(f"opened in {spread(own)}; {spread(whole)} with starting Chromium and writing the document out")


def spread(seconds: Sequence[float]) -> str:
    """Write the median and the range of some times."""
    ordered = sorted(seconds)
    return f"{ordered[len(ordered) // 2]:.2f} s ({ordered[0]:.2f} to {ordered[-1]:.2f})"


def chromium(*arguments: str) -> str:
    """Run Chromium without a window, and return what it prints."""
    found = os.environ.get("SPIKEC_CHROMIUM") or shutil.which("chromium")
    if found is None:
        raise SystemExit("needs Chromium on the path or in SPIKEC_CHROMIUM")
    command = [found, "--headless", "--no-sandbox", "--disable-gpu", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    main()
