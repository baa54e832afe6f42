"""Deep belief nets learned greedily: a machine, then the next on what that one hides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from zoo.core.isolation import isolated
from zoo.densities.two_sides import drawn_bits
from zoo.models.restricted_boltzmann_machine import RestrictedBoltzmannMachine
from zoo.models.shared.belief_net import DeepBeliefNet
from zoo.runs.fit import fit

__all__ = ["deep_belief_net"]


def deep_belief_net(
    x: Any, hidden_dims: Sequence[int] = (200, 200), *, estimator: str = "pcd", seed: int = 0, **options: Any
) -> DeepBeliefNet:
    """Restricted Boltzmann machines one upon another, learned from below, each on bits drawn from the one before.

    Args:
        x: data of binary units, or pixels, (N, D); what is grey is cut at one half.
        hidden_dims: hidden units of each machine, from x up.
        estimator, options: as :func:`zoo.fit` takes them, for each machine.
        seed: where every random number comes from.

    Returns:
        The net, with ``net.bound(x)``, ``net.codes(x)``; ``net.start(model, x)`` starts a VAE or a classifier from it.

    Raises:
        ZooError: what :func:`zoo.fit` raises.

    Example:
        >>> x = zoo.load_data("digits")
        >>> net = zoo.deep_belief_net(x, [64, 32], max_epochs=5)
        >>> vae = zoo.VAE.from_data(x, hidden_dims=[64, 32], activation="tanh", binarization="threshold")
        >>> fit = zoo.fit(net.start(vae, x), x, init="current", max_epochs=5)
    """
    machines: list[RestrictedBoltzmannMachine] = []
    unit = x
    for depth, width in enumerate(hidden_dims):
        machine: Any = RestrictedBoltzmannMachine.from_data(unit, num_hidden=width)
        machine = fit(machine, unit, estimator=estimator, seed=seed + depth, **options).model
        machines.append(machine)
        with isolated(seed + depth), torch.no_grad():
            rows = machine._seen(machine.prepare(unit))
            unit = drawn_bits(torch.addmm(machine.hidden_biases, rows, machine.weights))
    return DeepBeliefNet(machines)
