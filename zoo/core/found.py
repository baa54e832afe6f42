"""What a package has by its files being there: nobody edits a list."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import warnings
from collections.abc import Mapping
from functools import cache
from types import ModuleType
from typing import TypeVar

from zoo.errors import LeftOut, one_line, unknown_name

__all__ = ["classes_in", "classes_of", "modules_in", "named", "snake_case"]

Base = TypeVar("Base")
Value = TypeVar("Value")


def modules_in(package: str) -> dict[str, ModuleType]:
    """The modules of a package by their names, imported, in the order of the alphabet; those with _ are its own.

    One that cannot be imported is left out with a warning that names it: the others are as good as they were.
    """
    modules = {name: _imported(f"{package}.{name}") for name in _files(package) if not name.startswith("_")}
    return {name: module for name, module in modules.items() if module is not None}


def _files(package: str) -> list[str]:
    return sorted(info.name for info in pkgutil.iter_modules(importlib.import_module(package).__path__))


@cache
def _imported(module: str) -> ModuleType | None:
    try:
        return importlib.import_module(module)
    except Exception as error:  # whatever a half-written file raises
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        warnings.warn(f"{module} is left out, as it cannot be imported: {one_line(error)}{line}", LeftOut, stacklevel=3)
        return None


def named(kind: str, name: str, known: Mapping[str, Value]) -> Value:
    """What has a name.

    Raises:
        ZooError: nothing has it; the nearest name is offered.
    """
    if name not in known:
        raise unknown_name(kind, name, known)
    return known[name]


def classes_in(package: str, base: type[Base]) -> list[type[Base]]:
    """The classes that the modules of a package define as kinds of ``base`` and offer: ``__all__``, or all names
    without a first _ where it does not say."""
    return [kind for module in modules_in(package).values() for kind in _offered(module, base)]


def classes_of(package: str, name: str, base: type[Base]) -> list[type[Base]]:
    """The same of the module of that name alone, so that no other is imported; none where there is no such file."""
    if name.startswith("_") or name not in _files(package):
        return []
    module = _imported(f"{package}.{name}")
    return [] if module is None else _offered(module, base)


def _offered(module: ModuleType, base: type[Base]) -> list[type[Base]]:
    public = [name for name in vars(module) if not name.startswith("_")]
    offered = (getattr(module, name, None) for name in getattr(module, "__all__", public))
    kinds = [value for value in offered if inspect.isclass(value) and issubclass(value, base)]
    return [kind for kind in kinds if kind.__module__ == module.__name__]


def snake_case(name: str) -> str:
    """``GaussianMixture`` to ``gaussian_mixture``, ``PPCA`` to ``ppca``, ``PoissonHMM`` to ``poisson_hmm``,
    ``HMMVAE`` to ``hmm_vae``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z]|VAE$)", "_", name).lower()
