"""What the processes of a ``torch.distributed`` group found, each on its own part of the data."""

from typing import Any

from torch import distributed

from spikec.ir.errors import CalibrationError


def of_all_processes(found: Any, group: Any = None) -> list[Any]:
    """Return what each process has found, in the order of their ranks; each of them must call it.

    Args:
        found: what this process has found.
        group: None for the default one.

    Raises:
        CalibrationError: the process is in no group.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        raise CalibrationError(
            "torch.distributed is not initialised", hint='call torch.distributed.init_process_group("gloo")'
        )
    parts: list[Any] = [None] * distributed.get_world_size(group)
    distributed.all_gather_object(parts, found, group)
    return parts
