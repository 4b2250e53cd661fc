"""Print the oldest versions that pyproject.toml allows, as pip's constraints; each requirement must state one."""

import re
from pathlib import Path

import tomllib

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
for requirement in [*project["dependencies"], *extras["demo"], *extras["onnx"], *extras["test"]]:
    if not requirement.startswith("spikec["):
        name, oldest = re.fullmatch(r"([\w-]+)>=([\d.]+)", requirement).groups()
        print(f"{name}=={oldest}")
print("pyparsing<3.3")  # later ones warn of what the oldest matplotlib calls
