"""A method of a model as a torch module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from zoo.core.contract import LatentVariableModel

__all__ = ["AsModule"]


class AsModule(nn.Module):
    """A method of a model (``model``, ``guide``, ``log_marginal``) as a module that holds the model's parameters."""

    def __init__(self, owner: LatentVariableModel, method: str, handler: Callable[..., Any] | None = None) -> None:
        super().__init__()
        self.owner, self.method, self.handler = owner, method, handler

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        method = getattr(self.owner, self.method)
        return (self.handler(method) if self.handler else method)(*args, **kwargs)
