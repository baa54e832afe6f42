"""What the base class makes of a model's constructor and programs."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro

from zoo.core.beside import Beside
from zoo.core.data import num_data
from zoo.core.isolation import forked_rng
from zoo.core.rows import present, present_rows
from zoo.core.turns import turn
from zoo.errors import ZooError

__all__ = ["takes_data_whole", "wrap_init", "wrap_program"]


def wrap_init(init: Callable[..., None]) -> Callable[..., None]:
    """A constructor that leaves the caller's random numbers alone and records its arguments."""
    signature = inspect.signature(init)

    @functools.wraps(init)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> None:
        # A fixed seed: the caller's generator is untouched and two new models of one kind are equal.
        with forked_rng(0), pyro.settings.context(module_local_params=True), _begun(self):
            init(self, *args, **kwargs)
        if type(self).__init__ is wrapped:  # the outermost constructor that runs
            bound = signature.bind(self, *args, **kwargs)
            bound.apply_defaults()
            arguments = list(bound.arguments.items())[1:]
            self.config = {
                key: value
                for name, given in arguments
                for key, value in (
                    given.items() if signature.parameters[name].kind.name == "VAR_KEYWORD" else [(name, given)]
                )
            }

    return wrapped


@contextmanager
def _begun(model: Any) -> Iterator[None]:
    """Refuse a constructor that has not called that of its base: torch names what it lacks by names of its own."""
    try:
        yield
    except AttributeError:
        if "_modules" in model.__dict__:
            raise
    if "_modules" not in model.__dict__:
        raise ZooError(
            f"{type(model).__name__}: __init__ expected to call super().__init__(), got none. Make it the first line."
        )


def wrap_program(program: Callable[..., Any]) -> Callable[..., Any]:
    """A program that keeps its parameters to its model, and counts rows as often as their weights say."""

    @functools.wraps(program)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        rows = present_rows()
        with turn(), pyro.settings.context(module_local_params=True), self._pyro_context:
            if rows is None:
                return program(self, *args, **kwargs)
            with present(None), Beside(rows, num_data(rows), program.__name__ == "guide"):  # once, not in super() too
                return program(self, *args, **kwargs)

    return wrapped


def takes_data_whole(kind: type) -> None:
    """Refuse a class whose ``validate`` or ``initialize`` takes the data apart, as the programs do.

    Raises:
        ZooError: the data are more than one argument.
    """
    for name in ("validate", "initialize"):
        method = kind.__dict__.get(name)
        if not inspect.isfunction(method):
            continue
        parameters = inspect.signature(method).parameters.values()
        words = [p.name for p in parameters if p.kind == p.POSITIONAL_OR_KEYWORD and p.default is p.empty]
        if "init" in words:
            words = words[: words.index("init")]
        if len(words) > 2:
            raise ZooError(
                f"{kind.__name__}.{name} expected the data as one argument, ({words[0]}, x), got ({', '.join(words)}). "
                "Take x alone: it is a tuple where the programs take several."
            )
