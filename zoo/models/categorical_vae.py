"""Categorical variational autoencoder: the code is V categorical variables of K values, or V bits.

    z_v ~ Categorical(uniform over K, or learned),  v = 1..V
    x | z ~ likelihood(decoder(z)),  z as V one-hot rows
    q(z_v | x) = Categorical(softmax(encoder(x)_v))

784-(20x10)-784 and 784-200-784 of Jang, Gu & Poole (2017), "Categorical reparameterization with Gumbel-softmax",
section 4.2. K^V codes are too many to sum over: ``gumbel``, ``st_gumbel``, ``reinforce``, ``iwae`` (VIMCO), ``rws``.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from guides import AmortizedBits, AmortizedCode
from zoo.core.checks import positive
from zoo.core.offers import follows
from zoo.errors import ZooError
from zoo.models.shared.neural import NeuralModel, network

__all__ = ["CategoricalVAE"]


class CategoricalVAE(NeuralModel):
    """Variational autoencoder with a discrete code.

    Args:
        num_features: D, at least 1.
        num_variables: V of the code. num_categories: K values each; 2 makes them bits, one number each.
        hidden_dims: widths of the encoder's hidden layers, from x on; the decoder has them in reverse. () is the
            paper's: one matrix each way.
        likelihood, binarization, white, num_values: see :class:`~zoo.models.shared.neural.NeuralModel`.
        activation: "relu" or "tanh".
        learned_prior: whether p(z) is learned, as in the paper's comparison, or uniform.

    Shapes:
        x: (N, D), in the likelihood's support. z: (N, V, K), one-hot rows, or (N, V) bits.
        log_weights(x, S): (S, N), nats.

    Raises:
        ZooError: a name that is not known; x of another size, or outside the likelihood's support.

    Example:
        >>> model, x = tiny()
        >>> model.log_weights(x, 5).shape
        torch.Size([5, 8])
    """

    prior_logits: Tensor
    reference = "Jang, Gu & Poole (2017), Categorical reparameterization with Gumbel-softmax"

    def __init__(
        self,
        num_features: int,
        num_variables: int = 20,
        num_categories: int = 10,
        hidden_dims: Sequence[int] = (),
        likelihood: str = "bernoulli",
        activation: str = "relu",
        binarization: str | None = None,
        white: float = 1.0,
        num_values: int = 2,
        learned_prior: bool = False,
    ) -> None:
        super().__init__()
        who = type(self).__name__
        self._set_up(num_features, likelihood, num_values, binarization, white)
        self.num_variables = positive(num_variables, "num_variables", who)
        self.num_categories = positive(num_categories, "num_categories", who)
        if num_categories < 2:
            raise ZooError(f"{who}: num_categories expected at least 2, got {num_categories}. A bit has 2.")
        widths = self._widths(hidden_dims, activation)
        self.binary_code = num_categories == 2
        self.code_size = num_variables * (1 if self.binary_code else num_categories)
        self.encoder: AmortizedBits | AmortizedCode = (
            AmortizedBits(num_features, num_variables, widths, activation)
            if self.binary_code
            else AmortizedCode(num_features, num_variables, num_categories, widths, activation)
        )
        self.decoder = network(self.code_size, widths[::-1], self.likelihood, activation)
        shape = (num_variables,) if self.binary_code else (num_variables, num_categories)
        if learned_prior:
            self.prior_logits = nn.Parameter(torch.zeros(shape))
        else:
            self.register_buffer("prior_logits", torch.zeros(shape), persistent=False)

    def code_prior(self) -> dist.TorchDistribution:
        """The distribution of one code, event shape (V, K) or (V,)."""
        family = dist.Bernoulli if self.binary_code else dist.OneHotCategorical
        return family(logits=self.prior_logits).to_event(1)

    def outputs(self, z: Tensor) -> Tensor:
        """What the decoder makes of a code, a relaxed one too: (..., V, K) or (..., V) to the likelihood's outputs."""
        out: Tensor = self.decoder(z if self.binary_code else z.flatten(-2))
        return out

    def model(self, x: Tensor) -> None:
        x = self.pixels(x)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", self.code_prior())
            pyro.sample("x", self.likelihood(self.outputs(z)), obs=x)

    def guide(self, x: Tensor) -> None:
        x = self.pixels(x)
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", self.encoder(x))

    def encode(self, x: Tensor) -> dist.TorchDistribution:
        """q(z | x), batch shape (N,)."""
        q: dist.TorchDistribution = self.encoder(self.pixels(x))
        return q

    @follows("guide")
    def predict(self, x: Tensor) -> Tensor:
        """The most probable value of each variable, (N, V) integers."""
        logits = self.encode(x).base_dist.logits
        return (logits > 0).long() if self.binary_code else logits.argmax(-1)

    def log_weights(self, x: Tensor, num_particles: int) -> Tensor:
        """ln p(x, z_k) - ln q(z_k | x) of K draws a datum, (K, N) nats; the draws carry no gradient."""
        x = self.pixels(x)
        q = self.encoder(x)
        z = q.sample((num_particles,))
        return self.likelihood.log_prob(self.outputs(z), x) + self.code_prior().log_prob(z) - q.log_prob(z)

    def initialize(self, x: Tensor, init: str, restart: int = 0) -> None:
        """Networks as drawn; the decoder's last bias is what suits the data without z."""
        if init != "current":
            self.start_from(x, self.encoder)


def tiny() -> tuple[CategoricalVAE, Tensor]:
    """The smallest honest instance, and data from its prior."""
    model = CategoricalVAE(num_features=6, num_variables=2, num_categories=3)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        pick = torch.randint(3, (8, 2), generator=generator)
        probs = model.likelihood.mean(3 * model.outputs(torch.nn.functional.one_hot(pick, 3).float()))
    return model, torch.bernoulli(probs, generator=generator)
