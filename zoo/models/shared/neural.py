"""What models of vectors with neural networks share: decoders' likelihoods, pixels and how they are made binary.

A likelihood turns what a network puts out ("logits") into p(x | z), independent over features:

    bernoulli             x_d ~ Bernoulli(sigmoid(l_d)), x_d 0 or 1
    continuous_bernoulli  p(x_d) = C(l_d) exp(l_d x_d) / (1 + exp(l_d)), x_d in [0, 1]; Loaiza-Ganem & Cunningham (2019)
    gaussian              x_d ~ N(l_d, scale_d^2), scale_d learned, the same for all data
    categorical           x_d ~ Categorical(softmax(l_d)), l_d of V numbers, x_d in 0..V-1
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from guides.networks import MLP, ConvDecoder
from zoo.core.checks import matrix, positive, rows
from zoo.core.contract import LatentVariableModel
from zoo.core.data import Data, as_data, tensors
from zoo.errors import ZooError, unknown_name
from zoo.models.shared.likelihood import LIKELIHOODS, Likelihood
from zoo.models.shared.network_model import NetworkModel
from zoo.models.shared.pixels import noise_of

__all__ = ["BINARIZATIONS", "NeuralModel", "network"]

#: How grey pixels become 0 or 1. None: they must be so already.
BINARIZATIONS: tuple[str, ...] = ("dynamic", "static", "threshold")

#: What was drawn as 0 or 1 and is still in use: to look again would wait for a GPU.
_DRAWN: WeakValueDictionary[int, Tensor] = WeakValueDictionary()

#: Rows that draw their fixed noise at a time: it takes several whole numbers a pixel.
NOISED_ROWS = 2048


def network(
    latent_dim: int,
    hidden_dims: Sequence[int],
    likelihood: Likelihood,
    activation: str = "relu",
    architecture: str = "mlp",
) -> nn.Module:
    """A decoder from (..., latent_dim) to the likelihood's outputs, ``hidden_dims`` in the order they are met."""
    if architecture == "conv":
        outputs = likelihood.num_outputs // likelihood.num_features
        return ConvDecoder(latent_dim, likelihood.num_features, hidden_dims[0], outputs=outputs, activation=activation)
    return MLP((latent_dim, *hidden_dims, likelihood.num_outputs), activation)


class NeuralModel(NetworkModel):
    """Base class of models of vectors that are made of networks.

    Args of every subclass:
        likelihood: "bernoulli", "continuous_bernoulli", "gaussian" or "categorical".
        binarization: what becomes of grey pixels under a Bernoulli: "dynamic" draws 0 or 1 anew for every batch, a
            pixel's grey its probability (elsewhere, as in ``evaluate``, one fixed draw is used); "static" draws once;
            "threshold" cuts at one half. None refuses grey pixels.
        white: what a white pixel reads in the data: 1, 16 (``digits``), 255. Pixels are divided by it.
    """

    default_data = "digits"
    #: Whether a Bernoulli takes grey pixels as they are, by its cross-entropy: that is a density of none.
    takes_grey: ClassVar[bool] = False

    binarization: str | None
    white: float

    def _set_up(
        self,
        num_features: int,
        likelihood: str,
        num_values: int,
        binarization: str | None,
        white: float,
    ) -> None:
        """What every constructor begins with."""
        who = type(self).__name__
        self.num_features = positive(num_features, "num_features", who)
        if binarization is not None and binarization not in BINARIZATIONS:
            raise unknown_name(f"{who}: binarization", binarization, BINARIZATIONS)
        if binarization is not None and likelihood != "bernoulli":
            raise ZooError(f"{who}: binarization expected likelihood='bernoulli', got {likelihood!r}. Leave it out.")
        if not white > 0:
            raise ZooError(f"{who}: white expected a positive number, got {white}. It is 1, 16 or 255 as a rule.")
        self.binarization, self.white = binarization, float(white)
        self._choice("likelihood", likelihood, LIKELIHOODS[:-1])
        self.likelihood = Likelihood(likelihood, num_features, positive(num_values, "num_values", who))

    @classmethod
    def from_data(cls, x: Data, **arguments: Any) -> LatentVariableModel:
        """Sizes read off the data; also what white is, and that grey pixels under a Bernoulli are drawn anew."""
        x = as_data(x)
        target = tensors(x)[-1:]
        if target and arguments.get("likelihood", "bernoulli") in ("bernoulli", "continuous_bernoulli"):
            top, whole = float(target[0].max()), bool((target[0] == target[0].round()).all())
            arguments.setdefault("white", next((w for w in (1.0, 16.0, 255.0) if top <= w and (whole or w == 1)), 1.0))
            grey = (target[0] > 0) & (target[0] < arguments["white"])
            if arguments.get("likelihood", "bernoulli") == "bernoulli" and not cls.takes_grey and bool(grey.any()):
                arguments.setdefault("binarization", "dynamic")
        return super().from_data(x, **arguments)

    # --- data -----------------------------------------------------------------------------------------------------

    def validate(self, x: Data) -> Any:
        return self.checked(x)

    def checked(self, x: Data) -> Tensor:
        """x as a finite (N, D) tensor of values the likelihood takes; binarised where that is done once and for all.

        Raises:
            ZooError: another size, or values outside the likelihood's support.
        """
        who, kind = type(self).__name__, self.likelihood.kind
        x = matrix(x, self.num_features, who)
        if kind == "categorical":
            bad = (x < 0) | (x >= self.likelihood.num_values) | (x != x.round())
            if bad.any():
                raise ZooError(
                    f"{who}: x expected whole numbers from 0 to {self.likelihood.num_values - 1}, got "
                    f"{float(x[bad][0]):g} in {rows(bad)}. Pass num_values to match."
                )
        elif kind != "gaussian":
            bad = (x < 0) | (x > self.white)
            if bad.any():
                top = float(x.max())
                fix = "Pass likelihood='gaussian'" if (x < 0).any() else f"Pass white={top:g}, or likelihood='gaussian'"
                raise ZooError(
                    f"{who}: pixels expected from 0 to white = {self.white:g}, got {float(x[bad][0]):g} in "
                    f"{rows(bad)}. {fix}."
                )
            grey = (x > 0) & (x < self.white)
            if kind == "bernoulli" and self.binarization is None and not self.takes_grey and grey.any():
                raise ZooError(
                    f"{who}: a Bernoulli decoder expected pixels 0 or {self.white:g}, got {float(x[grey][0]):g} in "
                    f"{rows(grey)}. Pass binarization='dynamic', or likelihood='continuous_bernoulli'."
                )
            if self.binarization in ("static", "threshold"):
                return self.binary(x) * self.white
        return x

    def binary(self, x: Tensor, seed: int = 0) -> Tensor:
        """Pixels as 0 or 1, (N, D): by one fixed draw, or at the threshold. What is binary already stays as it is.

        An image has the same draw wherever and with whatever others it comes, see :func:`noise_of`.
        """
        level = x / self.white
        if self.binarization == "threshold":
            return (level > 0.5).to(x.dtype)
        return torch.cat([(noise_of(piece, seed) < piece).to(x.dtype) for piece in level.split(NOISED_ROWS)])

    def pixels(self, x: Tensor, seed: int = 0) -> Tensor:
        """The data as the programs score them: in units of white, and binary if the model is one of binary pixels.

        A grey x here is one that no estimator has drawn from; the same fixed draw then serves model and guide.
        """
        x = x.to(next(self.decoder.parameters()).dtype)
        if not self.likelihood.of_pixels:
            return x
        if self._is_grey(x):
            return self.binary(x, seed)
        return x if self.white == 1.0 else x / self.white

    def resample(self, x: Tensor) -> Data:
        """A new draw of binary pixels from grey ones, by torch's generator; estimators ask for one every batch."""
        if self.binarization != "dynamic":
            return x
        drawn = torch.bernoulli(x if self.white == 1.0 else x / self.white) * self.white
        _DRAWN[id(drawn)] = drawn
        return drawn

    def from_pixels(self, x: Tensor) -> Tensor:
        """What the programs draw, in the data's units: :meth:`pixels` undone."""
        return x * self.white if self.likelihood.of_pixels else x

    def _is_grey(self, x: Tensor) -> bool:
        """Whether pixels are still to be drawn."""
        if self.binarization != "dynamic" or _DRAWN.get(id(x)) is x:
            return False
        return not bool(((x == 0) | (x == self.white)).all())

    def settle(self, x: Tensor, seed: int = 0) -> Data:
        """Grey pixels as the fixed draw of this seed: what scores of data are taken of."""
        return self.binary(x, seed) * self.white if self._is_grey(x) else x

    def in_decoders_units(self, x: Tensor) -> Tensor:
        return x / self.white if self.likelihood.of_pixels else x
