"""The small networks that encoders and decoders are made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

__all__ = ["ACTIVATIONS", "MLP", "ConvDecoder", "ConvEncoder", "Standardize"]

#: Nonlinearities between layers, by name.
ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU}


class Standardize(nn.Module):
    """(x - loc) / scale with the data's own location and scale, so that a network sees unit-sized inputs.

    Args:
        num_features: columns of x.

    Shapes:
        x: (..., num_features), and so is the result.

    Example:
        >>> change = Standardize(2)
        >>> change.set_from(torch.tensor([[0.0, 5.0], [2.0, 9.0]]))
        >>> change(torch.tensor([[1.0, 9.0]])).round(decimals=3)
        tensor([[0., 1.]])
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.register_buffer("loc", torch.zeros(num_features))
        self.register_buffer("scale", torch.ones(num_features))

    def set_from(self, x: Tensor, start: int = 0) -> None:
        """Take mean and deviation of ``x`` (N, D) for columns from ``start`` on; constant ones get scale 1."""
        loc, scale = x.mean(0), x.std(0, correction=0)
        rounding = 4 * torch.finfo(x.dtype).eps * loc.abs()  # all that is left of a constant column
        self.loc.narrow(0, start, len(loc)).copy_(loc)
        self.scale.narrow(0, start, len(loc)).copy_(scale.masked_fill_(~(scale > rounding), 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.loc) / self.scale


class MLP(nn.Sequential):
    """Standardised inputs, then fully connected layers with a nonlinearity between them.

    Args:
        sizes: widths from input to output; two entries make it linear.
        activation: "tanh" or "relu".

    Shapes:
        inputs: (..., sizes[0]) to (..., sizes[-1]). Several inputs whose widths add up to sizes[0] are taken side by
        side and broadcast against each other: each passes its columns of the first layer by itself, before it is
        repeated.

    Example:
        >>> MLP((4, 8, 2))(torch.zeros(3, 4)).shape
        torch.Size([3, 2])
    """

    def __init__(self, sizes: Sequence[int], activation: str = "tanh") -> None:
        layers: list[nn.Module] = [Standardize(sizes[0])]
        for i, (wide, narrow) in enumerate(pairwise(sizes)):
            layers += [nn.Linear(wide, narrow), *([ACTIVATIONS[activation]()] if i < len(sizes) - 2 else [])]
        super().__init__(*layers)

    def forward(self, *inputs: Tensor) -> Tensor:
        if len(inputs) == 1:
            out: Tensor = super().forward(inputs[0])
            return out
        standardize, first, *rest = self
        assert isinstance(standardize, Standardize)
        assert isinstance(first, nn.Linear)
        widths = [x.shape[-1] for x in inputs]
        weights, locs, scales = (t.split(widths, -1) for t in (first.weight, standardize.loc, standardize.scale))
        parts = [linear((x - m) / s, w) for x, w, m, s in zip(inputs, weights, locs, scales, strict=True)]
        out = parts[0] + first.bias
        for part in parts[1:]:
            out = out + part
        for layer in rest:
            out = layer(out)
        return out

    def set_from(self, x: Tensor, start: int = 0) -> None:
        """Standardise by the mean and scale of ``x`` (N, D), D <= sizes[0]: the columns from ``start`` on."""
        first = self[0]
        assert isinstance(first, Standardize)
        first.set_from(x, start)


def _side(num_pixels: int) -> int:
    side = math.isqrt(num_pixels)
    if side * side != num_pixels or side % 4:
        raise ValueError(f"num_pixels expected a square image whose side is a multiple of 4, got {num_pixels} pixels.")
    return side


class ConvEncoder(nn.Module):
    """Two convolutions of stride 2 over a square image of one channel, then a fully connected layer.

    Args:
        num_pixels: side squared; the side a multiple of 4 (784 is 28 x 28).
        width: W, numbers that come out, nonlinearity included.
        channels: of the two convolutions.
        activation: "tanh" or "relu".

    Shapes:
        x: (..., num_pixels), rows of the image one after another, to (..., width).

    Raises:
        ValueError: the image is not square, or its side not a multiple of 4.

    Example:
        >>> ConvEncoder(64, 10)(torch.zeros(3, 64)).shape
        torch.Size([3, 10])
    """

    def __init__(
        self, num_pixels: int, width: int, channels: tuple[int, int] = (16, 32), activation: str = "relu"
    ) -> None:
        super().__init__()
        self.side = _side(num_pixels)
        kind = ACTIVATIONS[activation]
        self.layers = nn.Sequential(
            nn.Conv2d(1, channels[0], 4, 2, 1),
            kind(),
            nn.Conv2d(channels[0], channels[1], 4, 2, 1),
            kind(),
            nn.Flatten(),
            nn.Linear(channels[1] * (self.side // 4) ** 2, width),
            kind(),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x.reshape(-1, 1, self.side, self.side))
        return out.reshape(*x.shape[:-1], -1)


class ConvDecoder(nn.Module):
    """The way back: a fully connected layer, then two transposed convolutions of stride 2.

    Args:
        latent_dim: L, numbers that go in. num_pixels: as :class:`ConvEncoder`. width: of the hidden layer.
        channels: of the two convolutions, seen from the image; outputs: numbers a pixel.
        activation: a name in ``ACTIVATIONS``.

    Shapes:
        z: (..., latent_dim) to (..., num_pixels * outputs), a pixel's numbers side by side.

    Example:
        >>> ConvDecoder(2, 64, 10)(torch.zeros(3, 2)).shape
        torch.Size([3, 64])
    """

    def __init__(
        self,
        latent_dim: int,
        num_pixels: int,
        width: int,
        channels: tuple[int, int] = (16, 32),
        outputs: int = 1,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        side = _side(num_pixels)
        kind = ACTIVATIONS[activation]
        self.layers = nn.Sequential(
            nn.Linear(latent_dim, width),
            kind(),
            nn.Linear(width, channels[1] * (side // 4) ** 2),
            kind(),
            nn.Unflatten(-1, (channels[1], side // 4, side // 4)),
            nn.ConvTranspose2d(channels[1], channels[0], 4, 2, 1),
            kind(),
            nn.ConvTranspose2d(channels[0], outputs, 4, 2, 1),
        )

    def forward(self, z: Tensor) -> Tensor:
        images: Tensor = self.layers(z.reshape(-1, z.shape[-1]))  # (M, outputs, side, side)
        return images.flatten(2).mT.reshape(*z.shape[:-1], -1)
