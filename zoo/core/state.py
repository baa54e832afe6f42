"""The tensors of a model, copied and put back."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.core.contract import LatentVariableModel

__all__ = ["restore", "set_training", "snapshot"]


def snapshot(model: LatentVariableModel, into: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The model's tensors, copied; over an earlier snapshot where one is given, which saves the memory."""
    if into is None:
        return {name: value.detach().clone() for name, value in model.state_dict().items()}
    for name, value in model.state_dict().items():
        into[name].copy_(value)
    return into


def restore(model: LatentVariableModel, state: dict[str, Tensor]) -> None:
    """Copy a snapshot back in place."""
    with torch.no_grad():
        own = model.state_dict()
        for name, value in state.items():
            own[name].copy_(value)


def set_training(model: LatentVariableModel, training: bool) -> None:
    """As ``model.train(training)``, in a fifth of the time where no module has a way of its own."""
    modules = list(model.modules())
    if all(type(module).train is nn.Module.train for module in modules):
        for module in modules:
            module.__dict__["training"] = training
    else:
        model.train(training)
