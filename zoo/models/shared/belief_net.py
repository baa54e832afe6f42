"""Deep belief nets: Boltzmann machines one upon another, each of the units that the one below hides.

    p(x, h_1, .., h_L) = p(x | h_1) .. p(h_{L-2} | h_{L-1}) p(h_{L-1}, h_L)

The topmost machine as it is, of those below the way down alone; q(h_l | h_{l-1}) is each one's way up. Hinton, Osindero
& Teh (2006), "A fast learning algorithm for deep belief nets": E_q of what :meth:`DeepBeliefNet.log_weights` gives is a
bound on ln p(x), and a machine put on top with the weights of the one below, transposed, leaves it as it was.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from zoo.core.contract import LatentVariableModel, lacks, prepared
from zoo.core.isolation import isolated
from zoo.densities.two_sides import drawn_bits
from zoo.errors import ZooError
from zoo.models.restricted_boltzmann_machine import RestrictedBoltzmannMachine

__all__ = ["DeepBeliefNet", "transposed"]


class DeepBeliefNet:
    """Restricted Boltzmann machines of binary units, from the data up.

    Args:
        machines: each has as many visible units as the one before has hidden ones.

    Args of every method:
        x: data of the first machine, (N, D). num_samples: S, draws a datum. seed: where they come from.

    Raises:
        ZooError: none, real units, or sizes that do not meet.
    """

    def __init__(self, machines: Sequence[RestrictedBoltzmannMachine]) -> None:
        if not machines or any(machine.visible != "bernoulli" for machine in machines):
            raise ZooError("DeepBeliefNet: expected one machine of binary units or more. Leave out visible='gaussian'.")
        for below, above in itertools.pairwise(machines):
            if above.num_features != below.num_hidden:
                raise ZooError(
                    f"DeepBeliefNet: a machine on {below.num_hidden} hidden units expected as many visible ones, got "
                    f"{above.num_features}. Match num_features."
                )
        self.machines = tuple(machines)

    @property
    def layers(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Of each machine weights (D, H), hidden biases (H,) and visible biases (D,), from the data up."""
        return [tuple(v.detach() for v in (m.weights, m.hidden_biases, m.visible_biases)) for m in self.machines]  # type: ignore[misc]

    @torch.no_grad()
    def codes(self, x: Any) -> Tensor:
        """The last layer's means, each layer's given those of the one below, (N, H)."""
        unit = self._bits(x)
        for weights, bias, _ in self.layers:
            unit = torch.addmm(bias, unit, weights).sigmoid()
        return unit

    @torch.no_grad()
    def log_weights(self, x: Any, num_samples: int = 1, seed: int = 0) -> Tensor:
        """ln p(x, h) - ln q(h | x) of draws h ~ q(h | x), the topmost machine's hidden units summed out, (S, N) nats.

        Raises:
            ZooError: the topmost machine's ln Z is a sum over too many states.
        """
        with isolated(seed):
            unit = self._bits(x).expand(num_samples, -1, -1)
            weight = unit.new_zeros(unit.shape[:2])
            for weights, bias, visible_bias in self.layers[:-1]:
                up = unit @ weights + bias
                above = drawn_bits(up)
                weight = weight + _log_bits(visible_bias + above @ weights.mT, unit) - _log_bits(up, above)
                unit = above
        top = self.machines[-1]
        energies = top.free_energy(top.white * unit.flatten(0, 1)).reshape(weight.shape)
        return weight - energies - top.log_partition().to(energies)

    def bound(self, x: Any, num_samples: int = 100, seed: int = 0) -> Tensor:
        """The mean of :meth:`log_weights`, (N,) nats: an estimate of a bound on ln p(x) from below.

        Raises:
            ZooError: as :meth:`log_weights`.
        """
        return self.log_weights(x, num_samples, seed).mean(0)

    def start(self, model: LatentVariableModel, x: Any) -> LatentVariableModel:
        """Start a network's layers from those of the net, in place; then ``zoo.fit(..., init="current")``.

        Of a VAE (``activation="tanh"``) encoder and decoder; of a stacked autoencoder, or a classifier, its layers.

        Args:
            model: the network. x: data that it is to be fitted to.

        Raises:
            ZooError: the model has no such layers, or of another size.
        """
        if (reason := lacks(model, "take_layers")) is not None:
            raise ZooError(f"DeepBeliefNet.start: {type(model).__name__} cannot, because {reason}. Start a VAE.")
        takes: Any = model.take_layers
        with torch.no_grad():
            takes(self.layers, prepared(model, x))
        return model

    def _bits(self, x: Any) -> Tensor:
        first = self.machines[0]
        return first._seen(first.prepare(x))


def _log_bits(logits: Tensor, bits: Tensor) -> Tensor:
    """ln p of bits, summed over the last dimension, nats."""
    return logsigmoid(torch.where(bits > 0, logits, -logits)).sum(-1)


@torch.no_grad()
def transposed(machine: RestrictedBoltzmannMachine) -> RestrictedBoltzmannMachine:
    """The machine with its sides exchanged, without offsets: over its hidden units it is the same distribution."""
    other = RestrictedBoltzmannMachine(machine.num_hidden, machine.num_features, centred=False).to(machine.weights)
    other.weights = machine.weights.mT  # type: ignore[assignment]
    other.visible_biases, other.hidden_biases = machine.hidden_biases, machine.visible_biases
    return other
