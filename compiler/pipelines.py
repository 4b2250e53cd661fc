"""The default order of passes. Order is semantics, so it is one list on one page."""

from typing import Any

from spikec.normalization import Normalization

#: From an imported ANN to a spiking graph without float scalers; a target adds its own passes behind.
COMMON: tuple[str, ...] = (
    "eliminate-identity",
    "infer-types",
    "detach-head",
    "canonicalize-activations",
    "lower-maxpool",
    "lower-adaptive-pool",
    "fold-batchnorm",
    "normalize",
    "relu-to-if",
    "init-potential",
)


def options(normalization: Normalization) -> dict[str, dict[str, Any]]:
    """The options of the common passes that follow from the user's choice of normalization."""
    return {
        "normalize": {"normalization": normalization},
        "init-potential": {"fraction": normalization.v_init},
    }
