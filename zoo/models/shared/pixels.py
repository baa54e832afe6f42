"""Noise that is a function of an image and a seed alone."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["noise_of"]


#: 2^64 over the golden ratio, and the two multipliers of SplitMix64, as signed numbers.
_GOLDEN, _FIRST, _SECOND = (c - 2**64 for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def noise_of(x: Tensor, seed: int = 0) -> Tensor:
    """Uniform numbers in [0, 1), of the shape (N, D) of x: each row's a fixed function of that row and the seed alone.

    A counter-based generator: SplitMix64 (Steele, Lea & Flood 2014, figure 14) at the row's hash plus the column. All
    of it in whole numbers of 64 bits that wrap around, so every device draws the same.
    """
    column = _GOLDEN * torch.arange(1, x.shape[-1] + 1, device=x.device)
    words = x.to(torch.float32).contiguous().view(torch.int32).long()
    row = _scrambled(words + _scrambled(column)).sum(-1, keepdim=True)
    start = torch.full_like(row, seed) * _GOLDEN
    bits = _scrambled(_scrambled(row + start) + column)
    return (_shifted(bits, 40)).to(torch.float32) / 2**24


def _shifted(bits: Tensor, by: int) -> Tensor:
    """A shift to the right that draws in zeros, whatever the sign."""
    return (bits >> by) & ((1 << (64 - by)) - 1)


def _scrambled(bits: Tensor) -> Tensor:
    bits = (bits ^ _shifted(bits, 30)) * _FIRST
    bits = (bits ^ _shifted(bits, 27)) * _SECOND
    return bits ^ _shifted(bits, 31)
