"""Files of torch.export (``.pt2``), which torch itself opens only for those who trust them.

``torch.export.load`` unpickles parts of a file, evaluates expressions in it and looks up functions by the names in it.
So it is given a file that is written anew from what was checked here: the program, whose calls are those of aten and
whose sizes are sums and products, and its weights as plain numbers. Example inputs, guards and extra files stay behind.
"""

import io
import json
import math
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch.export
from torch.export import ExportedProgram

from spikec.ir.errors import CompileError, Hint, InvalidModelError, shown
from spikec.ir.untrusted import allowed_bytes, members, too_large

_HINT = Hint("if you trust it, give spikec the program: torch.export.load(path)")
#: what the archive says of itself
_MARKS = ("archive_format", "archive_version", "byteorder", ".data/version")
_PROGRAM, _EXAMPLES = "models/model.json", "data/sample_inputs/model.pt"
#: folders of numbers, and the file that says of what tensor they are
_NUMBERS = {
    "data/weights/": "data/weights/model_weights_config.json",
    "data/constants/": "data/constants/model_constants_config.json",
}
_ARITHMETIC = "getitem|add|sub|mul|floordiv|truediv|mod|neg|eq|ne|lt|le|gt|ge"
#: what a call in the program may be of; aten::from_file would open another file
_TARGET = re.compile(rf"torch\.ops\.(aten\.(?!from_file\b)\w+|higher_order)\.\w+|_operator\.({_ARITHMETIC})")
#: a size, which sympy evaluates as Python: sums, products and quotients of numbers and symbols
_SIZE = re.compile(
    r"(?:Symbol\('\w+'(?:, \w+=(?:True|False))*\)|Integer\(-?\d{1,18}\)|(?:Add|Mul|Max|Min|FloorDiv|Mod)\("
    r"|\b[a-z]{1,3}\d{1,6}\b|\b\d{1,18}\b|[-+(),\s]|(?<!\*)\*(?!\*))*"
)
#: containers of inputs and outputs
_CONTAINERS = {None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"}


def read_program(path: Path, max_bytes: int | None = None) -> ExportedProgram:
    """Return the program in a file of ``torch.export.save``.

    Args:
        path: of the file.
        max_bytes: see :func:`spikec.ir.untrusted.read_hdf5`.

    Raises:
        InvalidModelError: the file is damaged or too large, or holds more than a program of aten.
    """
    allowed = allowed_bytes(path, max_bytes)
    try:
        with zipfile.ZipFile(path) as file:
            held = {name.partition("/")[2]: file.read(record) for name, record in members(path, file, max_bytes)}
        checked = _checked(path, held, allowed)
        anew = io.BytesIO()
        with zipfile.ZipFile(anew, "w") as out:
            for name, data in checked.items():
                out.writestr(f"model/{name}", data)
        anew.seek(0)
        program = torch.export.load(anew)
    except CompileError:
        raise
    except Exception as reason:  # whatever zipfile, json and torch make of damaged bytes
        said = (str(reason) or type(reason).__name__).splitlines()[0]
        raise InvalidModelError(f"{path} is no program as this version of torch saves it: {said}", hint=_HINT) from None
    return program


def _checked(path: Path, held: Mapping[str, bytes], allowed: int) -> dict[str, bytes]:
    """Return the parts of the archive that are read, once nothing in them can do harm."""
    if _PROGRAM not in held:
        raise ValueError("it holds no program called model")
    program = json.loads(held[_PROGRAM])
    for name, value in _fields(program):
        _check_field(name, value)
    if "guards_code" in program:
        program["guards_code"] = []  # which torch would run as Python
    checked = {name: held[name] for name in _MARKS if name in held}
    checked |= {_PROGRAM: json.dumps(program).encode(), _EXAMPLES: b""}
    numbers = 0
    for folder, listing in _NUMBERS.items():
        checked[listing] = held[listing]
        for name, entry in json.loads(held[listing])["config"].items():
            place = folder + entry["path_name"]
            if entry["use_pickle"] or entry["path_name"].partition("_")[0] not in ("weight", "tensor"):
                raise ValueError(f"{shown(name)} is pickled")
            sizes = [size["as_int"] for size in entry["tensor_meta"]["sizes"]]
            count = math.prod(sizes)
            if min(sizes, default=0) < 0 or count > len(held[place]):
                raise ValueError(f"{shown(name)} of shape {sizes} has {len(held[place])} bytes in the file")
            numbers += count
            checked[place] = held[place]
    if 4 * numbers > allowed:  # entries that share a file count each
        raise too_large(path, 4 * numbers)
    return checked


def _fields(tree: Any) -> Iterator[tuple[str, Any]]:
    """Yield every key in a tree of JSON with its value."""
    below = [tree]
    while below:
        each = below.pop()
        if isinstance(each, dict):
            yield from each.items()
            below += each.values()
        elif isinstance(each, list):
            below += each


def _check_field(name: str, value: Any) -> None:
    """Refuse what torch would evaluate, import or run.

    Raises:
        ValueError: it is a call of something else than aten, a size that is no sum or product, or an odd container.
    """
    if name == "target" and isinstance(value, str) and not _TARGET.fullmatch(value):
        raise ValueError(f"it calls {shown(value)}, which is no function of aten")
    if name == "expr_str" and not (len(str(value)) < 1000 and _SIZE.fullmatch(str(value))):
        raise ValueError(f"a size is {shown(value)}")
    if name in ("in_spec", "out_spec") and isinstance(value, str) and value:
        for key, said in _fields(json.loads(value)):
            if (key == "type" and said not in _CONTAINERS) or "__enum__" in str(said):
                raise ValueError(f"its inputs or outputs are in {shown(said)}")
