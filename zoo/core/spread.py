"""Work spread over processes by joblib: its own workers, or those of a scheduler that speaks its interface.

One function and many items. The function, with all that it holds (model, data, options), is sent to each process once;
results come in the order of the items. What a worker prints, warns of and raises comes out here.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

from zoo.core.isolation import available_threads
from zoo.core.places import counting
from zoo.errors import ZooError, one_line

if TYPE_CHECKING:
    from zoo.core.parcels import Parcel

__all__ = ["check_jobs", "spread"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def check_jobs(who: str, jobs: int) -> None:
    """Raise ZooError for a number of processes that is neither at least 1 nor -1, as many as there are cores."""
    if not isinstance(jobs, int) or isinstance(jobs, bool) or not (jobs >= 1 or jobs == -1):
        raise ZooError(f"{who}: jobs expected a whole number of at least 1, or -1 for all cores, got {jobs!r}.")


@contextmanager
def spread(work: Callable[[Item], Result], items: Sequence[Item], jobs: int) -> Iterator[Iterator[Result]]:
    """The results of ``work`` on each item, in order, as they come; on leaving, what is not yet done is given up.

    Done in this process, one after the other, or in ``jobs`` processes. Which workers these are is joblib's to say:
    processes on this machine, or under ``joblib.parallel_config`` those of Dask, Ray and others. Local ones divide this
    process's threads among them, and stay for the next call.

    Args:
        jobs: as :func:`check_jobs` allows it.

    Raises:
        ZooError: at an item's turn: work that cannot be sent, or a worker that ended before it was done.
        BaseException: whatever ``work`` raises, at the item's turn.
    """
    workers = 1 if jobs == 1 or len(items) < 2 else _workers(jobs)
    if workers == 1:
        yield map(work, items)
        return
    arrivals = _arrivals(work, items, jobs, min(workers, len(items)))
    try:
        yield arrivals
    finally:
        arrivals.close()


def _workers(jobs: int) -> int:
    """How many processes joblib would take; one where its workers are threads, which would take turns."""
    from joblib.parallel import effective_n_jobs, get_active_backend

    return 1 if getattr(get_active_backend()[0], "supports_sharedmem", False) else int(effective_n_jobs(jobs))


def _arrivals(work: Any, items: Sequence[Any], jobs: int, workers: int) -> Generator[Any, None, None]:
    from joblib.parallel import BACKENDS, Parallel, delayed, get_active_backend

    from zoo.core.parcels import LARGE
    from zoo.core.parent import leave_with
    from zoo.core.worker import Setup, serve

    setup, token = Setup.here(max(1, available_threads() // workers)), os.urandom(8).hex()
    what, each = _packed((work, counting())), [_packed(item) for item in items]
    calls = [delayed(serve)(token, setup, what.body, item, *what.arrays) for item in each]
    backend = get_active_backend()[0]
    # Where results are not handed out one by one, all of them come at the end.
    one_by_one = getattr(backend, "supports_return_generator", False)
    kind = "generator" if one_by_one else "list"
    # Before all else, or those that are still importing when this process is killed would wait for work for minutes.
    first = {"initializer": leave_with, "initargs": (os.getpid(),)} if isinstance(backend, BACKENDS["loky"]) else {}
    pool = Parallel(n_jobs=jobs, return_as=kind, batch_size=1, mmap_mode="c", max_nbytes=LARGE, **first)
    results: Any = None
    seen: dict[Any, Any] = {}
    try:
        with _unheard() if one_by_one else nullcontext():
            results = iter(_asked(lambda: pool(calls), jobs))
        for i in range(len(items)):
            parcel = _asked(lambda: next(results), jobs)
            if i == len(items) - 1:
                _asked(lambda: next(results, None), jobs)  # it comes to its end, or closing it would end the workers
            yield _arrived(parcel, seen)
    finally:
        if isinstance(results, Generator):
            with warnings.catch_warnings():  # that the rest is given up is meant
                warnings.simplefilter("ignore")
                results.close()


@contextmanager
def _unheard() -> Iterator[None]:
    """Ctrl-C waits in here, and processes that start meanwhile never hear of it: it is for this one."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _packed(part: Any) -> Parcel:
    from zoo.core.parcels import pack

    try:
        return pack(part)
    except Exception as error:  # whatever an object says that cannot be copied into another process
        raise ZooError(
            f"jobs expected what can be sent to other processes, got what cannot ({one_line(error)}). Leave out jobs."
        ) from error


def _asked(call: Callable[[], Any], jobs: int) -> Any:
    try:
        return call()
    except Exception as error:  # of the workers or their scheduler: what the work itself raises is in its parcel
        raise ZooError(
            f"jobs={jobs}: a worker process ended before its work was done ({type(error).__name__}). Where memory ran "
            "out, take fewer jobs."
        ) from error


def _arrived(parcel: Parcel, seen: dict[Any, Any]) -> Any:
    """A result; what its worker printed and warned of comes out here, and what it raised is raised."""
    from zoo.core.parcels import unpack

    done = unpack(parcel)
    sys.stdout.write(done.printed)
    for text, category, file, line in done.warned:
        warnings.warn_explicit(text, category, file, line, registry=seen)
    if done.error is not None:
        raise done.error from (done.error.__cause__ or Traceback(done.trace))
    return done.value


class Traceback(Exception):
    """Where in a worker an error came from: its text is that traceback."""

    def __init__(self, text: str) -> None:
        super().__init__(f"in a worker process\n{text}")
