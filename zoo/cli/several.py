"""``torchrun -m zoo fit``: the processes of one fit find each other; the first one has the word."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import sys
from datetime import timedelta
from typing import Any, NoReturn

__all__ = [
    "begun_again",
    "end",
    "find_each_other",
    "is_first",
    "launched",
    "leave_with_launcher",
    "may_complain",
    "part",
    "wait_for_first",
]

#: What the first process leaves in the launcher's store when it has written all.
WRITTEN = "written"


def launched() -> int:
    """How many processes a launcher (``torchrun``) started for this command; 1 where none did."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def is_first() -> bool:
    """Whether this process writes and prints."""
    return launched() == 1 or os.environ["RANK"] == "0"


def may_complain() -> bool:
    """Whether this process is the first to say what is wrong: one line is enough for all of them."""
    return launched() == 1 or _meeting()[0].add("complaints", 1) == 1


def begun_again() -> bool:
    """Whether the launcher had to start the processes again, as one of them had ended."""
    return launched() > 1 and int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def leave_with_launcher() -> None:
    """End with ``torchrun``, should it be killed: what begins the run again then finds its folder free. To be said
    first of all, as long as it is there. (Other launchers may end before the processes that they started.)"""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        from zoo.core.parent import leave_with

        leave_with(os.getppid())


def end(code: int) -> NoReturn:
    """End this process at once: threads of ``torch.distributed`` may be at work yet, at an error of one process, and
    the interpreter's own end aborts on those."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # nobody listens
            stream.flush()
    os._exit(code)


def find_each_other() -> None:
    """Begin ``torch.distributed``: gloo for what lies in a processor's memory, NCCL between graphics cards."""
    if launched() == 1:
        return
    import torch
    from torch import distributed

    if distributed.is_initialized():
        return
    backend = "gloo"
    if torch.cuda.is_available() and distributed.is_nccl_available():
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    store, rank, size = _meeting()
    distributed.init_process_group(backend, store=store, rank=rank, world_size=size)


def wait_for_first() -> None:
    """Wait until the first process has written all: a launcher ends it as soon as another one ends with an error."""
    with contextlib.suppress(RuntimeError):  # it has gone, and the store with it
        _meeting()[0].wait([WRITTEN], timedelta(hours=1))


def part() -> None:
    """End what :func:`find_each_other` began: its threads are not to be there when the process ends."""
    if launched() == 1:
        return
    from torch import distributed

    if distributed.is_initialized():
        if is_first():
            with contextlib.suppress(RuntimeError):
                _meeting()[0].set(WRITTEN, "1")
        distributed.destroy_process_group()


@functools.cache
def _meeting() -> tuple[Any, int, int]:
    """The launcher's store, this process's rank, and how many there are.

    The store outlives processes that are begun again: what those before them left in it has names of its own.
    """
    from torch import distributed

    store, rank, size = next(iter(distributed.rendezvous("env://")))
    return distributed.PrefixStore(f"begun/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store), rank, size
