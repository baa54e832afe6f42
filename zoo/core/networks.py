"""Networks of a user's program: they stay the caller's own, and are lent a model's tensors while the program runs.

Found wherever the program meets them: registered by ``pyro.module`` (however that was imported, also when the network
is built anew in every run), called as a ``PyroModule``, or called with weights that are all fixed.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import Any

import pyro
import torch
from pyro.nn import PyroModule
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import constraints

from zoo.errors import ZooError

__all__ = ["Lender"]

_DIVIDER = "$$$"  # Pyro's own, between a network's name and its parameter's


class _Unregistered(Exception):
    """No ValueError: Pyro would add shapes to it, line by line."""


class Lender(Messenger):
    """Lends tensors to networks; on leaving, every network has its own back.

    Args:
        tensors: by ``network$$$path``, the model's tensors.
        networks: by name, the networks that are known and get theirs at once.
        dtype: where not None this is the first run, which makes the tensors: copies of the networks', in that dtype.
        own: the parameters of modules that belong to the model already.

    Attributes:
        made: by ``network$$$path``, the tensors of a first run: parameters (fixed ones need no gradient) and buffers.
        limits: by the same names, the constraints behind the parameters that have one.
        networks: by name, all networks met.
        fixed: names of a ``pyro.param`` that was given an ``nn.Parameter`` without gradient: it is to stay.
    """

    def __init__(
        self,
        tensors: dict[str, Tensor],
        networks: dict[str, nn.Module],
        dtype: torch.dtype | None = None,
        own: set[int] | None = None,
    ) -> None:
        super().__init__()
        self.tensors, self.networks, self.dtype = tensors, dict(networks), dtype
        self.own = own or set()
        self.made: dict[str, Tensor] = {}
        self.limits: dict[str, Any] = {}
        self.fixed: set[str] = set()
        self._lent: dict[int, nn.Module] = {}  # by identity; held, so that no identity comes twice
        self._back: list[tuple[dict[str, Any], str, Any]] = []
        self._stack = ExitStack()

    def __enter__(self) -> Any:
        for name, network in self.networks.items():
            self._lend(name, network)
        if self.dtype is not None:
            self._stack.callback(nn.modules.module.register_module_forward_pre_hook(self._called).remove)
        return super().__enter__()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._stack.close()
        for place, leaf, old in reversed(self._back):
            place[leaf] = old
        for network in self._lent.values():
            _refresh(network)
        super().__exit__(kind, error, trace)
        if isinstance(error, _Unregistered):
            raise ZooError(
                f"a network, {error}, is called that the program has not registered, so nothing would train it. "
                'Write pyro.module("net", net) before it, or net.requires_grad_(False) if it is to stay.'
            ) from None

    def _pyro_param(self, msg: Any) -> None:
        name, given = msg["name"], msg["args"][1] if len(msg["args"]) > 1 else None
        network, divider, _ = name.partition(_DIVIDER)
        if divider and (module := _registering(network)) is not None and not self._has(module):
            self._lend(self._named(network, module), module)
            given = self.made.get(name, given)
            msg["args"] = (name, given, *msg["args"][2:])
        if isinstance(given, nn.Parameter) and not given.requires_grad:  # Pyro's store would have it move
            if id(given) in self.own | self._ours():
                msg["value"], msg["done"] = given, True
            else:
                self.fixed.add(name)
                msg["args"] = (name, given.detach().clone(), *msg["args"][2:])

    def _ours(self) -> set[int]:
        return {id(t) for t in (*self.made.values(), *self.tensors.values())}

    def _has(self, module: nn.Module) -> bool:
        """Whether a network's tensors are the model's by now."""
        ours = self.own | self._ours()
        return id(module) in self._lent or all(id(p) in ours for p in module.parameters())

    def _named(self, name: str, module: nn.Module) -> str:
        """The name itself; in a first run, where another network has it already, with a number."""
        if self.dtype is None or self.networks.get(name, module) is module:
            return name
        number = 2
        while f"{name}_{number}" in self.networks:
            number += 1
        return f"{name}_{number}"

    def _called(self, module: nn.Module, _: Any) -> None:
        """In a first run: a network that is called, registered or not."""
        if self._has(module) or not list(module.parameters()):
            return
        if not isinstance(module, PyroModule) and any(
            p.requires_grad and id(p) not in self.own | self._ours() for p in module.parameters()
        ):
            raise _Unregistered(type(module).__name__)
        self._lend(self._named(type(module).__name__, module), module)

    def _lend(self, name: str, network: nn.Module) -> None:
        self._lent[id(network)] = network
        if self.dtype is not None:
            self.networks[name] = network
        replaced: dict[int, Tensor] = {}
        for path, old in (*network.named_parameters(), *network.named_buffers()):
            key = f"{name}{_DIVIDER}{path}"
            if id(old) in self.own:
                continue
            if self.dtype is not None and key not in self.made:
                new = old.detach().clone().to(self.dtype if old.is_floating_point() else old.dtype)
                self.made[key] = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
                self.limits[key] = _constraint(network, path)
            tensor = self.made.get(key, self.tensors.get(key))
            if tensor is not None:
                replaced[id(old)] = tensor
        for module in network.modules():
            places: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
            for place in places:
                for leaf, held in place.items():
                    if id(held) in replaced:
                        self._back.append((place, leaf, held))
                        place[leaf] = replaced[id(held)]
        _refresh(network)


def _registering(name: str) -> nn.Module | None:
    """The network that ``pyro.module`` is being called with, whatever the name it was called by."""
    code, frame = pyro.primitives.module.__code__, sys._getframe(1)
    while frame is not None:
        if frame.f_code is code and frame.f_locals.get("name") == name:
            module: nn.Module = frame.f_locals["nn_module"]
            return module
        frame = frame.f_back  # type: ignore[assignment]
    return None


def _constraint(network: nn.Module, path: str) -> Any:
    """The constraint behind a network's parameter: a ``PyroParam`` may have one."""
    owner, _, leaf = path.rpartition(".")
    declared = dict(network.named_modules())[owner].__dict__.get("_pyro_params", {})
    return declared.get(leaf.removesuffix("_unconstrained"), (constraints.real,))[0]


def _refresh(network: nn.Module) -> None:
    """Recurrent networks keep a list of their weights besides."""
    for module in network.modules():
        if isinstance(module, nn.RNNBase):
            module._flat_weights = [module._parameters.get(name) for name in module._flat_weights_names]
