"""What all models made of networks share: float32, sizes of steps, how networks start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from guides.networks import ACTIVATIONS
from zoo.core.checks import positive
from zoo.core.contract import LatentVariableModel
from zoo.core.data import Data
from zoo.errors import ZooError, unknown_name
from zoo.models.shared.likelihood import Likelihood

__all__ = ["NetworkModel"]


class NetworkModel(LatentVariableModel):
    """Base class of models made of networks; float32, as they are trained by noisy gradients.

    The estimators' learning rate is in units of a step: one unit is ``step`` = 0.05 for a network's weight, so the
    default rate of 0.02 is Adam's usual 1e-3. For a published rate r pass ``learning_rate=20 * r``.
    """

    dtype = torch.float32
    inits: tuple[str, ...] = ("random", "current")
    #: What one unit of a learning rate is, for a network's weight.
    step: float = 0.05
    #: Rows a step, and guide-only steps before, where the estimator's options do not say: many noisy steps serve
    #: networks better than few exact ones, and a decoder as drawn is no start that a guide could destroy.
    batch_size: int = 128
    warmup: int = 0

    #: Precision of a normal prior on every weight of the networks, the guide's too; 0 for none.
    weight_decay: float = 0.0

    num_features: int
    likelihood: Likelihood
    decoder: nn.Module

    def _choice(self, name: str, value: Any, choices: Sequence[Any]) -> Any:
        if value not in choices:
            raise unknown_name(f"{type(self).__name__}: {name}", str(value), [str(c) for c in choices])
        return value

    def _widths(self, hidden_dims: Sequence[int], activation: str) -> tuple[int, ...]:
        self._choice("activation", activation, list(ACTIVATIONS))
        return self._sizes("hidden_dims", hidden_dims)

    def _sizes(self, name: str, values: Sequence[int]) -> tuple[int, ...]:
        if isinstance(values, (str, int)):
            raise ZooError(f"{type(self).__name__}: {name} expected a list such as [200, 100], got {values!r}.")
        return tuple(positive(value, name, type(self).__name__) for value in values)

    def parameter_scales(self, x: Data) -> dict[str, Tensor]:
        return {name: torch.tensor(self.step, dtype=p.dtype) for name, p in self.named_parameters()}

    def log_prior(self) -> Tensor:
        """-weight_decay / 2 times the sum of squared weights, nats; biases and starts are free."""
        if not self.weight_decay:
            return super().log_prior()
        squares = [p.square().sum() for p in self.parameters() if p.dim() > 1]
        return -0.5 * self.weight_decay * torch.stack(squares).sum()

    def start_from(self, x: Tensor, *readers: Any) -> None:
        """Measure the likelihood by the data's rows (N, D), and where it has units ``readers``, networks that read x;
        start the decoder."""
        if self.likelihood.in_units:
            for reader in readers:
                reader.set_from(x)
        self.likelihood.set_from(x)
        self.start_bias(self.decoder, self.in_decoders_units(x))

    def in_decoders_units(self, x: Tensor) -> Tensor:
        """Rows (N, D) as the decoder's outputs are compared with them."""
        return x

    def start_bias(self, decoder: nn.Module, x: Tensor) -> None:
        """Set the last bias of a decoder to what suits the data without any z; a convolution's is one for all."""
        last = [m for m in decoder.modules() if isinstance(m, (nn.Linear, nn.ConvTranspose2d))][-1]
        if isinstance(last, nn.Linear) and last.bias is not None:
            with torch.no_grad():
                last.bias.copy_(self.likelihood.start(x))
