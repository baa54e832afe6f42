"""A second device where there is none: tensors that say they are elsewhere, computed by the processor.

What torch refuses of a GPU is refused here: two tensors of which one is here and the other there (but for a single
number beside elementwise operations, and indices), ``numpy()`` of what is there, a generator of another device, the
gradient of a recurrent network in evaluation mode; where asked, what waits for it. Torch's device "meta" lends its
name, as it alone needs no driver.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = "meta"
aten = torch.ops.aten

#: Here and there may meet in these: copies, and what compares shapes only.
COPIES = {aten._to_copy.default, aten.copy_.default, aten._foreach_copy_.default, aten.is_same_size.default}
#: These take not even a single number from here.
APART = {aten.logaddexp.default}
#: Indices may be here where the rows are there, not the other way.
TAKEN = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
#: Numbers of a packed sequence's steps are always here.
PACKED = {aten._pack_padded_sequence.default, aten._pack_padded_sequence_backward.default}
#: cuDNN gives no gradient of these in evaluation mode.
RECURRENT = {torch.gru, torch.lstm, torch.rnn_tanh, torch.rnn_relu}
#: These ask a GPU how large what they give is.
ASKING = {aten.nonzero.default, aten.masked_select.default, aten._unique2.default, aten.unique_consecutive.default}
#: Whether waiting is refused, as by ``torch.cuda.set_sync_debug_mode("error")``.
_REFUSED: ContextVar[bool] = ContextVar("refused", default=False)


class Elsewhere(Tensor):
    """A tensor on the second device; ``inner`` has its numbers."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Elsewhere:
        made: Any = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, inner.shape, inner.stride(), inner.storage_offset(), dtype=inner.dtype, device=DEVICE
        )
        made.inner = inner
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Elsewhere({self.inner})"

    @property
    def data(self) -> Tensor:  # type: ignore[override]
        return Elsewhere(self.inner.detach())  # with a count of changes of its own

    @data.setter
    def data(self, value: Elsewhere) -> None:
        Tensor.data.__set__(self, value)  # type: ignore[attr-defined]
        self.inner = value.inner

    def tolist(self) -> Any:
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {}, None)


def computed(func: Any, args: Any, kwargs: dict[str, Any], generator: torch.Generator | None) -> Any:
    """What an operation gives, on the device where torch would have it."""
    if func is aten._efficientzerotensor.default:  # numbers that have no memory
        func = aten.zeros.default
    given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    there = [t for t in given if isinstance(t, Elsewhere)]
    asked = kwargs.get("device")
    moved = bool(there) if asked is None else torch.device(asked).type == DEVICE
    if not there and not moved:
        return func(*args, **kwargs)
    if reason := refusal(func, args, given, there):
        raise RuntimeError(f"{func}: expected all tensors on one device; {reason}")
    if _REFUSED.get() and waits(func, args, moved, given, there):
        raise RuntimeError(f"{func}: called a synchronizing operation")
    if moved and kwargs.get("generator") is not None:
        raise RuntimeError(f"{func}: expected a generator of {DEVICE}, got one of {kwargs['generator'].device}")
    if torch.Tag.inplace_view in func.tags:  # the shape that the tensor shows is its own to change
        with no_dispatch():
            func(*args, **kwargs)
    own = {id(t.inner): t for t in there}
    args, kwargs = tree_map(lambda t: t.inner if isinstance(t, Elsewhere) else t, (args, kwargs))
    if asked is not None:
        kwargs["device"] = "cpu"
    if generator is not None and torch.Tag.nondeterministic_seeded in func.tags:
        with drawn_by(generator):
            result = func(*args, **kwargs)
    else:
        result = func(*args, **kwargs)
    if func is aten._pack_padded_sequence.default:
        return Elsewhere(result[0]), result[1]

    if asked is not None and (id(result) in own or any(result is t for t in given)):  # what is moved is a copy
        result = result.clone()

    def placed(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return own[id(value)] if id(value) in own else Elsewhere(value) if moved else value

    return tree_map(placed, result)


def refusal(func: Any, args: Any, given: list[Tensor], there: list[Elsewhere]) -> str | None:
    """Why a GPU would not do this, or None."""
    here = [t for t in given if not isinstance(t, Elsewhere)]
    if func in PACKED:
        return "lengths are there" if isinstance(args[1], Elsewhere) else None
    if not here or not there or func in COPIES:
        return None
    if func in TAKEN:
        if not isinstance(args[0], Elsewhere):
            return "rows are here"
        values = args[2] if len(args) > 2 else args[0]
        return None if isinstance(values, Elsewhere) or values.dim() == 0 else "values are here"
    if torch.Tag.pointwise in func.tags and func not in APART and all(t.dim() == 0 for t in here):
        writes = func._schema.is_mutable and any(args[0] is t for t in here)
        return "what is written to is here" if writes else None
    return f"here {[tuple(t.shape) for t in here]}, there {[tuple(t.shape) for t in there]}"


def waits(func: Any, args: Any, moved: bool, given: list[Tensor], there: list[Elsewhere]) -> bool:
    """Whether this lasts until a GPU has done all that it was asked for before."""
    if func in COPIES:
        return bool(given) and (len(there) < len(given) or not moved)
    if func in TAKEN:
        filled = len(args) > 2 and args[2].dim() == 0  # a masked fill
        return any(t is not None and t.dtype == torch.bool for t in args[1]) and not filled
    return bool(there) and (func is aten._local_scalar_dense.default or func in ASKING or func in PACKED)


@contextmanager
def waiting_refused() -> Iterator[None]:
    """Inside, torch's mode for what waits, of ``set_sync_debug_mode``, is that of the second device."""
    modes = {"get_sync_debug_mode": lambda: 0, "set_sync_debug_mode": lambda mode: _REFUSED.set(mode == "error")}
    with mock.patch.multiple(torch.cuda, **modes):
        yield


@contextmanager
def drawn_by(generator: torch.Generator) -> Iterator[None]:
    """Let this generator draw in the place of torch's own."""
    usual = torch.default_generator
    before = usual.get_state()
    usual.set_state(generator.get_state())
    yield
    generator.set_state(usual.get_state())
    usual.set_state(before)


class _Made(TorchFunctionMode):
    """Numbers become a tensor here, and are moved: of the device that lends its name torch would make none. Recurrent
    networks, which are many operations here, are seen as one."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        device = kwargs.get("device")
        if func is Tensor.new_tensor and device is None:
            device = args[0].device
        made = func in (torch.tensor, torch.as_tensor, Tensor.new_tensor) and not isinstance(args[-1], Tensor)
        if made and device is not None and torch.device(device).type == DEVICE:
            if func is Tensor.new_tensor:
                func, kwargs, args = torch.tensor, {"dtype": args[0].dtype, **kwargs}, args[1:]
            grad = kwargs.pop("requires_grad", False)
            return func(*args, **{**kwargs, "device": "cpu"}).to(device).requires_grad_(grad)
        result = func(*args, **kwargs)
        if func in RECURRENT and torch.backends.cudnn.enabled and isinstance(result[0], Elsewhere):
            packed = isinstance(args[1], Tensor) and args[1].dim() == 1
            training = args[-2 if packed else -3]
            if not training and result[0].requires_grad:
                result[0].register_hook(_no_gradient)
        return result


def _no_gradient(gradient: Tensor) -> None:
    raise RuntimeError("cudnn RNN backward can only be called in training mode")


class _Computed(TorchDispatchMode):
    def __init__(self, generator: torch.Generator | None) -> None:
        super().__init__()
        self.generator = generator

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {}, self.generator)


@contextmanager
def second_device(own_generator: bool = False) -> Iterator[str]:
    """Its name, for ``device=...``. Inside, what is made there works.

    Args:
        own_generator: whether draws there come from a generator of the device's own, which torch then seeds, keeps and
            restores where it does so for CUDA; else from the processor's, so that the same numbers are drawn.
    """
    generator = torch.Generator() if own_generator else None
    with ExitStack() as entered:
        if generator is not None:
            for name, function in {
                "is_initialized": lambda: True,
                "device_count": lambda: 1,
                "get_rng_state": lambda device=0: generator.get_state(),
                "get_rng_state_all": lambda: [generator.get_state()],
                "set_rng_state": lambda state, device=0: generator.set_state(state),
                "set_rng_state_all": lambda states: generator.set_state(states[0]),
                "manual_seed_all": generator.manual_seed,
            }.items():
                entered.enter_context(mock.patch.object(torch.cuda, name, function))
            entered.enter_context(mock.patch("zoo.core.isolation._accelerated", return_value=True))
        entered.enter_context(_Made())
        entered.enter_context(_Computed(generator))
        yield DEVICE


class _DrawnHere(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        device = kwargs.get("device") or next((t.device for t in tree_leaves(args) if isinstance(t, Tensor)), None)
        draws = torch.Tag.nondeterministic_seeded in func.tags and func is not aten._cudnn_rnn.default
        if not draws or device is None or torch.device(device).type == "cpu":
            return func(*args, **kwargs)
        if kwargs.get("device") is not None:
            kwargs["device"] = "cpu"
        here = tree_map(lambda t: t.cpu() if isinstance(t, Tensor) else t, args)
        drawn = func(*here, **kwargs)
        if func._schema.is_mutable:
            return args[0].copy_(drawn)
        return tree_map(lambda t: t.to(device) if isinstance(t, Tensor) else t, drawn)


def drawn_here() -> TorchDispatchMode:
    """Inside, what an accelerator draws comes from the processor's generator, so that fits can be compared."""
    return _DrawnHere()
