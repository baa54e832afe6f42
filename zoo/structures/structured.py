"""A structure in a Pyro program: ``pyro.sample("z", Structured(chain))``."""

from __future__ import annotations

from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import register_kl

from zoo.errors import ZooError
from zoo.structures.base import Structure

__all__ = ["Structured"]


class Structured(dist.TorchDistribution):
    """p(parts) = exp(score(parts) - log-partition), over the N items of a structure whose parts are one tensor.

    Args:
        structure: a :class:`Structure`, a chain, tree or alignment.

    Shapes:
        batch (N,), to be used in a plate of N; more dimensions to the left come by ``expand`` (particles).
        event: that of one item's parts; of a chain (T,), -1 beyond a length. Their number is the rank alone: a value of
        that shape is scored, -inf where it is none of the structure's.

    KL divergences between two of the same kind are exact.

    Raises:
        ZooError: what is no structure; from ``expand``, a plate of another size than N.

    Example:
        >>> import pyro
        >>> chain = zoo.structures.Chain(torch.zeros(2), torch.zeros(2, 2), torch.zeros(1, 4, 2))
        >>> paths = pyro.sample("z", Structured(chain))
        >>> paths.shape, Structured(chain).log_prob(paths) == -4 * torch.tensor(2.0).log()
        (torch.Size([1, 4]), tensor([True]))
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = False

    def __init__(self, structure: Structure[Tensor], validate_args: bool | None = None) -> None:
        if not isinstance(structure, Structure):
            raise ZooError(
                f"Structured: expected a structure, such as zoo.structures.Chain, got a {type(structure).__name__}."
            )
        self.structure = structure
        super().__init__(torch.Size([structure.num_items]), torch.Size(structure.part_shape), validate_args=False)

    @property
    def support(self) -> Any:
        return constraints.independent(constraints.integer, len(self.event_shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> Structured:
        """The same over a larger batch, (..., N).

        Raises:
            ZooError: the last of ``batch_shape`` is not N.
        """
        batch_shape = torch.Size(batch_shape)
        if batch_shape[-1:] != (self.structure.num_items,):
            raise ZooError(
                f"Structured: expected a plate of {self.structure.num_items} items, got the shape "
                f"{tuple(batch_shape)}; give a structure with as many items as the plate."
            )
        new = self._get_checked_instance(Structured, _instance)
        new.structure = self.structure
        super(Structured, new).__init__(batch_shape, self.event_shape, validate_args=False)
        return new

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape[:-1]
        with torch.no_grad():
            parts = self.structure.sample(shape.numel())
        return parts.reshape(shape + self.batch_shape[-1:] + self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        log_prob = self.structure.log_prob(value)
        return log_prob.expand(torch.broadcast_shapes(self.batch_shape, log_prob.shape))

    def entropy(self) -> Tensor:
        return self.structure.entropy().expand(self.batch_shape)


@register_kl(Structured, Structured)
def _kl(q: Structured, p: Structured) -> Tensor:
    divergence = p.structure.log_partition() - q.structure.expect(p.structure) - q.structure.entropy()
    return divergence.expand(torch.broadcast_shapes(q.batch_shape, p.batch_shape))
