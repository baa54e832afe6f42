"""Networks of y given x, cut out of one image or told apart by the user."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from zoo.core.checks import matrix, rows
from zoo.core.contract import LatentVariableModel
from zoo.core.data import Data, Fields, as_data
from zoo.errors import ZooError
from zoo.models.shared.neural import NeuralModel

__all__ = ["PairedModel"]


class PairedModel(NeuralModel):
    """Base class of models of y given x: data are (x, y), x (N, D_x) and y (N, D)."""

    fields = Fields(observed=("y",), given=("x",))
    num_inputs: int

    def checked_pair(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """x and y as finite (N, D_x) and (N, D) tensors, binarised where that is done once and for all.

        Raises:
            ZooError: other sizes, y outside the likelihood's support, or different numbers of rows.
        """
        given, target = self.checked_inputs(x), self.checked(y)
        if len(given) != len(target):
            raise ZooError(
                f"{self.name}: x and y expected as many rows, got {len(given)} and {len(target)}. Match them."
            )
        return given, target

    def checked_inputs(self, x: Tensor) -> Tensor:
        """x as a finite (N, D_x) tensor, binarised where that is done once and for all.

        Raises:
            ZooError: another shape, entries that are not finite, or no greys where bits are to be made of them.
        """
        given = matrix(x, self.num_inputs, f"{self.name} (x)")
        if self.binarization is not None:
            bad = (given < 0) | (given > self.white)
            if bad.any():
                raise ZooError(
                    f"{self.name}: x expected pixels from 0 to white = {self.white:g}, as y has, got "
                    f"{float(given[bad][0]):g} in {rows(bad)}. Leave binarization out where x is no image."
                )
        if self.binarization in ("static", "threshold"):
            given = self.binary(given, seed=1) * self.white  # draws of its own: not those of y
        return given

    @classmethod
    def cut(cls, images: Tensor, num_inputs: int | None) -> tuple[Tensor, Tensor]:
        """The x and y that images are cut into where they come whole, x of ``num_inputs`` pixels or the usual number.

        Raises:
            ZooError: images that cannot be cut so.
        """
        raise NotImplementedError

    @classmethod
    def paired(cls, x: Data, num_inputs: int | None = None) -> tuple[Tensor, Tensor]:
        """(x, y) of a tuple, of a dict with these keys, or of images to be cut, x the first ``num_inputs`` pixels.

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

    def validate(self, x: Data) -> dict[str, Tensor]:
        given, target = self.checked_pair(*self.paired(x, self.num_inputs))
        return {"x": given, "y": target}

    def validate_given(self, x: dict[str, Any]) -> dict[str, Tensor]:
        return {"x": self.checked_inputs(x["x"])}

    def resample(self, x: Tensor, y: Tensor) -> Data:  # type: ignore[override]
        return {"x": super().resample(x), "y": super().resample(y)}

    def settle(self, x: Tensor, y: Tensor, seed: int = 0) -> Data:  # type: ignore[override]
        # Another draw for x than for y: grey pixels of equal images would otherwise flip together.
        return {"x": super().settle(x, 2 * seed + 1), "y": super().settle(y, 2 * seed)}

    def inputs(self, x: Tensor) -> Tensor:
        """x as the networks take it: under a Bernoulli pixels like y's, with a draw of their own."""
        if self.likelihood.kind == "bernoulli":
            return self.pixels(x, seed=1)
        return x.to(next(self.decoder.parameters()).dtype) / self.white

    def pair(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """x and y as the programs take them."""
        return self.inputs(x), self.pixels(y)

    def standardize(self, x: Tensor, y: Tensor) -> None:
        """Standardise the networks that read x, or x and y, by these; each as :meth:`pair` gives them."""
        raise NotImplementedError

    def initialize(self, x: Data, init: str, restart: int = 0) -> None:
        """Networks as drawn, inputs that are no pixels standardised; the decoder's last bias is what suits y alone."""
        if init == "current":
            return
        given, target = x["x"], x["y"]
        self.start_from(target)
        if self.likelihood.kind == "gaussian" or bool(((given < 0) | (given > self.white)).any()):
            self.standardize(*self.pair(given, target))
