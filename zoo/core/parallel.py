"""Threads for compiled kernels, which release Python's lock."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from types import FunctionType
from typing import Any

import torch

from zoo.core.isolation import available_threads, threads

__all__ = ["compiled", "has_numba", "in_parallel", "pieces"]


#: Threads that share a piece of work come to its kernels at once.
_COMPILING = threading.RLock()


@functools.cache
def has_numba() -> bool:
    """Whether numba is installed; does not import it."""
    return importlib.util.find_spec("numba") is not None


def compiled(names: dict[str, Any], kernels: Sequence[str], unordered: bool = True, signed_zeros: bool = True) -> None:
    """Replace functions of a module, by name in its ``globals()``, by numba's; those that others call come first.

    When first needed and not at the top, so that importing the module does not import numba. What is compiled is kept
    for other processes beside the module, or in the user's cache; where neither can be written, it is not kept.

    Args:
        unordered: whether sums may be reordered, where nothing tests for NaN or relies on rounding.
        signed_zeros: whether -0 has to stay apart from 0.
    """
    import numba

    flags = {"contract"} | ({"reassoc"} if unordered else set()) | (set() if signed_zeros else {"nsz"})
    options: dict[str, Any] = {"nogil": True, "fastmath": flags, "error_model": "numpy"}
    with _COMPILING:
        others = _other_sources(names)
        for name in kernels:
            if not isinstance(names[name], FunctionType):  # another thread was first
                continue
            try:
                names[name] = numba.njit(cache=True, **options)(names[name])
            except RuntimeError:  # nowhere to write the cache
                names[name] = numba.njit(**options)(names[name])
            else:
                names[name]._cache = _Forgiving(names[name]._cache)
                with contextlib.suppress(AttributeError):  # numba's own stamp knows of this file alone
                    file = names[name]._cache._cache_file
                    file._source_stamp = (file._source_stamp, others) if others else file._source_stamp


def _other_sources(names: dict[str, Any]) -> list[tuple[str, float, int]]:
    """Files of compiled functions that a module's may call and whose code is kept with theirs: when each changed, and
    its size."""
    files: dict[str, Any] = {names.get("__file__", ""): None}
    queue = [names]
    while queue:
        functions = [value.py_func for value in queue.pop().values() if hasattr(value, "py_func")]
        for file, function in [(function.__code__.co_filename, function) for function in functions]:
            if file not in files:
                files[file] = os.stat(file) if os.path.exists(file) else None
                queue.append(function.__globals__)
    return sorted((os.path.basename(file), stat.st_mtime, stat.st_size) for file, stat in files.items() if stat)


class _Forgiving:
    """numba's cache of one function: where it is full, damaged or gone by now, that costs time and is no error."""

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    def load_overload(self, signature: Any, target: Any) -> Any:
        try:
            return self._cache.load_overload(signature, target)
        except Exception:  # whatever unpickling a damaged file raises
            with contextlib.suppress(OSError):
                self._cache.flush()
            return None

    def save_overload(self, signature: Any, data: Any) -> None:
        with contextlib.suppress(Exception):
            self._cache.save_overload(signature, data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)


def pieces(rows: int, most: int = 16, least: int = 4096) -> list[tuple[int, int]]:
    """Equal ranges of rows, a fixed number of them, so that sums are the same whatever the number of threads."""
    count = max(1, min(most, rows // least))
    return [(rows * i // count, rows * (i + 1) // count) for i in range(count)]


@functools.lru_cache(maxsize=4)
def _pool(process: int, number: int) -> ThreadPoolExecutor:
    """Threads of this process, in which torch takes one thread: after a fork there are none, hence the key."""
    pool = ThreadPoolExecutor(number, "zoo-kernels", initializer=torch.set_num_threads, initargs=(1,))
    ready = threading.Barrier(number + 1)
    for _ in range(number):
        pool.submit(ready.wait)
    ready.wait()
    torch.set_num_threads(torch.get_num_threads())  # what threads to come will take, not theirs
    return pool


#: A call without a result yet.
_NONE: Any = object()


def in_parallel(calls: Sequence[Callable[[], Any]], pure: bool = False) -> list[Any]:
    """Run the calls in as many threads as torch uses, this one among them; their results in order.

    Each takes the next call when it has done one, and this one does not wait for a thread that has not begun: where the
    cores are busy with something else, a late thread costs a call at most. So calls should be short and many. Inside,
    torch takes one thread: its own wait for each other at the end of every operation, and spin meanwhile.

    Threads of our own and not numba's: its default threading layer aborts the process when two threads call it.

    Args:
        pure: calls do nothing but return what nobody else holds, the same each time. One that another thread began and
            does not end, having lost its core, is then made again by this one.
    """
    results: list[Any] = [_NONE] * len(calls)
    queue = iter(range(len(calls)))  # next() on it is atomic
    gradients = torch.is_grad_enabled()

    def work() -> int:
        done = 0
        try:
            for i in queue:
                results[i] = calls[i]()
                done += 1
        except BaseException:
            for _ in queue:  # nobody is to go on
                pass
            raise
        return done

    def help_out() -> None:
        with torch.set_grad_enabled(gradients):
            work()

    number = min(available_threads(), len(calls))
    pool = _pool(os.getpid(), available_threads() - 1) if number > 1 else None
    with threads(0):
        others = [pool.submit(help_out) for _ in range(number - 1)] if pool else []
        begin, done = time.perf_counter(), 0
        try:
            done = work()
        finally:
            begun = [other for other in others if not other.cancel()]
            # As long as a call takes, for those that are about to end.
            late = wait(begun, (time.perf_counter() - begin) / done if pure and done else None).not_done
    for other in begun:
        if other not in late:
            other.result()
    if late:
        with threads(0):
            for i, call in enumerate(calls):
                if results[i] is _NONE:
                    results[i] = call()
    return list(results)  # a late thread may still write into the other
