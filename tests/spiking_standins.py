"""Stand-ins for layers of spiking libraries: the names and attributes that spikec knows them by, written anew.

The real ones are in tests/interop; these show what is refused, and that no library is imported.
"""

import torch
from torch import nn


def named(module, qualname):
    """Gives a class the module and name of a library's."""

    def rename(cls):
        cls.__module__, cls.__qualname__, cls.__name__ = module, qualname, qualname
        return cls

    return rename


@named("spikingjelly.activation_based.base", "MemoryModule")
class MemoryModule(nn.Module):
    step_mode = "s"


class Surrogate:
    spiking = True


class Jelly(MemoryModule):
    def __init__(self, v_threshold=1.0, v_reset=0.0, step_mode="s"):
        super().__init__()
        self.v_threshold, self.v_reset, self.step_mode = v_threshold, v_reset, step_mode
        self.surrogate_function = Surrogate()
        self._memories_rv = {"v": 0.0 if v_reset is None else v_reset}
        self.reset()

    def reset(self):
        self.v = self._memories_rv["v"]

    def charge(self, x):
        return self.v + x

    def forward(self, x):
        if self.step_mode == "m":
            return torch.stack([self.one(step) for step in x])
        return self.one(x)

    def one(self, x):
        v = self.charge(x)
        spikes = (v >= self.v_threshold).to(v)
        self.v = v - spikes * self.v_threshold if self.v_reset is None else spikes * self.v_reset + (1 - spikes) * v
        return spikes


@named("spikingjelly.activation_based.neuron.integrate_and_fire", "IFNode")
class IFNode(Jelly):
    pass


@named("spikingjelly.activation_based.neuron.lif", "LIFNode")
class LIFNode(Jelly):
    def __init__(self, tau=2.0, decay_input=True, **options):
        super().__init__(**options)
        self.tau, self.decay_input = tau, decay_input

    def charge(self, x):
        rest = 0.0 if self.v_reset is None else self.v_reset
        leak = (self.v - rest) / self.tau
        return self.v - leak + (x / self.tau if self.decay_input else x)


@named("spikingjelly.activation_based.neuron.lif_variants", "LIAFNode")
class UnknownNode(LIFNode):
    def charge(self, x):
        return torch.tanh(x)


@named("spikingjelly.activation_based.layer.stateless_wrapper", "Linear")
class Linear(nn.Linear):
    step_mode = "s"

    def forward(self, x):
        return super().forward(x)


@named("spikingjelly.activation_based.layer.container", "SeqToANNContainer")
class SeqToANNContainer(nn.Sequential):
    def forward(self, x):
        return super().forward(x.flatten(0, 1)).unflatten(0, x.shape[:2])


@named("snntorch._neurons.neurons", "SpikingNeuron")
class SpikingNeuron(nn.Module):
    pass


@named("snntorch._neurons.leaky", "Leaky")
class Leaky(SpikingNeuron):
    """Subtraction with the reset one step late, which is snnTorch's default."""

    def __init__(self, beta, threshold=1.0, init_hidden=False, output=False):
        super().__init__()
        self.register_buffer("beta", torch.as_tensor(beta))
        self.register_buffer("threshold", torch.as_tensor(threshold))
        self.register_buffer("graded_spikes_factor", torch.as_tensor(1.0))
        self.register_buffer("mem", torch.zeros(0))
        self.init_hidden, self.output, self.inhibition, self.state_quant = init_hidden, output, False, False
        self.reset_mechanism, self.reset_delay = "subtract", True

    def reset_mem(self):
        self.mem = torch.zeros(0)
        return self.mem

    init_leaky = reset_mem

    def forward(self, x, mem=None):
        mem = self.mem if mem is None else mem
        mem = mem if mem.shape == x.shape else torch.zeros_like(x)
        self.mem = self.beta * mem + x - (mem > self.threshold).to(x) * self.threshold
        spikes = (self.mem > self.threshold).to(x)
        return spikes if self.init_hidden and not self.output else (spikes, self.mem)
