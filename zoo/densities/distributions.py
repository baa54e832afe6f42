"""Two distributions Pyro lacks: a component chosen by z (integer or simplex), an exact Bernoulli."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Size, Tensor
from torch.nn.functional import logsigmoid

__all__ = ["FEW", "ExactBernoulli", "Selected"]


_ONE = Size()
#: Numbers that may be drawn to keep one in K of them; beyond, draws are made in a way that takes a setting up.
FEW = 2**18


class Selected(dist.TorchDistribution):
    """p(x | z): the z-th of K components, for an integer z or a z on the simplex.

    An integer z (sampled or enumerated) selects; a simplex z gives sum_k z_k ln p(x | k), which is linear
    in z and exact at the corners: what the Gumbel estimators need. Every component is evaluated once a datum,
    however many values of z are enumerated.

    Args:
        components: rightmost batch dimension K.
        z: integers in [0, K) of any shape, or floats (..., K).

    Shapes:
        log_prob(x): broadcast of x's and z's batch shapes, nats.

    Example:
        >>> components = torch.distributions.Poisson(torch.tensor([2.0, 9.0]))
        >>> zoo.Selected(components, torch.tensor([0, 1])).log_prob(torch.tensor(3.0)).round(decimals=3)
        tensor([-1.7120, -4.2000])
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = False

    def __init__(self, components: dist.TorchDistribution, z: Tensor, validate_args: bool | None = None) -> None:
        self.components, self.z = components, z
        self._relaxed = z.is_floating_point()
        batch_shape = z.shape[:-1] if self._relaxed else z.shape
        super().__init__(Size(batch_shape), components.event_shape, validate_args=validate_args)

    @property
    def support(self) -> Any:
        return self.components.support

    def expand(self, batch_shape: Any, _instance: Any = None) -> Selected:
        shape = Size(batch_shape)
        z = self.z.expand(shape + self.z.shape[-1:]) if self._relaxed else self.z.expand(shape)
        return Selected(self.components, z, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        each = self.components.log_prob(value.unsqueeze(-1 - len(self.event_shape)))  # (..., K)
        if self._relaxed:
            return (self.z * each).sum(-1)
        shape = torch.broadcast_shapes(each.shape[:-1], self.z.shape)
        index = self.z.expand(shape).unsqueeze(-1)
        return each.expand(*shape, each.shape[-1]).gather(-1, index).squeeze(-1)

    def sample(self, sample_shape: Any = _ONE) -> Tensor:
        if self._relaxed:
            raise NotImplementedError("Selected.sample: expected an integer z, got a point of the simplex.")
        shape = self._extended_shape(Size(sample_shape))
        batch = shape[: len(shape) - len(self.event_shape)]
        shared = len(self.components.batch_shape) == 1  # else each datum has components of its own
        if shared and batch.numel() * self.components.batch_shape[-1] * self.event_shape.numel() > FEW:
            return self._sample_by_component(batch)
        each = self.components.expand(batch + self.components.batch_shape[-1:]).sample()  # (batch, K, event)
        index = self.z.expand(batch).reshape(*batch, 1, *[1] * len(self.event_shape))
        axis = len(batch)
        return each.gather(axis, index.expand(*batch, 1, *self.event_shape)).squeeze(axis)

    def _sample_by_component(self, batch: Size) -> Tensor:
        """As many draws of each component as chose it, instead of one of every component for each datum."""
        z = self.z.expand(batch).flatten()
        counts = torch.bincount(z, minlength=self.components.batch_shape[-1]).tolist()
        draws = [_one_of(self.components, k).sample((count,)) for k, count in enumerate(counts) if count]
        together = torch.cat(draws)
        out = torch.empty_like(together)
        out[z.argsort(stable=True)] = together
        return out.reshape(batch + self.event_shape)


def _one_of(many: Any, k: int) -> Any:
    """The k-th of distributions whose first batch dimension runs over them."""
    one = copy.copy(many)
    one._batch_shape = many.batch_shape[1:]
    for name, value in many.__dict__.items():
        if isinstance(value, torch.distributions.Distribution):
            one.__dict__[name] = _one_of(value, k)
        elif isinstance(value, Tensor) and value.shape[: len(many.batch_shape)] == many.batch_shape:
            one.__dict__[name] = value[k]
    return one


class ExactBernoulli(dist.Bernoulli):
    """Bernoulli whose impossible outcome scores -inf, also at infinite logits; torch's gives NaN there.

    Args:
        probs, logits: one of them, of any shape. validate_args: as torch's.

    Shapes:
        log_prob(x): broadcast of x's (...) and the logits' (...), nats.

    Example:
        >>> x, logits = torch.tensor([0.0, 1.0]), torch.tensor(float("inf"))
        >>> zoo.ExactBernoulli(logits=logits).log_prob(x)
        tensor([-inf, 0.])
    """

    def expand(self, batch_shape: Any, _instance: Any = None) -> ExactBernoulli:
        return ExactBernoulli(logits=self.logits.expand(batch_shape), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        return torch.where(value > 0.5, logsigmoid(self.logits), logsigmoid(-self.logits))
