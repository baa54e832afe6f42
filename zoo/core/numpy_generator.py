"""numpy's global generator as it stands, kept and put back in a few microseconds: ``get_state`` and ``set_state`` copy
its 624 words one by one, and take as long together as an iteration or two of a small fit."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

__all__ = ["seed_numpy", "taken_numpy"]

#: Bytes of a Mersenne twister: 624 words of 32 bits, and the place among them.
BYTES = 624 * 4 + 4


def taken_numpy() -> Callable[[], None]:
    """Take the state of numpy's global generator, which is to be seeded before it is drawn from: what puts it back."""
    source = _source()
    if not (isinstance(source, np.random.MT19937) and _by_bytes()):
        state = np.random.get_state()  # noqa: NPY002 (the caller's own generator)
        return lambda: np.random.set_state(state)  # noqa: NPY002
    words = _read(source)
    spare = np.random.standard_normal()  # noqa: NPY002
    if _read(source) == words:  # normal numbers come in pairs, and the second of one was waiting
        kept = {**np.random.get_state(legacy=False), "has_gauss": 1, "gauss": spare}  # noqa: NPY002
        return lambda: np.random.set_state(kept)  # noqa: NPY002

    def put_back() -> None:
        seed_numpy(0)  # no second number of a pair is left
        with source.lock:
            ctypes.memmove(_address(source), words, BYTES)

    return put_back


def seed_numpy(seed: int) -> None:
    """As ``numpy.random.seed``, of any whole number that is not negative."""
    np.random.seed(seed % 2**32)  # noqa: NPY002


def _source() -> Any:
    known = getattr(np.random, "get_bit_generator", None)  # since numpy 1.24
    return None if known is None else known()


def _address(source: Any) -> int:
    where: int = source.ctypes.state_address
    return where


def _read(source: Any) -> bytes:
    with source.lock:
        return ctypes.string_at(_address(source), BYTES)


@cache
def _by_bytes() -> bool:
    """Whether these bytes are all that numpy's twister has: seen on two that nobody uses."""
    one, other = np.random.MT19937(1), np.random.MT19937(2)
    one.random_raw(700)
    ctypes.memmove(_address(other), _read(one), BYTES)
    same = other.state["state"]["pos"] == one.state["state"]["pos"]
    return same and bool((other.random_raw(1300) == one.random_raw(1300)).all())
