"""What a worker does with one item: as this process would; what it prints, warns of and raises goes back."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from numpy.typing import NDArray

from zoo.core.parcels import Parcel, folders, pack, unpack
from zoo.core.parent import leave_with
from zoo.core.places import counting_as
from zoo.core.turns import turn, waiting_for_others
from zoo.errors import ZooError, one_line

__all__ = ["Done", "Setup", "frames_of", "serve"]

#: The work that was sent last, by its token: it is unpacked once a process.
_HELD: dict[str, Any] = {}


@dataclass(frozen=True)
class Setup:
    """What work relies on beside its arguments, as it is in the process that spreads it.

    Attributes:
        process: that process's number. threads: what each worker that it started may use.
        dtype: torch's default. settings: Pyro's. paths: where modules are imported from.
    """

    process: int
    threads: int
    dtype: torch.dtype
    settings: dict[str, Any]
    paths: list[str]

    @classmethod
    def here(cls, threads: int) -> Setup:
        """That of this process."""
        return cls(os.getpid(), threads, torch.get_default_dtype(), dict(pyro.settings.get()), folders())

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Work as that process would."""
        if os.getppid() == self.process:
            self._belong()
        before = torch.get_default_dtype()
        with pyro.settings.context(**self.settings):
            torch.set_default_dtype(self.dtype)
            try:
                yield
            finally:
                torch.set_default_dtype(before)

    def _belong(self) -> None:
        """A worker that it started: Ctrl-C is for the one that spreads the work, and nobody works for one that died."""
        torch.set_num_threads(self.threads)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        leave_with(self.process)


@dataclass
class Done:
    """What came of an item.

    Attributes:
        value: the result, where there is no ``error``. trace: the error's traceback.
        printed: what went to stdout. warned: text, category, file and line of each warning, once.
    """

    value: Any = None
    error: BaseException | None = None
    trace: str = ""
    printed: str = ""
    warned: list[tuple[str, Any, str, int]] = field(default_factory=list)


def serve(token: str, setup: Setup, body: NDArray[Any], item: Parcel, *arrays: NDArray[Any]) -> Parcel:
    """Do the work on an item, both packed; a :class:`Done`, packed. What work raises is in it.

    Args:
        token: tells one work from another. body, arrays: the parcel of (work, how messages count rows).
    """
    if setup.process == os.getpid() and waiting_for_others():
        error = ZooError(
            "jobs expected workers that are processes, got threads of this one, and these take turns. Start the "
            "cluster with processes=True, or leave out jobs."
        )
        return pack(Done(error=error))
    with turn(), setup.applied():
        sys.path += [path for path in setup.paths if path not in sys.path]
        try:
            if token not in _HELD:
                _HELD.clear()
                _HELD[token] = unpack(Parcel(body, arrays))
            work, count = _HELD[token]
            value = unpack(item)
        except Exception as error:
            return pack(
                Done(error=ZooError(f"jobs: a worker cannot load its work ({one_line(error)}). Leave out jobs."))
            )
        with counting_as(count):
            return _packed(_done(work, value))


def _done(work: Any, value: Any) -> Done:
    done, printed = Done(), io.StringIO()
    with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stdout(printed):
        warnings.simplefilter("always")
        try:
            done.value = work(value)
        except BaseException as error:  # all of it is raised again where the work came from
            done.error, done.trace = error, traceback.format_exc()
            frames = [(f.f_globals.get("__name__", ""), f.f_code.co_filename, line) for f, line in _walk(error)]
            with contextlib.suppress(AttributeError):
                error.frames_there = frames  # type: ignore[attr-defined]
    done.printed = printed.getvalue()
    each = [(str(warning.message), warning.category, warning.filename, warning.lineno) for warning in caught]
    done.warned = list(dict.fromkeys(each))
    return done


def _walk(error: BaseException) -> Iterator[tuple[Any, int]]:
    return traceback.walk_tb(error.__traceback__)


def frames_of(error: BaseException) -> list[tuple[str, str, int]]:
    """Module, file and line of each call on the way to an error, in a worker as well, the innermost last."""
    here = [(f.f_globals.get("__name__", ""), f.f_code.co_filename, line) for f, line in _walk(error)]
    return [*here, *getattr(error, "frames_there", ())]


def _packed(done: Done) -> Parcel:
    """What was done, or why it cannot be sent."""
    try:
        parcel = pack(done)
        if done.error is not None:
            unpack(parcel)  # some exceptions cannot be made again of what they keep
        return parcel
    except Exception as error:
        kept = done.error
        if kept is not None:
            done.error = RuntimeError(one_line(kept))
            done.error.frames_there = getattr(kept, "frames_there", [])  # type: ignore[attr-defined]
        else:
            done.value = None
            done.error = ZooError(f"jobs: a result cannot be sent from its worker ({one_line(error)}). Leave out jobs.")
        return pack(done)
