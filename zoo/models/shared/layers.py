"""Fully connected layers: their weights and biases from outside."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zoo.errors import ZooError

__all__ = ["set_layers"]


@torch.no_grad()
def set_layers(network: nn.Module, layers: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Copy weights and biases into a network's fully connected layers, from its input on, in place.

    It is how a network starts from layers that were learned one by one, from below: those of stacked autoencoders, or
    of a deep belief net (weights of a Boltzmann machine of D visible and H hidden units are (D, H): transpose them).

    Args:
        network: a module whose ``nn.Linear`` layers, in the order of ``modules()``, are those of the chain. It may have
            more layers than are given: these stay as they are. A first module that standardises inputs goes on doing
            so: layers that were learned on the data as they are want it at location 0 and scale 1.
        layers: of each layer its weight (out, in) and bias (out,), as ``nn.Linear`` has them.

    Raises:
        ZooError: more layers than the network has, or one of another size (which one); nothing is copied then.
    """
    targets = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if len(layers) > len(targets):
        raise ZooError(
            f"set_layers: expected at most {len(targets)} layers, got {len(layers)}. Leave out the topmost, or build a "
            "deeper network."
        )
    for i, (target, (weight, bias)) in enumerate(zip(targets, layers, strict=False)):
        for name, value, own in (("weight", weight, target.weight), ("bias", bias, target.bias)):
            if own is None or value.shape != own.shape:
                wanted = "none" if own is None else tuple(own.shape)
                raise ZooError(
                    f"set_layers: {name} of layer {i} expected shape {wanted}, got {tuple(value.shape)}. "
                    "Weights are (outputs, inputs)."
                )
    for target, (weight, bias) in zip(targets, layers, strict=False):
        target.weight.copy_(weight)
        target.bias.copy_(bias)
