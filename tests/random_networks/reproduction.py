"""A failing network as one file that repeats the failure.

The file needs what spikec needs, and neither hypothesis nor this folder.
"""

import inspect
import os
import sys
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


def needed(*parts):
    """(imports, constants, functions and classes) as text: all that these use, and they themselves."""
    imports, constants, texts = {"import torch", "from torch import nn", "from torch.nn import functional as F"}, {}, {}
    todo = list(parts)
    while todo:
        part = inspect.unwrap(todo.pop())
        if part.__name__ in texts:
            continue
        text = texts[part.__name__] = inspect.getsource(part)
        space = vars(sys.modules[part.__module__])
        for name in names(part) | {name for name in space if text.startswith(f"@{name}.")}:
            value = space.get(name)
            if is_ours(value):
                todo.append(value)
            elif isinstance(value, types.ModuleType) and name.isidentifier():
                imports.add(f"import {value.__name__}" + (f" as {name}" if value.__name__ != name else ""))
            elif isinstance(value, (int, float, range)):
                constants[name] = f"{name} = {value!r}"
            elif isinstance(value, (type, types.FunctionType)):
                imports.add(f"from {value.__module__} import {name}")
    return "\n".join(sorted(imports)), "\n".join(constants.values()), "\n\n\n".join(texts.values())


def is_ours(value):
    """Whether it is a function or class of a file of the tests."""
    module = sys.modules.get(getattr(value, "__module__", ""))
    return (
        isinstance(value, (type, types.FunctionType)) and TESTS in Path(getattr(module, "__file__", "") or "").parents
    )


def names(part):
    """All names that a function, a class or a piece of code uses, and those that the pieces of code within it use."""
    if isinstance(part, type):
        inner = [each for each in vars(part).values() if isinstance(each, types.FunctionType)]
        return set().union(*map(names, inner)) | {base.__module__.split(".")[0] for base in part.__bases__}
    code = part.__code__ if isinstance(part, types.FunctionType) else part
    inner = [each for each in code.co_consts if isinstance(each, types.CodeType)]
    return set(code.co_names).union(*map(names, inner))
