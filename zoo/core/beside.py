"""What stands beside the rows, inside of Pyro programs: weights as scales, known latents as q's point masses.

A row that counts w times has the scale w at each of its sites, as if it stood w times in the data. A known latent is
taken out of the guide's hands: q puts all of its mass there. A program that is summed over its latents has the
log-probability -inf at every other value.
"""

from __future__ import annotations

from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from zoo.core.rows import Rows, known_at
from zoo.core.sites import PARTICLES, SiteMessage, data_dim, is_sample
from zoo.errors import ZooError

__all__ = ["Beside", "placed", "restrict"]


class Beside(Messenger):
    """Runs a model (or a ``guide``) on rows with weights and known latents."""

    def __init__(self, rows: Rows, count: int, guide: bool) -> None:
        super().__init__()
        self.rows, self.count, self.guide = rows, count, guide

    def _pyro_sample(self, msg: SiteMessage) -> None:
        if not is_sample(msg):
            return
        dim = data_dim(msg, self.count)
        if self.rows.weights is not None:
            self._weigh(msg, dim)
        values = known_at(self.rows.known, msg["name"]) if self.guide and self.rows.known else None
        if values is not None:
            msg["fn"] = point_mass(msg["fn"], placed(values, msg, dim), msg["name"])

    def _weigh(self, msg: SiteMessage, dim: int | None) -> None:
        weights = self.rows.weights
        assert weights is not None
        if dim is None:
            if msg["is_observed"] and not msg["infer"].get("_deterministic"):
                raise ZooError(
                    f"weights: site {msg['name']!r} expected a plate of the {self.count} rows around it, got none, so "
                    "that no row's weight reaches it. Put it in pyro.plate('data', N)."
                )
            return
        if any(f.dim == dim and f.size != self.count for f in msg["cond_indep_stack"]):
            raise ZooError("weights: the data's plate expected all rows, got a part of them. Leave out subsample_size.")
        msg["scale"] = msg["scale"] * weights.reshape(-1, *[1] * (-dim - 1))


def placed(values: Tensor, site: SiteMessage, dim: int | None) -> Tensor:
    """Values (N, the site's other plates from the left, event) in the shape of the site's batch and event."""
    others = sorted({f.dim for f in site["cond_indep_stack"] if f.vectorized and f.name != PARTICLES} - {dim})
    if dim is None or values.dim() < 1 + len(others):
        raise ZooError(
            f"known: site {site['name']!r} expected one entry a row and for each of its other plates, got shape "
            f"{tuple(values.shape)}. Give it the shape (N, plates...)."
        )
    dims = [dim, *others]
    order = sorted(range(len(dims)), key=lambda i: dims[i])
    shape = [1] * -min(dims)
    for i in order:
        shape[dims[i]] = values.shape[i]
    return values.permute(*order, *range(len(dims), values.dim())).reshape(*shape, *values.shape[len(dims) :])


def restrict(trace: Trace, rows: Any) -> None:
    """Give every value of a summed latent but the known one the log-probability -inf, in a trace with such."""
    if not isinstance(rows, Rows) or not rows.known:
        return
    for name, site in trace.nodes.items():
        values = known_at(rows.known, name) if site["type"] == "sample" and not site["is_observed"] else None
        if values is None or "unscaled_log_prob" not in site:
            continue
        labels = placed(values, site, data_dim(site, len(values)))
        other = (labels >= 0) & (labels != _labels(site["fn"], torch.as_tensor(site["value"])))
        if site["mask"] is not None:  # what is masked out is not there to be known
            other = other & torch.as_tensor(site["mask"])
        for kind in ("unscaled_log_prob", "log_prob"):
            site[kind] = torch.where(other, site[kind].new_tensor(-torch.inf), site[kind])


def _labels(fn: Any, value: Tensor) -> Tensor:
    return value.argmax(-1) if fn.event_dim else value


#: The logit of a Bernoulli that is as good as sure: its other value has a probability of 0 in any precision.
SURE = 1e4


def point_mass(fn: Any, values: Tensor, name: str) -> Any:
    """A distribution with all of its mass on the values that are known (-1 or NaN: not)."""
    if isinstance(fn, torch.distributions.Independent):
        return point_mass(fn.base_dist, values, name).to_event(fn.reinterpreted_batch_ndims)
    if values.is_floating_point():
        if fn.has_rsample:
            return PointMass(fn, values)
    elif isinstance(fn, (dist.Categorical, dist.OneHotCategorical)):
        sure = torch.full_like(fn.logits, -torch.inf)
        known, labels = torch.broadcast_tensors((values >= 0).unsqueeze(-1), values.clamp_min(0).unsqueeze(-1))
        shape = torch.broadcast_shapes(sure.shape[:-1], labels.shape[:-1])
        sure = sure.expand(*shape, sure.shape[-1]).scatter(-1, labels.expand(*shape, 1), 0.0)
        return type(fn)(logits=torch.where(known, sure, fn.logits))
    elif isinstance(fn, dist.Bernoulli):
        sure = torch.where(values > 0, SURE, -SURE).to(fn.logits)
        return type(fn)(logits=torch.where(values >= 0, sure, fn.logits))
    raise ZooError(
        f"known: site {name!r} expected a Categorical, a OneHotCategorical, a Bernoulli or a family with "
        f"differentiable draws under the guide, got {type(fn).__name__}. Leave it unknown."
    )


class PointMass(dist.TorchDistribution):
    """A distribution whose draws are known where ``values`` are not NaN; there its log-probability is 0."""

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, base: Any, values: Tensor) -> None:
        self.base = base
        self.has_rsample = base.has_rsample
        self.known, self.values = ~values.isnan(), values.nan_to_num(0.0)
        self.rows = self.known.flatten(-base.event_dim).all(-1) if base.event_dim else self.known
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        return self.base.support

    def expand(self, batch_shape: Any, _instance: Any = None) -> PointMass:
        values = torch.where(self.known, self.values, torch.nan)
        return PointMass(self.base.expand(batch_shape), values)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 (torch's own signature)
        return torch.where(self.known, self.values, self.base.rsample(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        return torch.where(self.rows, 0.0, self.base.log_prob(value))
