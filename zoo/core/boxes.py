"""What a copy of a model keeps by reference, and names that torch allows."""

from __future__ import annotations

import copy
from typing import Any

from pyro.infer.autoguide import AutoGuide
from torch import nn

__all__ = ["Box", "Keep", "key_of", "name_of"]


def _has_own_model(module: nn.Module) -> bool:
    return isinstance(module, AutoGuide) and getattr(module, "_model", None) is not None


class Box(nn.Module):
    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.add_module("program", program)

    def __deepcopy__(self, memo: dict[int, Any]) -> Box:
        program: Any = self._modules["program"]
        # Pyro's AutoGuide forgets its model when copied, in the copy and in the original.
        guides = [
            (path, module, module._model[0]) for path, module in program.named_modules() if _has_own_model(module)
        ]
        copied: Any = copy.deepcopy(program, memo)
        for path, module, model in guides:
            module._model = (model,)
            copied.get_submodule(path)._model = (copy.deepcopy(model, memo),)
        return Box(copied)


class Keep:
    """A reference that ``deepcopy`` copies as a reference."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __deepcopy__(self, memo: dict[int, Any]) -> Keep:
        return self


def key_of(name: str) -> str:
    return "param/" + name.replace(".", "/")  # torch allows no dots in a parameter's name


def name_of(key: str) -> str:
    """The name behind a key; of a network's tensors, whose names have no slashes of their own."""
    return key.removeprefix("param/").replace("/", ".")
