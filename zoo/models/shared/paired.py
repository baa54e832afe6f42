"""Networks of y given x, cut out of one image or told apart by the user."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from zoo.core.checks import matrix, rows
from zoo.core.contract import LatentVariableModel
from zoo.core.data import Data, as_data
from zoo.errors import ZooError
from zoo.models.shared.neural import NeuralModel

__all__ = ["PairedModel"]


class PairedModel(NeuralModel):
    """Base class of models of y given x: data are a tuple (x, y), x (N, D_x) and y (N, D)."""

    takes_pairs = True
    num_inputs: int

    def checked_pair(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """x and y as finite (N, D_x) and (N, D) tensors, binarised where that is done once and for all.

        Raises:
            ZooError: other sizes, y outside the likelihood's support, or different numbers of rows.
        """
        who = type(self).__name__
        given, target = matrix(x, self.num_inputs, f"{who} (x)"), self.checked(y)
        if len(given) != len(target):
            raise ZooError(f"{who}: x and y expected as many rows, got {len(given)} and {len(target)}. Match them.")
        if self.binarization is not None:
            bad = (given < 0) | (given > self.white)
            if bad.any():
                raise ZooError(
                    f"{who}: x expected pixels from 0 to white = {self.white:g}, as y has, got "
                    f"{float(given[bad][0]):g} in {rows(bad)}. Leave binarization out where x is no image."
                )
        if self.binarization in ("static", "threshold"):
            given = self.binary(given, seed=1) * self.white  # draws of its own: not those of y
        return given, target

    @classmethod
    def cut(cls, images: Tensor, num_inputs: int | None) -> tuple[Tensor, Tensor]:
        """The x and y that images are cut into where they come whole, x of ``num_inputs`` pixels or the usual number.

        Raises:
            ZooError: images that cannot be cut so.
        """
        raise NotImplementedError

    @classmethod
    def paired(cls, x: Data, num_inputs: int | None = None) -> tuple[Tensor, Tensor]:
        """(x, y) of a tuple, of a dict with these keys, or of images to be cut.

        Raises:
            ZooError: none of these.
        """
        if isinstance(x, dict) and set(x) == {"x", "y"}:
            x = (x["x"], x["y"])
        got = f"{len(x)} of them" if isinstance(x, (tuple, dict)) else type(x).__name__
        if isinstance(x, Tensor):
            try:
                x = cls.cut(x, num_inputs)
            except ZooError:
                got = f"one array {tuple(x.shape)}"
        if not isinstance(x, tuple) or len(x) != 2:
            raise ZooError(
                f"{cls.__name__}: data expected a tuple (x, y), or whole images to cut, got {got}. "
                "Say which columns are y: --targets, or load_data(targets=...)."
            )
        return x

    @classmethod
    def from_data(cls, x: Data, **arguments: Any) -> LatentVariableModel:
        """Sizes of x and y read off the data; of an array of images one part is given, and the rest is y."""
        x = as_data(x)
        given, target = cls.paired(x, arguments.get("num_inputs"))
        return super().from_data(x, **{"num_inputs": given.shape[-1], "num_features": target.shape[-1], **arguments})

    def validate(self, x: Data) -> tuple[Tensor, Tensor]:
        return self.checked_pair(*self.paired(x, self.num_inputs))

    def resample(self, x: Tensor, y: Tensor) -> Data:  # type: ignore[override]
        return super().resample(x), super().resample(y)

    def settle(self, x: Tensor, y: Tensor, seed: int = 0) -> Data:  # type: ignore[override]
        # Another draw for x than for y: grey pixels of equal images would otherwise flip together.
        return super().settle(x, 2 * seed + 1), super().settle(y, 2 * seed)

    def inputs(self, x: Tensor) -> Tensor:
        """x as the networks take it: under a Bernoulli pixels like y's, with a draw of their own."""
        if self.likelihood.kind == "bernoulli":
            return self.pixels(x, seed=1)
        return x.to(next(self.decoder.parameters()).dtype) / self.white

    def pair(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """x and y as the programs take them."""
        return self.inputs(x), self.pixels(y)

    def measure(self, x: Tensor, y: Tensor) -> None:
        """Standardise the networks that read x, or x and y, by these; each as :meth:`pair` gives them."""
        raise NotImplementedError

    def initialize(self, x: Data, init: str, restart: int = 0) -> None:
        """Networks as drawn, inputs that are no pixels standardised; the decoder's last bias is what suits y alone."""
        if init == "current":
            return
        given, target = x
        self.start_from(target)
        if self.likelihood.kind == "gaussian" or bool(((given < 0) | (given > self.white)).any()):
            self.measure(*self.pair(given, target))
