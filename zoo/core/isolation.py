"""What a fit may not touch: the caller's random numbers, Pyro's parameter store, torch's defaults."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from functools import cache

import pyro
import torch

from zoo.core.memory import SMALL
from zoo.core.numpy_generator import seed_numpy, taken_numpy
from zoo.core.processors import processors, threads_pay
from zoo.core.turns import turn

_AVAILABLE: ContextVar[int] = ContextVar("available_threads", default=0)

__all__ = ["available_threads", "differentiable", "forked_rng", "isolated", "kept_generators", "reseed", "threads"]


@contextmanager
def forked_rng(seed: int) -> Iterator[None]:
    """Seed torch inside, give the caller's generators back outside. Touches torch only: cheap."""
    with turn(), kept_generators():
        seed_torch(seed)
        yield


def kept_generators() -> AbstractContextManager[None]:
    """Give torch's generators back as they were, those of GPUs that are in use too: the same draws follow, whatever is
    looked at inside."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    return torch.random.fork_rng(devices=devices)


@contextmanager
def differentiable() -> Iterator[None]:
    """Inside, what runs in evaluation mode has a gradient: cuDNN's recurrent networks have none, torch's own have."""
    with turn():
        before, torch.backends.cudnn.enabled = torch.backends.cudnn.enabled, False
        try:
            yield
        finally:
            torch.backends.cudnn.enabled = before


def seed_torch(seed: int) -> None:
    """As ``torch.manual_seed``, which formats the call's stack for every kind of device that is not there."""
    if _accelerated():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


@cache
def _accelerated() -> bool:
    return torch.accelerator.is_available()


@contextmanager
def threads(elements: int, small: int = SMALL) -> Iterator[None]:
    """One thread inside when the work is small: waking others for tiny tensors costs more than it saves,
    many times more on a machine that is busy with something else.

    For other work as many as there were, or as this process may use; one where, measured now, more do not pay.
    """
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    available = min(before, processors())
    number = available if elements >= small and available > 1 and threads_pay(available) else 1
    torch.set_num_threads(number)
    token = _AVAILABLE.set(available)
    try:
        yield
    finally:
        _AVAILABLE.reset(token)
        torch.set_num_threads(before)


def available_threads() -> int:
    """Threads that a kernel with work of its own may use, also where torch's operations are kept to one."""
    return _AVAILABLE.get() or min(torch.get_num_threads(), processors())


@contextmanager
def isolated(seed: int) -> Iterator[None]:
    """Run a fit, or an evaluation, so that nothing of it is left behind.

    Inside: every generator (torch, numpy, Python) starts from ``seed`` and Pyro's parameter store is
    empty. Outside: generators, store, torch's default dtype and thread of autograd mode are as before.
    Contexts nest, so a fit may run in another fit's callback. Another thread waits until it is over.
    """
    with turn():
        python_state, put_back_numpy = random.getstate(), taken_numpy()
        dtype = torch.get_default_dtype()
        with forked_rng(seed), pyro.get_param_store().scope(), torch.enable_grad():
            _seed_others(seed)
            try:
                yield
            finally:
                random.setstate(python_state)
                put_back_numpy()
                torch.set_default_dtype(dtype)


def reseed(seed: int) -> None:
    """Let every generator start again inside of :func:`isolated`, as it does: for one of several pieces of work."""
    seed_torch(seed)
    _seed_others(seed)


def _seed_others(seed: int) -> None:
    random.seed(seed)
    seed_numpy(seed)
