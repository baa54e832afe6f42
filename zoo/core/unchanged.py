"""Finds tensors that a program changes in place after the sample statement that uses them.

Pyro takes log-probabilities when the program has ended, by the values, masks and arguments that the sites then hold.
One that was changed in place (``mask |= seen``, ``x += 1``) is counted at every earlier site as it was at the end, and
nothing says so.
"""

from __future__ import annotations

from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from zoo.core.data import Data, tensors
from zoo.errors import ZooError

__all__ = ["Unchanged"]


class Unchanged(Messenger):
    """Remembers what every site was given; ``check`` says whether it is still that.

    Args:
        x: the data, which the program is not to change either.
    """

    def __init__(self, x: Data = ()) -> None:
        super().__init__()
        self._data = [(value, value._version) for value in tensors(x)]
        self._seen: list[tuple[Any, Any, Any, Any]] = []

    def _pyro_post_sample(self, msg: Any) -> None:
        if type(msg["fn"]).__name__ != "_Subsample":
            self._seen.append((msg, _copied(msg["value"]), _copied(msg["mask"]), _log_prob(msg)))

    def check(self, who: str) -> None:
        """
        Raises:
            ZooError: the first site, in program order, whose value, mask or arguments have changed; or the data have.
        """
        for msg, value, mask, log_prob in self._seen:
            name = msg["name"]
            for what, before, now in (("mask", mask, msg["mask"]), ("value", value, msg["value"])):
                if not _same(before, now):
                    raise ZooError(
                        f"{who}: the {what} of site {name!r} expected to stay as it was given, got changed in place "
                        f"afterwards, which changes the site too. Make a new tensor: {what} = {what} | ..., not |=."
                        if what == "mask"
                        else f"{who}: the {what} of site {name!r} expected to stay as it was given, got changed in "
                        "place afterwards, which changes the site too. Make a new tensor: x = x + ..., not +=."
                    )
            if not _same(log_prob, _log_prob(msg)):
                raise ZooError(
                    f"{who}: the arguments of site {name!r} expected to stay as they were given, got changed in place "
                    "afterwards, which changes the site too. Make new tensors: a = a + ..., not +=."
                )
        if any(value._version != version for value, version in self._data):
            raise ZooError(
                f"{who}: the data expected to stay as they are, got changed in place by the program. "
                "Work on a copy: x = x.clone()."
            )


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _log_prob(msg: Any) -> Any:
    """A site's log-probability by what it holds now; None where there is none to be had."""
    try:
        with torch.no_grad():
            return msg["fn"].log_prob(msg["value"])
    except Exception:  # whatever ails it is for the program's own run to say
        return None


def _same(before: Any, now: Any) -> bool:
    if isinstance(before, Tensor) and isinstance(now, Tensor):
        if before.shape != now.shape:
            return False
        return bool(((before == now) | ((before != before) & (now != now))).all())
    return isinstance(before, Tensor) == isinstance(now, Tensor)
