"""Denoising autoencoder: what is left of a spoilt datum is to give the whole of it back.

    noise ~ U(0, 1)^D, counted nowhere;   x̃ = corrupt(x, noise)
    z = sigmoid(W x̃ + b), layer upon layer
    x | x̃ ~ likelihood(decoder(z))

Vincent, Larochelle, Bengio & Manzagol (2008), "Extracting and composing robust features with denoising autoencoders";
Vincent et al. (2010), "Stacked denoising autoencoders". What is climbed is E ln p(x | x̃), the expectation over the
noise: no log-density of x, as x̃ is made of x. With no noise it is the plain autoencoder; with noise on the code in the
place of the data, a stochastic one.

Where the noise is Gaussian of small variance σ², the reconstruction that is best in squared error is the mean of x
given x̃, and (reconstruction - x̃) / σ² the gradient of ln p at x̃, p blurred by the noise (Vincent 2011, "A connection
between score matching and denoising autoencoders"; Alain & Bengio 2014).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.nn.functional import linear

from zoo.core.checks import matrix
from zoo.core.contract import read_by
from zoo.core.data import Data
from zoo.core.isolation import isolated
from zoo.errors import ZooError
from zoo.models.shared.corruption import Corruption
from zoo.models.shared.likelihood import Likelihood
from zoo.models.shared.neural import NeuralModel
from zoo.models.shared.sigmoid_layers import Bias, SigmoidLayer

__all__ = ["DenoisingAutoencoder"]

#: The kinds of p(x | x̃).
KINDS: tuple[str, ...] = ("bernoulli", "continuous_bernoulli", "gaussian")


class DenoisingAutoencoder(NeuralModel):
    """Denoising autoencoder over D features.

    Args:
        num_features: D.
        hidden_dims: widths of the encoder's layers, from x on, each a sigmoid of its inputs; the decoder has them in
            reverse. A code may be wider than the data.
        corruption: "masking", "salt_and_pepper" or "gaussian".
        noise: ν, the share of features that are spoilt; of the Gaussian kind the standard deviation, in units of white,
            or of each feature's own deviation under a Gaussian likelihood. 0: a plain autoencoder.
        corrupts: "data", or "code": the noise then falls on z, as in a stochastic autoencoder.
        tied: whether the decoder has the encoder's weights, transposed.
        likelihood: "bernoulli": the cross-entropy of pixels, grey ones too; "gaussian": squared error, in units of each
            feature's own deviation; or "continuous_bernoulli".
        white: what a white pixel reads in the data: 1, 16, 255.

    Shapes:
        x: (N, D). denoising(x, S): (N,) nats, ln p(x | x̃) by S draws of the noise. encode(x): (N, H) of the last layer.
        reconstruct(x), corrupt(x), score_function(x): (N, D), in the data's units. filters(): (H, D) of the first.
        A feature that is masked is black, or at its mean under a Gaussian likelihood.

    Raises:
        ZooError: a name that is not known; noise out of range; x of another size, or outside the likelihood's support.

    Example:
        >>> model, x = tiny()
        >>> model.denoising(x, 5).shape
        torch.Size([8])
    """

    reference = "Vincent, Larochelle, Bengio & Manzagol (2008), Extracting and composing robust features"
    takes_grey = True
    normalized = False

    encoder: nn.ModuleList
    decoder: nn.ModuleList
    low: Tensor
    high: Tensor

    def __init__(
        self,
        num_features: int,
        hidden_dims: Sequence[int] = (200,),
        corruption: str = "masking",
        noise: float = 0.25,
        corrupts: str = "data",
        tied: bool = False,
        likelihood: str = "bernoulli",
        white: float = 1.0,
    ) -> None:
        super().__init__()
        self._build(num_features, hidden_dims, corruption, [noise], corrupts, tied, likelihood, white)

    def _build(
        self,
        num_features: int,
        hidden_dims: Sequence[int],
        corruption: str,
        noise: Sequence[float],
        corrupts: str,
        tied: bool,
        likelihood: str,
        white: float,
    ) -> None:
        """The layers; ``noise`` is of the first, and of as many more as are given."""
        self._choice("likelihood", likelihood, KINDS)
        self._set_up(num_features, likelihood, 2, None, white)
        if likelihood == "gaussian":
            self.likelihood = Likelihood(likelihood, num_features, noise=1.0)
        widths = (num_features, *self._sizes("hidden_dims", hidden_dims))
        if len(widths) < 2:
            raise ZooError(f"{self.name}: hidden_dims expected at least one width, got none. Pass (200,).")
        self.corrupts, self.tied = self._choice("corrupts", corrupts, ("data", "code")), bool(tied)
        spoilt = widths if corrupts == "data" else widths[-1:]
        try:
            self.corruptions = [Corruption(corruption, a, w) for a, w in zip(noise, spoilt, strict=False)]
        except ZooError as error:
            raise ZooError(f"{self.name}: {error}") from None
        pairs = list(itertools.pairwise(widths))
        self.encoder = nn.ModuleList([SigmoidLayer(below, above) for below, above in pairs])
        self.decoder = nn.ModuleList([Bias(below) if tied else SigmoidLayer(above, below) for below, above in pairs])
        self.register_buffer("low", torch.zeros(num_features))
        self.register_buffer("high", torch.ones(num_features))

    # --- the network ------------------------------------------------------------------------------------------------

    def units(self, x: Tensor) -> Tensor:
        """Data as the programs take them, as the encoder reads them: pixels as they are, else in units of their own."""
        return (x - self.likelihood.loc) / self.likelihood.scale if self.likelihood.in_units else x

    def back(self, layer: int, code: Tensor) -> Tensor:
        """What a layer's ``code`` (N, H) is decoded to, (N, D), before any sigmoid; layers count from x on, from 0."""
        decoder: Any = self.decoder[layer]
        if self.tied:
            weight: Any = self.encoder[layer].weight
            return linear(code, weight.mT, decoder.bias)
        out: Tensor = decoder(code)
        return out

    def codes(self, unit: Tensor, layers: int | None = None) -> Tensor:
        """The code (N, H) of the last layer, or of the first so many, of ``unit``: x (N, D) in its units."""
        for layer in self.encoder[:layers]:
            unit = layer(unit).sigmoid()
        return unit

    def outputs(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """The decoder's outputs, (..., N, D), of x (N, D) spoilt by noise (..., N, D), of a code's width where that is
        what is spoilt."""
        corrupted, unit = self.corruptions[0], self.units(x)
        if self.corrupts == "data":
            code = self.codes(corrupted(unit, noise, self.low, self.high))
        else:
            code = corrupted(self.codes(unit), noise)
        for layer in reversed(range(len(self.decoder))):
            code = self.back(layer, code)
            code = code.sigmoid() if layer else code
        return code

    # --- the programs -----------------------------------------------------------------------------------------------

    def model(self, x: Tensor) -> None:
        x = self.pixels(x)
        with pyro.plate("data", len(x)):
            noise = self._noise(x)
            pyro.sample("x", self._given(self.outputs(x, noise)), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            self._noise(self.pixels(x))

    def _noise(self, x: Tensor) -> Tensor:
        with poutine.mask(mask=False):
            drawn: Tensor = pyro.sample("noise", self.corruptions[0].distribution(x))
        return drawn

    def _given(self, outputs: Tensor) -> dist.TorchDistribution:
        """p(x | x̃); of a Bernoulli the cross-entropy of grey pixels is taken too."""
        if self.likelihood.kind == "bernoulli":
            return dist.Bernoulli(logits=outputs, validate_args=False).to_event(1)
        given: dist.TorchDistribution = self.likelihood(outputs)
        return given

    def withholds(self) -> dict[str, str]:
        grey = "its pixels are taken as they are"
        what = "what it climbs is ln p(x | spoilt x), no density of x"
        return {"log_marginal": what, "sample_like": what, "resample": grey, "settle": grey}

    def denoising(self, x: Tensor, num_particles: int = 1) -> Tensor:
        """E ln p(x | x̃) by so many draws of the noise a datum, (N,) nats; differentiable."""
        x = self.pixels(x)
        value = self.likelihood.log_prob(self.outputs(x, self.corruptions[0].draw(x, num_particles, len(x))), x)
        return value.mean(0) if value.dim() > 1 else value

    # --- what a user sees -------------------------------------------------------------------------------------------

    def _rows(self, x: Data) -> Tensor:
        """x as the programs take it; what is spoilt may lie beyond what the likelihood takes."""
        read = read_by(self, x)
        rows = self.fields.named(read)["x"] if isinstance(read, (dict, tuple)) else read
        return self.pixels(matrix(rows.to(self.low), self.num_features, self.name))

    def _shown(self, unit: Tensor) -> Tensor:
        """:meth:`units` undone, in the data's units."""
        if self.likelihood.in_units:
            return self.likelihood.loc + self.likelihood.scale * unit
        return self.from_pixels(unit)

    @torch.no_grad()
    def encode(self, x: Data) -> Tensor:
        """The code of data, (N, H), from 0 to 1."""
        return self.codes(self.units(self._rows(x)))

    def encoded(self, x: Data) -> Tensor:
        """:meth:`encode`, of data that were checked."""
        return self.encode(x)

    @torch.no_grad()
    def reconstruct(self, x: Data) -> Tensor:
        """The mean of p(x | x̃) where x̃ is the data as they are, (N, D), in their units."""
        return self.from_pixels(self.likelihood.mean(self.outputs(self._rows(x))))

    @torch.no_grad()
    def corrupt(self, x: Data, seed: int = 0) -> Tensor:
        """Data spoilt by one draw of the noise, (N, D), in their units.

        Raises:
            ZooError: the noise falls on the code.
        """
        if self.corrupts != "data":
            raise ZooError(f"{self.name}: corrupt expected noise on the data, got it on the code. Use corrupts='data'.")
        rows = self._rows(x)
        with isolated(seed):
            noise = self.corruptions[0].draw(rows, len(rows))
        return self._shown(self.corruptions[0](self.units(rows), noise, self.low, self.high))

    def score_function(self, x: Data) -> Tensor:
        """An estimate of the gradient of ln p(x), (N, D), per unit of x: (reconstruction - x) / σ².

        Raises:
            ZooError: the noise is not Gaussian, or there is none, or it falls on the code.
        """
        noise = self.corruptions[0]
        if noise.kind != "gaussian" or not noise.active or self.corrupts != "data":
            raise ZooError(
                f"{self.name}: score_function expected Gaussian noise on the data, got {noise.kind} of "
                f"{noise.amount:g} on the {self.corrupts}. Fit with corruption='gaussian', noise=0.1."
            )
        unit: Any = self.likelihood.scale if self.likelihood.in_units else self.white
        rows = self.from_pixels(self._rows(x))
        return (self.reconstruct(x) - rows) / (noise.amount * unit) ** 2

    @torch.no_grad()
    def filters(self) -> Tensor:
        """What each unit of the first layer looks at: its weights, (H, D)."""
        weight: Any = self.encoder[0].weight
        return weight.clone()

    # --- starts -----------------------------------------------------------------------------------------------------

    def initialize(self, x: Data, init: str, restart: int = 0) -> None:
        """Networks as drawn; the decoder's last bias is what suits the data without a code."""
        if init == "current":
            return
        rows = x["x"] if isinstance(x, dict) else x
        self.likelihood.set_from(rows)
        if self.likelihood.in_units:
            unit = self.units(rows)
            self.low, self.high = unit.min(0).values, unit.max(0).values
        last: Any = self.decoder[0]
        with torch.no_grad():
            last.bias.copy_(self.likelihood.start(self.in_decoders_units(rows)))


def tiny() -> tuple[DenoisingAutoencoder, Tensor]:
    """The smallest honest instance, and data: two patterns, each seen with a pixel wrong now and then."""
    model = DenoisingAutoencoder(num_features=4, hidden_dims=(3,))
    x = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1]]).repeat(4, 1).to(model.dtype)
    x[0, 1], x[3, 0] = 0.5, 1.0
    return model, x
