"""Stochastic binary network: one half of an image from the other, through layers of discrete variables.

    h1 ~ p(h1 | x),  h2 ~ p(h2 | h1),  ...      bits, or categorical variables, each layer given the one below
    y | h ~ likelihood(decoder(h_last))

The guide is the network's own way up, q(h | x, y) = p(h | x), as in Raiko, Berglund, Alain & Dinh (2015), "Techniques
for learning binary stochastic feedforward neural networks", and in Jang et al. (2017), section 4.1, whose sizes are
392-200-200-392 or 392-(20x10)-(20x10)-392; the bound then has no KL, and its K-sample form is the one they report
(K = 1000). With ``recognition=True`` a guide of its own sees y too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from guides import AmortizedBits, AmortizedCode
from zoo.core.checks import positive
from zoo.errors import ZooError
from zoo.models.shared.neural import network
from zoo.models.shared.paired import PairedModel

__all__ = ["StochasticBinaryNetwork", "halves"]


def halves(images: Tensor) -> tuple[Tensor, Tensor]:
    """Upper and lower half of images whose rows lie one after another: (N, D) to two of (N, D / 2).

    Raises:
        ZooError: an odd number of pixels.
    """
    if images.dim() != 2 or images.shape[1] % 2:
        raise ZooError(f"halves: images expected an even number of pixels, got {tuple(images.shape)}. Crop them.")
    middle = images.shape[1] // 2
    return images[:, :middle].contiguous(), images[:, middle:].contiguous()


class StochasticBinaryNetwork(PairedModel):
    """Discrete layers between x (given) and y (predicted).

    Args:
        num_inputs: D_x of x. num_features: D of y.
        num_variables: V of each layer, from x up; their number is the number of layers.
        num_categories: K values of each variable; 2 makes them bits.
        hidden_dims: widths of deterministic layers between the stochastic ones; () is the papers'.
        recognition: whether the guide has networks of its own, which see y as well as x.
        likelihood, binarization, white, num_values: of y, see :class:`~zoo.models.shared.neural.NeuralModel`; under a
            Bernoulli x and y are pixels alike.
        activation: "relu" or "tanh".

    Shapes:
        data: a tuple (x, y), x (N, D_x) and y (N, D); one array (N, D_x + D) of equal halves is cut by itself.
        h1, h2, ...: (N, V) bits, or (N, V, K) one-hot rows.
        log_weights(x, y, S): (S, N), nats.

    Raises:
        ZooError: data that are not two arrays of these sizes; y outside the likelihood's support.

    Example:
        >>> model, (x, y) = tiny()
        >>> model.log_weights(x, y, 5).shape
        torch.Size([5, 8])
    """

    reference = "Raiko et al. (2015), Techniques for learning binary stochastic feedforward neural networks"

    def __init__(
        self,
        num_inputs: int,
        num_features: int,
        num_variables: Sequence[int] = (200, 200),
        num_categories: int = 2,
        hidden_dims: Sequence[int] = (),
        recognition: bool = False,
        likelihood: str = "bernoulli",
        activation: str = "tanh",
        binarization: str | None = None,
        white: float = 1.0,
        num_values: int = 2,
    ) -> None:
        super().__init__()
        who = type(self).__name__
        self._set_up(num_features, likelihood, num_values, binarization, white)
        self.num_inputs = positive(num_inputs, "num_inputs", who)
        layers = self._sizes("num_variables", num_variables)
        if not layers or num_categories < 2:
            raise ZooError(f"{who}: expected at least one layer of variables with 2 values or more. Pass (200, 200).")
        widths = self._widths(hidden_dims, activation)
        self.num_layers, self.binary_code, self.recognition = len(layers), num_categories == 2, recognition
        sizes = self.code_sizes = [count * (1 if self.binary_code else num_categories) for count in layers]

        def layer(inputs: int, count: int) -> AmortizedBits | AmortizedCode:
            if self.binary_code:
                return AmortizedBits(inputs, count, widths, activation)
            return AmortizedCode(inputs, count, num_categories, widths, activation)

        below = [num_inputs, *sizes[:-1]]
        self.layers = nn.ModuleList([layer(i, count) for i, count in zip(below, layers, strict=True)])
        self.decoder = network(sizes[-1], widths[::-1], self.likelihood, activation)
        if recognition:
            seen = [num_inputs + num_features, *(size + num_features for size in sizes[:-1])]
            self.recognizers = nn.ModuleList([layer(i, count) for i, count in zip(seen, layers, strict=True)])

    def _flat(self, h: Tensor) -> Tensor:
        return h if self.binary_code else h.flatten(-2)

    def model(self, x: Tensor, y: Tensor) -> None:
        x, y = self.pair(x, y)
        with pyro.plate("data", x.shape[0]):
            below = x
            for i, layer in enumerate(self.layers, 1):
                below = self._flat(pyro.sample(f"h{i}", layer(below)))
            pyro.sample("y", self.likelihood(self.decoder(below)), obs=y)

    def guide(self, x: Tensor, y: Tensor) -> None:
        x, y = self.pair(x, y)
        with pyro.plate("data", x.shape[0]):
            below = x
            for i in range(1, self.num_layers + 1):
                below = self._flat(pyro.sample(f"h{i}", self._q(i, below, y)))

    def _q(self, layer: int, below: Tensor, y: Tensor) -> dist.TorchDistribution:
        if not self.recognition:
            q: dist.TorchDistribution = self.layers[layer - 1](below)
            return q
        q = self.recognizers[layer - 1](below, y)
        return q

    def log_weights(self, x: Tensor, y: Tensor, num_particles: int) -> Tensor:
        """ln p(y, h_k | x) - ln q(h_k | x, y) of K draws a datum, (K, N) nats; the draws carry no gradient.

        Without recognition ln p(y | h_k): their logarithmic mean over k is the K-sample bound on ln p(y | x).
        """
        x, y = self.pair(x, y)
        below, weight = x.expand(num_particles, *x.shape), x.new_zeros(num_particles, x.shape[0])
        for i, layer in enumerate(self.layers, 1):
            q = self._q(i, below, y)
            h = q.sample()
            if self.recognition:
                weight = weight + layer(below).log_prob(h) - q.log_prob(h)
            below = self._flat(h)
        return weight + self.likelihood.log_prob(self.decoder(below), y)

    def standardize(self, x: Tensor, y: Tensor) -> None:
        lowest: Any = self.layers[0]
        lowest.set_from(x)
        if not self.recognition:
            return
        networks: Any = self.recognizers
        first, *others = networks
        first.set_from(torch.cat([x, y], -1))
        for recognizer, size in zip(others, self.code_sizes, strict=False):
            recognizer.set_from(y, start=size)

    @classmethod
    def cut(cls, images: Tensor, num_inputs: int | None) -> tuple[Tensor, Tensor]:
        if num_inputs not in (None, images.shape[-1] / 2):
            raise ZooError(f"halves: images expected {2 * int(num_inputs or 0)} pixels, got {images.shape[-1]}.")
        return halves(images)


def tiny() -> tuple[StochasticBinaryNetwork, tuple[Tensor, Tensor]]:
    """The smallest honest instance, and data from it."""
    model = StochasticBinaryNetwork(num_inputs=3, num_features=4, num_variables=(2, 3))
    generator = torch.Generator().manual_seed(0)
    x = torch.bernoulli(torch.full((8, 3), 0.5), generator=generator)
    with torch.no_grad():
        h = x
        for layer in model.layers:
            h = torch.bernoulli(layer(h).base_dist.probs, generator=generator)
        y = torch.bernoulli(model.likelihood.mean(3 * model.decoder(h)), generator=generator)
    return model, (x, y)
