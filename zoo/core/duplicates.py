"""Deep copies of models, many times as fast as Python's: most of what a module holds is plain, or hooks of nobody."""

from __future__ import annotations

import copy
import functools
from collections import OrderedDict
from typing import Any, TypeVar

import torch
from pyro.nn import PyroModule
from pyro.nn.module import _Context
from torch import Tensor, nn

__all__ = ["duplicate"]

Module = TypeVar("Module", bound=nn.Module)

#: What a copy may share: nobody changes these.
_FIXED = frozenset((str, int, float, bool, type(None), type, torch.dtype, torch.device))
_HOLDERS = frozenset((dict, OrderedDict, set))


def duplicate(module: Module) -> Module:
    """As ``copy.deepcopy`` of a module."""
    twin: Module = _module(module, {})
    return twin


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    kind: Any = type(value)
    twin: Any
    if kind in _FIXED:
        return value
    if id(value) in memo:
        return memo[id(value)]
    if kind in (dict, OrderedDict):
        twin = memo[id(value)] = kind()
        for key, part in value.items():
            twin[key if type(key) in _FIXED else _copied(key, memo)] = _copied(part, memo)
        return twin
    if (kind is nn.Parameter or kind is Tensor) and _whole(value):
        twin = value.detach().clone()
        twin = memo[id(value)] = nn.Parameter(twin, value.requires_grad) if kind is nn.Parameter else twin
        return twin
    if kind is list:
        twin = memo[id(value)] = []
        twin.extend(part if type(part) in _FIXED else _copied(part, memo) for part in value)
        return twin
    if kind in (tuple, set) and all(type(part) in _FIXED for part in value):
        return value if kind is tuple else set(value)
    if isinstance(value, nn.Module):
        return _module(value, memo)
    if kind is _Context:
        twin = memo[id(value)] = _Context.__new__(_Context)
        twin.__dict__.update(_copied(vars(value), memo))
        return twin
    return copy.deepcopy(value, memo)


def _module(module: Any, memo: dict[int, Any]) -> Any:
    if id(module) in memo:
        return memo[id(module)]
    cls: Any = type(module)
    plain, stated = _kind(cls)
    if not stated or module.__dict__.get("_compiled_call_impl") is not None:
        return copy.deepcopy(module, memo)
    twin = memo[id(module)] = cls.__new__(cls)
    if not plain:
        twin.__setstate__(_copied(module.__getstate__(), memo))
        return twin
    own = twin.__dict__
    for name, value in vars(module).items():
        kind = type(value)
        if kind in _FIXED:
            own[name] = value
        elif kind in _HOLDERS and not value:
            own[name] = kind()
        else:  # constraints stay as they are
            own[name] = copy.copy(value) if name == "_pyro_params" else _copied(value, memo)
    return twin


def _whole(value: Tensor) -> bool:
    """Whether a tensor is numbers alone: a leaf without a gradient, of no part of another's memory."""
    plain = value.is_leaf and value.grad is None and not vars(value) and value.layout == torch.strided
    alone = type(value) is nn.Parameter or value.numel() * value.element_size() == value.untyped_storage().nbytes()
    return plain and alone and (type(value) is nn.Parameter or not value.requires_grad)


@functools.cache
def _kind(cls: Any) -> tuple[bool, bool]:
    """Whether modules of a class are copied by their attributes; or else, recurrent networks for one, by a state of
    their own."""
    reduced = ("__deepcopy__", "__reduce__", "__reduce_ex__")
    stated = all(getattr(cls, name, None) is getattr(nn.Module, name, None) for name in reduced)
    taken = [getattr(kind, "__getstate__", None) for kind in (cls, nn.Module, PyroModule)]
    plain = cls.__setstate__ is nn.Module.__setstate__ and taken[0] in taken[1:]
    return stated and plain, stated
