"""Converters of neurons and layers of spiking libraries, by name: none of them is imported.

A forward is one time-step. A neuron starts where its library's reset puts it, whatever its state is now.
"""

from typing import Any

import attrs
import numpy as np
import torch
from torch import nn

from spikec.frontends.torch.call import Call, Missing, Signal, as_array, converter
from spikec.frontends.torch.convert import convert
from spikec.frontends.torch.layers import fires, layer_converter, stateful, torch_layer
from spikec.ir.errors import InvalidModelError
from spikec.ir.ops import IF, LIF, CubaLIF, Identity, Neuron
from spikec.ir.origin import Source
from spikec.ir.types import Array

_JELLY = "spikingjelly.activation_based"
#: what of a :class:`torch.nn.Module` keeps a state from call to call
stateful.update(
    {
        f"{_JELLY}.base.MemoryModule",
        "snntorch._neurons.neurons.SpikingNeuron",
        "spikec.backends.spikingjelly.modules.StatefulModule",
    }
)


def _named(package: str, file: str, *names: str) -> list[str]:
    """Return qualified names in SpikingJelly 2, and in releases where the package was one file."""
    return [f"{_JELLY}.{package}{part}.{name}" for part in (f".{file}", "") for name in names]


# ------------------------------------------------------------------ SpikingJelly's neurons


@converter(*_named("neuron", "integrate_and_fire", "IFNode", "HalfThresholdIFNode"))
@fires
def _if(module: Any, call: Call) -> Signal:
    return _neuron(call, call.operand, IF(**_jelly(module, call)))


@converter(*_named("neuron", "lif", "LIFNode"))
@fires
def _lif(module: Any, call: Call) -> Signal:
    return _neuron(call, call.operand, _jelly_lif(module, call, np.asarray(float(module.tau))))


@converter(*_named("neuron", "plif", "ParametricLIFNode"))
@fires
def _plif(module: Any, call: Call) -> Signal:
    return _neuron(call, call.operand, _jelly_lif(module, call, as_array(1 / module.w.detach().double().sigmoid())))


def _jelly_lif(module: Any, call: Call, tau: Array) -> LIF:
    leak = np.asarray(0.0 if module.v_reset is None else module.v_reset)
    gain = None if module.decay_input else np.ones(())
    return LIF(tau=tau, gain=gain, v_leak=leak, **_jelly(module, call))


@converter(*_named("neuron", "lif_variants", "CUBALIFNode"))
@fires
def _cuba(module: Any, call: Call) -> Signal:
    decays = (np.asarray(float(module.c_decay)), np.asarray(float(module.v_decay)))
    return _neuron(call, call.operand, CubaLIF(decay_syn=decays[0], decay=decays[1], **_jelly(module, call)))


def _jelly(module: Any, call: Call) -> dict[str, Any]:
    if not getattr(module.surrogate_function, "spiking", True):
        call.refuse("its surrogate_function has spiking=False, so that it puts out no spikes", "set spiking=True")
    return {
        "v_threshold": _per_neuron(call, "v_threshold", module.v_threshold),
        "v_reset": None if module.v_reset is None else np.asarray(float(module.v_reset)),
        "v_init": np.asarray(float(module._memories_rv["v"])),
    }


# ------------------------------------------------------------------ snnTorch's neurons


@converter("snntorch._neurons.leaky.Leaky")
@fires
def _leaky(module: Any, call: Call) -> Any:
    beta = _per_neuron(call, "beta", module.beta.clamp(0, 1))
    with np.errstate(divide="ignore"):
        tau = 1 / (1 - beta)
    reset = _snntorch(module, call, "mem")
    if reset["v_reset"] is not None:  # a potential that is cleared before it decays was cleared after it fired
        reset["reset_at"] = "spike"
    return _with_states(module, call, LIF(tau=tau, gain=np.ones(()), **reset), "membrane potential")


@converter("snntorch._neurons.synaptic.Synaptic")
@fires
def _synaptic(module: Any, call: Call) -> Any:
    decays = {name: _per_neuron(call, name, getattr(module, name).clamp(0, 1)) for name in ("alpha", "beta")}
    op = CubaLIF(decay_syn=decays["alpha"], decay=decays["beta"], **_snntorch(module, call, "syn, mem"))
    return _with_states(module, call, op, "current", "membrane potential")


def _with_states(module: Any, call: Call, op: Neuron, *states: str) -> Any:
    """Return the neuron's spikes; where it gives its states too, a tuple in which these are missing."""
    spikes = _neuron(call, call.args[0], op)
    if module.init_hidden and not module.output:
        return spikes
    return spikes, *(Missing(f"the {state} of {call.source.path} stays inside the layer") for state in states)


def _snntorch(module: Any, call: Call, states: str) -> dict[str, Any]:
    """Return threshold and reset by name; refuse what has no counterpart, and states that forward hands over."""
    if any(each is not None for each in (*call.args[1:], *call.kwargs.values())):
        call.refuse(
            f"forward hands the state {states} over to {call.source.path or 'the neuron'}, so that it does not go on "
            "from step to step by itself",
            f"call it with its input only, {call.source.path or 'lif'}(x), and clear it outside of forward: "
            "one forward is one time-step",
        )
    extras = {name: getattr(module, name) for name in ("inhibition", "state_quant")}
    extras["graded_spikes_factor"] = bool((module.graded_spikes_factor != 1).any())
    for name in (name for name, used in extras.items() if used):
        call.refuse(f"{name} of {call.source.kind} is not supported", "train it without")
    at_once = {"subtract": "again", "zero": "spike", "none": "never"}
    rule = module.reset_mechanism
    return {
        "v_threshold": _per_neuron(call, "threshold", module.threshold),
        "v_reset": np.zeros(()) if rule == "zero" else None,
        "strict": True,
        "reset_at": "next" if module.reset_delay and rule != "none" else at_once[rule],
    }


# ------------------------------------------------------------------ our own neurons


@converter("spikec.backends.spikingjelly.neurons.NeuronNode")
@fires
def _emitted(module: Any, call: Call) -> Signal:
    fields = {**module.fixed, **{name: getattr(module, name) for name in module.held}}
    fields = {name: as_array(value) if isinstance(value, torch.Tensor) else value for name, value in fields.items()}
    fields["v_threshold"] = _per_neuron(call, "v_threshold", module.v_threshold)
    return _neuron(call, call.operand, module.kind(**fields))


def _neuron(call: Call, current: Any, op: Neuron) -> Signal:
    """Add a neuron whose spikes stand for 1: the model's own numbers go on."""
    neurons = (call.graph[name] for name in call.graph if isinstance(call.graph[name], Neuron))
    if any(source.path == call.source.path for neuron in neurons for source in neuron.origin):
        call.refuse(
            f"{call.source.kind} is called more than once in a forward, and its state goes on from call to call",
            "let forward be one time-step, without a loop over time, and give each place a neuron of its own",
        )
    if not (op.v_threshold > 0).all():
        call.refuse("a threshold that is not positive is not supported", "train it with a threshold above 0")
    ones = np.ones((1,) * op.v_threshold.ndim)
    return call.add(attrs.evolve(op, out_scale=ones), current)


def _per_neuron(call: Call, name: str, value: Any) -> Array:
    """Return a parameter that broadcasts against [B, ...] from behind, as float64 of the sample's rank."""
    array = np.asarray(as_array(value) if isinstance(value, torch.Tensor) else value, dtype=np.float64)
    rank = len(call.shape(call.args[0]))
    if array.ndim > rank:
        call.refuse(
            f"{name} of shape {list(array.shape)} for a signal {call.shown(call.args[0])} is not supported",
            "give one number, or one for each neuron",
        )
    return array.reshape((1,) * (rank - array.ndim) + array.shape)


# ------------------------------------------------------------------ SpikingJelly's layers

_POOLS = [f"{kind}Pool{axes}d" for kind in ("Avg", "AdaptiveAvg", "Max") for axes in (1, 2, 3)]
_CONVS = [f"{kind}{axes}d" for kind in ("Conv", "ConvTranspose") for axes in (1, 2, 3)]
_NORMS = [f"BatchNorm{axes}d" for axes in (1, 2, 3)]


@converter(*_named("layer", "stateless_wrapper", "Linear", "Flatten", "Upsample", "GroupNorm", *_POOLS, *_CONVS))
@converter(*_named("layer", "bn", *_NORMS))
def _wrapped(module: nn.Module, call: Call) -> Signal:
    """Read a layer with a step_mode: at one step it is torch's layer of the same name."""
    result: Signal = torch_layer(module, call, getattr(nn, type(module).__name__))
    return result


@converter(*_named("layer", "dropout", "Dropout", "Dropout2d"))
def _dropout(module: Any, call: Call) -> Signal:
    if module.training and module.p > 0:
        raise InvalidModelError(call.problem("the module is in training mode", "call model.eval() before compiling"))
    return call.add(Identity(), call.operand)


@converter(*_named("layer", "container", "SeqToANNContainer", "MultiStepContainer", "StepModeContainer"))
@fires
def _container(module: nn.Sequential, call: Call) -> Signal:
    """Read a container as its layers, one after the other: that is what it is at one step."""
    signal = call.operand
    call.graph.drop((call.source,), "a container")
    for name, child in module.named_children():
        kind = type(child).__name__
        path = f"{call.source.path}.{name}" if call.source.path else name
        source = Source(f"{call.source.node}.{name}", path, kind, call.source.file, call.source.line)
        inner = attrs.evolve(call, source=source, name=f"{call.name}_{name}", args=(signal,), kwargs={}, module=child)
        rule = layer_converter(child) or (_container if type(child) is nn.Sequential else None)
        if rule is None:
            inner.refuse(f"{kind} in a {type(module).__name__} is not supported", "put it outside of the container")
        signal = convert(rule, inner)
    return signal
