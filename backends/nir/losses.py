"""What a reader does otherwise than the network that it is given: notes for the report."""

from collections.abc import Mapping
from typing import Any

import nir

from spikec.backends.nir.profiles import Profile
from spikec.extend.passbase import Context


def note_losses(profile: Profile, nodes: Mapping[str, Any], context: Context) -> None:
    """Note what the reader that a profile is for does otherwise than the nodes' metadata say.

    Args:
        profile: of the reader.
        nodes: those of the file, by their names in the graph.
        context: takes the notes.
    """
    neurons = {name: node for name, node in nodes.items() if "reset" in getattr(node, "metadata", {})}
    late = [name for name, node in neurons.items() if "reset_at" in node.metadata]
    _note_reset(profile, {name: neurons[name] for name in neurons if name not in late}, context)
    if late:
        context.note(
            late[0],
            f"{len(late)} layer(s) do not reset with their spike, which is metadata (reset_at): a reader that does "
            "not know it gives other spikes",
        )
    if neurons and profile.several:
        floor = ", and keeps potentials above -v_threshold" if profile.floors and _has(neurons, nir.IF) else ""
        context.note(
            next(iter(neurons)),
            f"{profile.reader} fires several times in a step where a potential is several thresholds{floor}",
        )


def _has(nodes: Mapping[str, Any], kind: type) -> bool:
    return any(isinstance(node, kind) for node in nodes.values())


def _note_reset(profile: Profile, neurons: Mapping[str, Any], context: Context) -> None:
    """Note where the reader resets otherwise than the network."""
    wanted = "value" if profile.resets == "soft" else "subtract"
    odd = [name for name, node in neurons.items() if node.metadata["reset"] == wanted]
    if not odd or profile.resets == "stated":
        return
    here, there = ("to a value", "by subtraction") if wanted == "value" else ("by subtraction", "to zero")
    who = profile.reader or "most readers"
    message = f"{len(odd)} of {len(neurons)} layer(s) reset {here}, which NIR has no field for: {who} reset {there}"
    if not profile.reader:
        message += " (SpikingJelly, norse and snn-mlir; sinabs subtracts)"
    context.note(odd[0], message)
