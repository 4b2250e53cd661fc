"""spikec: a compiler from trained networks to spiking ones."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spikec.diagnosis import *
    from spikec.public import *
    from spikec.public import __version__ as __version__
else:

    def __getattr__(name: str) -> Any:
        """Import the public names of one module after the other, up to the one that is asked for.

        So the command line can answer without torch, and who compiles does not wait for what diagnoses.
        """
        listed = []
        for room in ("spikec.public", "spikec.diagnosis"):
            public = importlib.import_module(room)
            listed += public.__all__
            if not globals().keys() >= {*public.__all__}:  # once, so that what a user puts in their place stays
                names = (*public.__all__, "__version__")
                globals().update((each, getattr(public, each)) for each in names if hasattr(public, each))
            if name in globals():
                return globals()[name]
        if name != "__all__":
            raise AttributeError(f"module 'spikec' has no attribute {name!r}")
        globals()["__all__"] = sorted(listed)
        return globals()["__all__"]

    def __dir__() -> list[str]:
        return sorted({*globals(), *__getattr__("__all__")})
