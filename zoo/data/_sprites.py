"""Small sprites with known factors, after the dSprites of Matthey et al. (2017): what disentanglement is measured on.

Every combination of shape, scale, rotation and position is one image of 16 x 16 greys in [0, 1]; a grey is the share
of the pixel that the shape covers, counted on a 4 x 4 grid inside it.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

__all__ = ["FACTORS", "SIDE", "sprites"]

SIDE = 16
_FINE = 4  # points a pixel, each way
#: Factor and number of its values; the first changes slowest.
FACTORS: dict[str, int] = {"shape": 3, "scale": 3, "rotation": 4, "x": 6, "y": 6}


def _inside(shape: int, u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether points (u, v), in units of the sprite's size and turned with it, lie in the shape."""
    if shape == 0:  # a rectangle, twice as long as wide
        return (np.abs(u) <= 1.0) & (np.abs(v) <= 0.5)
    if shape == 1:  # half a disc
        return (u**2 + v**2 <= 1.0) & (v >= 0)
    return (np.abs(v) <= 0.8) & (np.abs(u) <= (0.8 - v) / 1.6 * 0.9)  # a triangle, point up


def sprites() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """All images and the factors they were drawn from.

    Returns:
        images (1296, 256), float32 in [0, 1], rows of the image one after another; factors (1296, 5), each from 0 to
        one less than its number of values in :data:`FACTORS`. Rotations are 0, 45, 90 and 135 degrees.
    """
    points = (np.arange(SIDE * _FINE) + 0.5) / _FINE
    column, row = np.meshgrid(points, points)
    factors = np.array(list(itertools.product(*(range(count) for count in FACTORS.values()))), dtype=np.int64)
    images = np.empty((len(factors), SIDE * SIDE), dtype=np.float32)
    for image, (shape, scale, rotation, x, y) in zip(images, factors, strict=True):
        size = 2.2 + 0.9 * scale
        angle = np.pi * rotation / FACTORS["rotation"]
        across, down = column - (4.5 + 1.4 * x), row - (4.5 + 1.4 * y)
        u = (np.cos(angle) * across + np.sin(angle) * down) / size
        v = (-np.sin(angle) * across + np.cos(angle) * down) / size
        covered = _inside(shape, u, v).reshape(SIDE, _FINE, SIDE, _FINE)
        image[:] = covered.mean(axis=(1, 3)).reshape(-1)
    return images, factors
