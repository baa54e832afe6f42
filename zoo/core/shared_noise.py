"""Random numbers of some rows of a batch: those that they have where the whole batch is drawn at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["SharedNoise"]


class SharedNoise(TorchDispatchMode):
    """Inside, what torch draws for the rows ``begin`` to ``end`` of a batch is drawn for all of it; their part is kept.

    So processes with the same generator and rows of their own draw what one would that has all rows, and their
    generators stay together. The dimension of the rows is the first as long as they are many; what has none is drawn as
    it is, the same for all. Draws whose number depends on their parameters (a gamma's, by rejection) are not served.

    Args:
        rows: of the whole batch.
    """

    def __init__(self, rows: int, begin: int, end: int) -> None:
        super().__init__()
        self.rows, self.begin, self.own = rows, begin, end - begin

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags or self.own == self.rows:
            return func(*args, **kwargs)
        if func._schema.is_mutable:  # in place
            whole = self._whole(args[0])
            func(whole, *map(self._whole, args[1:]), **{name: self._whole(value) for name, value in kwargs.items()})
            return args[0].copy_(self._part(whole, args[0].shape))
        shapes = [a for a in args if isinstance(a, (list, tuple, torch.Size))]
        shapes += [a.shape for a in args if isinstance(a, Tensor)]
        drawn = func(*map(self._whole, args), **{name: self._whole(value) for name, value in kwargs.items()})
        kept = tuple(self._part(each, shapes[0]) for each in (drawn if isinstance(drawn, tuple) else (drawn,)))
        return kept if isinstance(drawn, tuple) else kept[0]

    def _axis(self, shape: Sequence[int]) -> int | None:
        return next((i for i, size in enumerate(shape) if size == self.own), None)

    def _whole(self, value: Any) -> Any:
        """A shape, or an argument, of all rows: those that are not here stand for nothing."""
        if isinstance(value, (list, tuple, torch.Size)):
            axis = self._axis(value)
            return value if axis is None else [*value[:axis], self.rows, *value[axis + 1 :]]
        if not isinstance(value, Tensor) or (axis := self._axis(value.shape)) is None:
            return value
        some = value.narrow(axis, 0, 1).expand(*value.shape[:axis], self.rows, *value.shape[axis + 1 :]).contiguous()
        some.narrow(axis, self.begin, self.own).copy_(value)
        return some

    def _part(self, drawn: Tensor, shape: Sequence[int]) -> Tensor:
        axis = self._axis(shape)
        return drawn if axis is None else drawn.narrow(axis, self.begin, self.own).contiguous()
