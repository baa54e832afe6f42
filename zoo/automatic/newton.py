"""A few steps up a smooth function of a few parameters, never down."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from zoo.core.ranks import Ranks

__all__ = ["climb"]

#: Up to so many numbers the Hessian is formed: Newton's method; beyond, L-BFGS.
NEWTON_SIZE = 64
#: Rows of a Hessian that are taken at once: each takes the memory of a pass.
BATCH = 16


#: What torch (and our chains) say of something that can be differentiated only once.
_ONCE = ("differentiate twice", "once_differentiable", "not implemented", "differentiated once", "double backward")


def climb(
    parameters: list[Tensor], terms: Sequence[Callable[[], Tensor]], steps: int = 8, ranks: Ranks | None = None
) -> None:
    """Raise the sum of ``terms`` in the parameters, in place: damped Newton steps, or L-BFGS where there are many.

    Newton's direction takes the Hessian's eigenvalues by their size, so that it leads up where the function is not
    concave (Nocedal & Wright 2006, section 3.4); a step is halved until the value rises, or not taken. The terms are
    differentiated one after the other: no more than one of them is held in memory.

    Args:
        ranks: processes that have terms of their own; all climb the sum of all.
    """
    ranks = Ranks() if ranks is None else ranks
    size = sum(p.numel() for p in parameters)
    if size > NEWTON_SIZE or not _newton(parameters, terms, steps, ranks):
        _lbfgs(parameters, terms, steps, ranks)


def _total(terms: Sequence[Callable[[], Tensor]], ranks: Ranks) -> float:
    with torch.no_grad():
        return sum(ranks.each(lambda: sum(float(term()) for term in terms)))


def _flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.reshape(-1) for t in tensors])


def _set(parameters: list[Tensor], flat: Tensor) -> None:
    with torch.no_grad():
        start = 0
        for p in parameters:
            p.copy_(flat[start : start + p.numel()].reshape(p.shape))
            start += p.numel()


def _derivatives(parameters: list[Tensor], term: Callable[[], Tensor]) -> tuple[float, Tensor, Tensor] | None:
    """Value, gradient (size,) and Hessian (size, size) of a term; None where it has no second derivatives."""
    value = term()
    grads = torch.autograd.grad(value, parameters, create_graph=True, allow_unused=True)
    if any(g is None for g in grads):
        return None
    gradient = _flat(list(grads))
    if not gradient.requires_grad:
        return float(value.detach()), gradient, gradient.new_zeros(len(gradient), len(gradient))
    try:
        hessian = _jacobian(gradient, parameters)
    except RuntimeError as error:
        if not any(words in str(error) for words in _ONCE):
            raise
        return None
    return float(value.detach()), gradient.detach(), hessian


def _jacobian(gradient: Tensor, parameters: list[Tensor]) -> Tensor:
    """Derivatives of each entry, (size, size): several rows by one pass back, or one by one where an operation of that
    pass knows no batches."""
    eye = torch.eye(len(gradient), dtype=gradient.dtype, device=gradient.device)

    def back(seed: Tensor, batched: bool) -> list[Tensor]:
        found = torch.autograd.grad(
            gradient, parameters, seed, retain_graph=True, allow_unused=True, is_grads_batched=batched
        )
        lead = seed.shape[:-1]
        return [p.new_zeros(*lead, *p.shape) if h is None else h for p, h in zip(parameters, found, strict=True)]

    try:
        parts = [(len(some), back(some, True)) for some in eye.split(BATCH)]
        return torch.cat([torch.cat([h.detach().reshape(n, -1) for h in found], 1) for n, found in parts])
    except RuntimeError:
        return torch.stack([_flat(back(row, False)).detach() for row in eye])


def _summed(parameters: list[Tensor], terms: Sequence[Callable[[], Tensor]]) -> tuple[float, Tensor, Tensor] | None:
    """The derivatives of the terms together."""
    found = []
    for term in terms:
        derivatives = _derivatives(parameters, term)
        if derivatives is None:
            return None
        found.append(derivatives)
    gradient, hessian = (torch.stack(parts).sum(0) for parts in list(zip(*found, strict=True))[1:])
    return sum(value for value, _, _ in found), gradient, hessian


def _newton(parameters: list[Tensor], terms: Sequence[Callable[[], Tensor]], steps: int, ranks: Ranks) -> bool:
    for step in range(steps):
        every = ranks.each(lambda: _summed(parameters, terms))
        found = [each for each in every if each is not None]
        if len(found) < len(every):
            return step > 0
        base = sum(value for value, _, _ in found)
        gradient, hessian = found[0][1:]
        for _, more_gradient, more_hessian in found[1:]:
            gradient, hessian = gradient + more_gradient, hessian + more_hessian
        if not (gradient.isfinite().all() and hessian.isfinite().all()):
            return step > 0
        curvature, basis = torch.linalg.eigh((hessian + hessian.mT) / 2)
        least = 1e-8 * curvature.abs().max().clamp_min(1e-300)
        move = basis @ ((basis.mT @ gradient) / curvature.abs().clamp_min(least))
        expected = float(gradient @ move)
        before = _flat(parameters).detach().clone()
        if expected <= 1e-14 * max(1.0, abs(base)):
            return True
        length = 1.0
        for _ in range(30):
            _set(parameters, before + length * move)
            if base + 1e-4 * length * expected <= _total(terms, ranks) < math.inf:
                break
            length /= 2
        else:
            _set(parameters, before)
            return True
    return True


def _lbfgs(parameters: list[Tensor], terms: Sequence[Callable[[], Tensor]], steps: int, ranks: Ranks) -> None:
    before = _flat(parameters).detach().clone()
    base = _total(terms, ranks)
    scale = max(1.0, abs(base))
    optimizer = torch.optim.LBFGS(parameters, max_iter=2 * steps, line_search_fn="strong_wolfe")

    def own() -> tuple[Tensor, list[Tensor | None]]:
        losses = []
        for p in parameters:
            p.grad = torch.zeros_like(p)
        for term in terms:
            loss = -term() / scale
            for p, g in zip(parameters, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True):
                if g is not None and p.grad is not None:
                    p.grad += g
            losses.append(loss.detach())
        return torch.stack(losses).sum(), [p.grad for p in parameters]

    def closure() -> Tensor:
        losses, grads = zip(*ranks.each(own), strict=True)
        for i, p in enumerate(parameters):
            p.grad = functools.reduce(operator.add, [each[i] for each in grads])
        total: Tensor = functools.reduce(operator.add, losses)
        return total

    optimizer.step(closure)
    for p in parameters:
        p.grad = None
    if not base <= _total(terms, ranks) < math.inf:
        _set(parameters, before)
