"""A failing network as one file that repeats the failure.

The file needs what spikec needs, and neither hypothesis nor this folder.
"""

import inspect
import os
import types
from pathlib import Path

from random_networks.network import built, data

#: functions of files in this folder's parent are written into the file; all others are imported by it
TESTS = Path(__file__).parents[1]
#: where the files are written
FOLDER = Path(os.environ.get("SPIKEC_RANDOM_FAILURES", "random-failures"))


def write(network, holds, samples, error):
    """Write the file for a network of which a property does not hold; its name says which property and kind of error.

    It replaces the file of the same name: the last network that hypothesis tries is the smallest.
    """
    kind = type(error).__name__
    message = str(error).replace("\\", "/").replace('"', "'")
    given = f"built(Net, {network.seed}), data({network.shapes}, {samples}, {network.seed}, {network.signed})"
    parts = [
        f'"""{holds.__name__} does not hold of this network.\n\n{kind}: {message}\n"""',
        *needed(holds, built, data),
        network.source,
        f'if __name__ == "__main__":\n    print({holds.__name__}({given}, {network.seed}))',
    ]
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{holds.__name__}_{kind}.py"
    path.write_text("\n\n".join(part.strip() for part in parts) + "\n")
    return path


def needed(*functions):
    """(imports, constants, functions) as text: all that these functions use, and they themselves."""
    imports, constants, texts = {"import torch", "from torch import nn", "from torch.nn import functional as F"}, {}, {}
    todo = list(functions)
    while todo:
        function = todo.pop()
        plain = inspect.unwrap(function)
        if plain.__name__ in texts:
            continue
        texts[plain.__name__] = inspect.getsource(plain)
        space = plain.__globals__
        for name in names(plain.__code__) | {name for name in space if f"\n@{name}." in "\n" + texts[plain.__name__]}:
            value = space.get(name) if name.isidentifier() else None
            if isinstance(value, types.FunctionType) and TESTS in Path(inspect.getfile(inspect.unwrap(value))).parents:
                todo.append(value)
            elif isinstance(value, types.ModuleType):
                imports.add(f"import {value.__name__}" + (f" as {name}" if value.__name__ != name else ""))
            elif isinstance(value, (int, float, range)):
                constants[name] = f"{name} = {value!r}"
            elif value is not None and not isinstance(value, str):
                imports.add(f"from {value.__module__} import {name}")
    return "\n".join(sorted(imports)), "\n".join(constants.values()), "\n\n\n".join(texts.values())


def names(code):
    """All names that a piece of code uses, and those that pieces of code within it use."""
    inner = (names(each) for each in code.co_consts if isinstance(each, types.CodeType))
    return set(code.co_names).union(*inner)
