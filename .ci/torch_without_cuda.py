"""Make an installed CUDA build of torch importable without CUDA, to compute on the CPU.

On x86_64 PyPI has CUDA builds of torch only, and those cannot be imported without gigabytes of libraries that nothing
here uses. This script, run by the Python that has torch (installed with ``--no-deps``), drops these libraries from
torch's requirements, and puts one library in their place: each function of theirs answers 100, which is CUDA's "no
device", so that ``torch.cuda.is_available()`` is False and all else is as in a CPU build. It needs gcc and binutils.
"""

import re
import subprocess
from importlib.metadata import distribution
from pathlib import Path


def printed(*command: str) -> str:
    """What a command writes; a command that fails ends the script."""
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def missing(libraries: list[str]) -> set[str]:
    """The CUDA libraries that torch is linked with and does not bring."""
    linked = re.findall(r"\(NEEDED\).*\[(lib(?:cu|nv|nccl).*)\]", printed("readelf", "-d", *libraries))
    return set(linked) - {Path(each).name for each in libraries}


def wanted(libraries: list[str]) -> dict[str, list[str]]:
    """The functions that they are to have, by symbol version; the linker checks versions as well."""
    defined = set(re.findall(r" [A-Zi] (\w+)", printed("nm", "-D", "--defined-only", *libraries)))
    used = re.findall(r" U (_*(?:cu|nv|nccl)\w*)(?:@(\S+))?", printed("nm", "-D", "--undefined-only", *libraries), re.I)
    versions: dict[str, list[str]] = {}
    for name, version in sorted(set(used)):
        if name not in defined:
            versions.setdefault(version or "unversioned", []).append(name)
    return versions


def main() -> None:
    """Mend the torch of the Python that runs this; one that needs no CUDA stays as it is."""
    torch = distribution("torch")
    metadata = next(Path(str(torch.locate_file(file))) for file in torch.files or () if file.name == "METADATA")
    lines = metadata.read_text().splitlines(keepends=True)
    metadata.write_text("".join(x for x in lines if not re.match("Requires-Dist: (nvidia|cuda|triton)", x)))
    folder = Path(str(torch.locate_file("torch/lib")))
    libraries = [str(path) for path in sorted(folder.glob("*.so*"))]
    names = missing(libraries)
    if not names:
        return
    versions = wanted(libraries)
    source, script, library = (folder / f"no_device.{ending}" for ending in ("c", "map", "so"))
    source.write_text("".join(f"long {name}(void) {{ return 100; }}\n" for each in versions.values() for name in each))
    script.write_text("".join(f"{version} {{ {'; '.join(each)}; }};\n" for version, each in versions.items()))
    printed("gcc", "-shared", "-fPIC", "-w", f"-Wl,--version-script={script}", "-o", str(library), str(source))
    for name in names:
        (folder / name).symlink_to(library.name)


main()
