"""``save``: an artifact of any target as its file."""

import os
from typing import Any

from spikec.extend import loader
from spikec.ir.errors import InvalidModelError, warn
from spikec.ir.files import path_of, replacing


def save(artifact: Any, path: str | os.PathLike[str]) -> None:
    """Write what :func:`compile` returned for any target; the file appears whole or not at all, and a link is followed.

    Raises:
        InvalidModelError: it is no target's artifact, or the file cannot be written.

    Examples:
        >>> spikec.save(spikec.compile(model, "nir", calibration=images, timesteps=8), "model.nir")
        >>> spikec.load("model.nir").is_spiking
        True
    """
    with replacing(path) as part:
        backend = next((each for each in loader.known_backends() if each.owns(artifact)), None)
        if backend is None:
            raise InvalidModelError(
                f"a {type(artifact).__name__} is not an artifact of any target",
                hint=f"targets: {', '.join(loader.backends())}; a backend of your own says what it owns, and saves it",
            )
        if backend.suffix and (given := path_of(path)).suffix not in (backend.suffix, *backend.aliases):
            warn(f"{given.name} does not end in {backend.suffix}, by which spikec knows such a file again")
        backend.save(artifact, part)
