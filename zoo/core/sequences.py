"""Sequences of unequal length: which steps are there, and the checks of data that hold them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from zoo.core.data import Data, plain, stacked, weights_of
from zoo.core.places import sequence_name, within
from zoo.core.statistics import weighted_sum
from zoo.errors import ZooError

__all__ = ["blank_beyond", "checked", "in_steps", "inside", "lengths_of", "steps_in"]


def lengths_of(x: Tensor, lengths: Tensor | None) -> Tensor:
    """The lengths of sequences x (N, T, ...), (N,) integers: those given, or T for all."""
    return torch.full((x.shape[0],), x.shape[1], device=x.device) if lengths is None else lengths.long()


def inside(x: Tensor, lengths: Tensor) -> Tensor:
    """(N, T): the steps of x (N, T, ...) that are there."""
    return torch.arange(x.shape[1], device=x.device) < lengths.unsqueeze(-1)


def in_steps(sites: Mapping[str, Tensor]) -> Tensor | None:
    """Sites ``z_0``, ``z_1``, ..., each (N, ...), as one of sequences, (N, T, ...); None where they are none."""
    names = list(sites)
    stem = names[0].removesuffix("_0")
    shapes = {value.shape for value in sites.values()}
    if names != [f"{stem}_{t}" for t in range(len(names))] or len(shapes) > 1 or shapes == {()}:
        return None
    return torch.stack(list(sites.values()), 1)


def blank_beyond(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Numbers of sequences (N, T, ...), NaN beyond their lengths."""
    there = inside(x, lengths_of(x, lengths)).reshape(*x.shape[:2], *[1] * (x.dim() - 2))
    return x.where(there, torch.nan)


def steps_in(x: Data) -> float:
    """Steps in sequences ``x`` and ``lengths``, by name, each as often as its sequence counts."""
    data, weights = plain(x), weights_of(x)
    lengths = lengths_of(data["x"], data.get("lengths"))
    return int(lengths.sum()) if weights is None else float(weighted_sum(lengths.to(weights), weights))


def checked(x: Data, num_features: int, check_rows: Callable[[Tensor], Tensor], who: str) -> dict[str, Tensor]:
    """Data as x (N, T, D), zero beyond the lengths, and lengths (N,), from every form in which sequences come.

    Args:
        check_rows: raises a ZooError for rows (M, D) that ``who`` does not take; NaN are shown to it as zeros.

    Raises:
        ZooError: another shape, lengths that do not fit, or what ``check_rows`` says, with the sequence.
    """
    values, lengths = _parts(x, who)
    d, given = num_features, tuple(values.shape)
    if lengths is not None:
        values = stacked(values, lengths, d)
    if values.dim() == 1 and d == 1:
        values = values.reshape(1, -1, 1)
    elif values.dim() == 2 and values.shape[1] != d and d == 1:
        values = values.unsqueeze(-1)  # (N, T) of single features
    elif values.dim() == 2:
        values = values.unsqueeze(0)
    if values.dim() != 3 or values.shape[-1] != d:
        other = values.dim() == 3 and values.shape[-1]
        fix = f"Reshape it, or build the model with num_features={other}." if other else "Reshape it."
        raise ZooError(f"{who}: x expected shape (N, T, {d}) or one sequence (T, {d}), got {given}. {fix}")
    n, t = values.shape[:2]
    if n == 0 or t == 0:
        raise ZooError(f"{who}: x expected at least one sequence of one step, got shape {tuple(values.shape)}.")
    lengths = _checked_lengths(values, lengths, who)
    full = bool((lengths == t).all())
    there = inside(values, lengths)
    values = values if full else values.masked_fill(~there.unsqueeze(-1), 0.0)
    holes = values.is_floating_point() and bool(values.sum().isnan()) and bool(values.isnan().any())
    seen = values.masked_fill(values.isnan(), 0.0) if holes else values
    try:
        check_rows(seen.reshape(n * t, d) if full else seen[there])
    except ZooError:
        for which, length in enumerate(lengths.tolist() if n > 1 else []):
            try:
                with within(which):
                    check_rows(seen[which, :length])
            except ZooError as error:
                named = f": {sequence_name(which)} of x expected"
                raise ZooError(str(error).replace(": x expected", named, 1)) from None
        raise
    return {"x": values, "lengths": lengths}


def _parts(x: Data, who: str) -> tuple[Tensor, Tensor | None]:
    if isinstance(x, dict):
        unknown = set(x) - {"x", "lengths"}
        if "x" not in x or unknown:
            raise ZooError(f"{who}: data expected the names x and lengths, got {', '.join(map(str, x))}.")
        return x["x"], x.get("lengths")
    if isinstance(x, tuple):
        if len(x) != 2:
            raise ZooError(f"{who}: data expected (x, lengths), got {len(x)} entries.")
        return x
    return x, None


def _checked_lengths(x: Tensor, lengths: Tensor | None, who: str) -> Tensor:
    n, t = x.shape[:2]
    if lengths is not None and lengths.shape == (n,) and (lengths != lengths.round()).any():
        which = int((lengths != lengths.round()).nonzero()[0])
        raise ZooError(
            f"{who}: lengths expected whole numbers, got {float(lengths[which]):g} for {sequence_name(which)}. "
            "Round it."
        )
    lengths = lengths_of(x, lengths)
    if n == 1 and lengths.dim() == 1 and len(lengths) > 1:
        raise ZooError(
            f"{who}: lengths expected to add up to the {t} rows of x, got {int(lengths.sum())} in all. "
            "Correct them, or pad sequences to x of shape (N, T, D)."
        )
    if lengths.shape != (n,):
        raise ZooError(
            f"{who}: lengths expected shape ({n},), one a sequence, got {tuple(lengths.shape)}. "
            "Pad sequences to x of shape (N, T, D) first."
        )
    bad = (lengths < 1) | (lengths > t)
    if bad.any():
        which = int(bad.nonzero()[0])
        raise ZooError(
            f"{who}: lengths expected from 1 to {t}, got {int(lengths[which])} for {sequence_name(which)}. "
            "Correct it, or drop that sequence."
        )
    return lengths
