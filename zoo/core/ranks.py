"""One fit in several processes: all take the same steps, and what is a sum over rows is divided among them.

Every process (rank) runs the fit with the same data and the same random numbers. Where statistics or gradients of rows
are added up, each takes its own rows, and all go on from the same total, added in the order of the ranks; so their
parameters stay equal, and what is no sum over rows (starts, scores, validation) is as in one process. Ctrl-C, a budget
of seconds and errors of one rank are everybody's at the next exchange: nobody waits for one that has stopped.

The processes are those of ``torch.distributed``: whoever starts them (``torchrun``) has its process group initialised.
"""

from __future__ import annotations

import functools
import io
import operator
import pickle
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as torch_distributed

from zoo.core.contract import LatentVariableModel
from zoo.core.data import Data, between, num_data
from zoo.core.state import restore, snapshot
from zoo.errors import RankLost, one_line

__all__ = ["Ranks", "joined", "present", "world_size"]

T = TypeVar("T")


class Ranks:
    """The processes of a fit, seen from one of them.

    Attributes:
        rank: this one's number, from 0. size: how many there are.
        asked_to_stop: whether Ctrl-C was pressed here. stopping: whether all have heard of it.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size, self.asked_to_stop, self.stopping = rank, size, False, False

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def own(self, x: Data) -> Data:
        """This rank's rows of some data: as many as the others', but for one; their memory is the whole's."""
        return between(x, *self.bounds(num_data(x)))

    def share(self, index: Tensor) -> Tensor:
        """This rank's part of some rows' numbers."""
        return index[slice(*self.bounds(len(index)))]

    def bounds(self, rows: int) -> tuple[int, int]:
        """Where this rank's part of so many rows begins, and where it ends."""
        return rows * self.rank // self.size, rows * (self.rank + 1) // self.size

    def agree(self, value: Any) -> bool:
        """Whether all ranks have the same plain value."""
        return self.size == 1 or len({repr(each) for each in self._from_all(lambda: value)}) == 1

    def each(self, part: Callable[[], T]) -> list[T]:
        """What each rank has, in the order of the ranks. Raises as :meth:`total` does."""
        return [part()] if self.size == 1 else self._from_all(part)

    def total(self, part: Callable[[], T | None]) -> T:
        """The sum of what each rank has, by ``+`` in the order of the ranks; None adds nothing.

        Raises:
            Exception: what ``part`` raised on a rank, the first of them, here too.
            KeyboardInterrupt: one of them was asked to stop.
        """
        if self.size == 1:
            made = part()
            assert made is not None
            return made
        parts = [each for each in self._from_all(part) if each is not None]
        return functools.reduce(operator.add, parts)

    def from_first(self, function: Callable[[], T]) -> T:
        """What the first rank has; it alone calls the function. Raises as :meth:`total` does."""
        if self.size == 1:
            return function()
        made: T = self._from_all(function if self.first else lambda: None)[0]
        return made

    def as_first(self, step: Callable[[], T], model: LatentVariableModel) -> T:
        """Take a step that moves a model's tensors: all ranks do, and go on with those that the first one has."""
        if self.size == 1:
            return step()
        made, values = self._from_all(lambda: (step(), snapshot(model) if self.first else None))[0]
        if not self.first:
            restore(model, values)
        return made

    def averaged(
        self, function: Callable[[], Sequence[Tensor | None]], like: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        """The mean over ranks of gradients that a function gives, each as ``like`` its parameter; None where no rank
        has one.

        Raises:
            RuntimeError: the function failed on some rank.
        """
        if self.size == 1:
            return function()
        gradients: Sequence[Tensor | None] = [None] * len(like)
        error: Exception | None = None
        try:
            gradients = function()
        except Exception as raised:
            error = raised
        there = torch.tensor([float(error is not None), *(float(g is not None) for g in gradients)]).double()
        self._add(there)
        if there[0]:
            raise error or RuntimeError("the gradient failed in another process of this fit")
        there = there[1:]
        full = [torch.zeros_like(p) if g is None else g.detach() for g, p in zip(gradients, like, strict=True)]
        made: list[Tensor | None] = [None] * len(full)
        for kind in dict.fromkeys((g.dtype, g.device) for g in full):
            which = [i for i, g in enumerate(full) if (g.dtype, g.device) == kind]
            flat = torch.cat([full[i].flatten() for i in which])
            self._add(flat)
            parts = (flat / self.size).split([full[i].numel() for i in which])
            for i, part in zip(which, parts, strict=True):
                made[i] = part.view(full[i].shape) if there[i] else None
        return made

    def _add(self, values: Tensor) -> None:
        """Add up a tensor over the ranks, in place."""
        group = _beside() if values.device.type == "cpu" else None
        _heard(lambda: torch_distributed.all_reduce(values, group=group))

    def _from_all(self, part: Callable[[], Any]) -> list[Any]:
        """What each rank's function gives, in the order of the ranks."""
        error: Exception | None = None
        value: bytes | None = None
        try:
            value = _packed(part())
        except RankLost:
            raise
        except Exception as raised:  # it is everybody's
            error = raised
        sent = pickle.dumps((self.asked_to_stop, _sendable(error), value))
        every: list[Any] = [None] * self.size
        _heard(lambda: torch_distributed.all_gather_object(every, sent, group=_beside()))
        opened = [pickle.loads(each) for each in every]
        if any(stop for stop, _, _ in opened) and not self.stopping:  # once: it reaches each at a time of its own
            self.stopping = True
            raise KeyboardInterrupt
        for rank, (_, theirs, _) in enumerate(opened):
            if theirs is not None:
                raise error if rank == self.rank and error is not None else theirs
        return [_unpacked(each) for _, _, each in opened if each is not None]


def _sendable(error: Exception | None) -> Exception | None:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # some exceptions cannot be made again of what they keep
        return RuntimeError(one_line(error)) if error is not None else None
    return error


def _packed(value: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def _unpacked(packed: bytes) -> Any:
    """A value, its tensors on this rank's device of the kind that they were on."""
    return torch.load(io.BytesIO(packed), map_location=_here, weights_only=False)


def _here(storage: Any, location: str) -> Any:
    return storage.cuda() if location.startswith("cuda") else storage


def _heard(exchange: Callable[[], Any]) -> Any:
    try:
        return exchange()
    except RuntimeError as error:  # of torch's backends: a connection that is closed, or nobody's answer in time
        raise RankLost(
            "another process of this fit has ended or does not answer. Start all of them again; with --out DIR, "
            "--resume goes on from the last checkpoint."
        ) from error


_GROUPS: dict[int, Any] = {}


def _beside() -> Any:
    """The group that exchanges what lies in a processor's memory; None where the one there is does."""
    if "cpu:" in torch_distributed.get_backend_config():
        return None
    world = id(torch_distributed.group.WORLD)
    if world not in _GROUPS:
        _GROUPS.clear()
        _GROUPS[world] = torch_distributed.new_group(backend="gloo")
    return _GROUPS[world]


_ALONE = Ranks()
_PRESENT: ContextVar[Ranks] = ContextVar("ranks", default=_ALONE)


def present() -> Ranks:
    """The ranks of the fit that is going on here; one alone where there is none."""
    return _PRESENT.get()


def world_size() -> int:
    """How many processes ``torch.distributed`` has here; 1 where it was not begun."""
    begun = torch_distributed.is_available() and torch_distributed.is_initialized()
    return int(torch_distributed.get_world_size()) if begun else 1


@contextmanager
def joined() -> Iterator[Ranks]:
    """Inside, a fit is that of all processes of ``torch.distributed``, where it has several.

    Ctrl-C waits for the next exchange, where all ranks hear of it; pressed again it does not wait.
    """
    if world_size() == 1 or present().size > 1:
        yield present()
        return
    ranks = Ranks(torch_distributed.get_rank(), world_size())
    token = _PRESENT.set(ranks)
    handler = signal.getsignal(signal.SIGINT)
    heard = threading.current_thread() is threading.main_thread() and callable(handler)

    def stop(number: int, frame: Any) -> None:
        if ranks.asked_to_stop:
            raise KeyboardInterrupt
        ranks.asked_to_stop = True

    if heard:
        signal.signal(signal.SIGINT, stop)
    try:
        yield ranks
    finally:
        if heard:
            signal.signal(signal.SIGINT, handler)
        _PRESENT.reset(token)
