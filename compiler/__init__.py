"""spikec: a compiler from trained networks to spiking ones."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spikec.public import *
    from spikec.public import __version__ as __version__
else:

    def __getattr__(name: str) -> Any:
        """Import all public names at the first that is asked for, so that the command line can answer without torch."""
        public = importlib.import_module("spikec.public")
        globals().update((each, getattr(public, each)) for each in ("__all__", "__version__", *public.__all__))
        if name not in globals():
            raise AttributeError(f"module 'spikec' has no attribute {name!r}")
        return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *importlib.import_module("spikec.public").__all__})
