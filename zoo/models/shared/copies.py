"""Copies of a model of components, whose components stand one after another as if they were of one model.

Densities, sums and M steps of components know nothing of each other, so that S copies of K components are S times K of
them; what chooses among them (the weights of a mixture, the chain of a hidden Markov model) is each copy's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from zoo.components.base import Components
from zoo.components.first_steps import FirstStep
from zoo.core.copies import with_parameters
from zoo.core.memory import PIECE_NUMBERS
from zoo.core.sequences import inside
from zoo.core.statistics import Moments, Statistics, wide
from zoo.structures.chain_copies import expectations_of_copies

__all__ = ["ChainCopies", "MixtureCopies"]

State = tuple[dict[str, Tensor], dict[str, Tensor]]


class ComponentCopies:
    """What both kinds share.

    Args:
        models: copies of one model, each with K components; they are read, and left as they are.
    """

    #: Names of the parameters that belong to a copy as a whole.
    owned: tuple[str, ...] = ()

    def __init__(self, models: Sequence[Components]) -> None:
        first = models[0]
        self.k, self.count = len(first.align_features()), len(models)
        self.many: Any = with_parameters(first, {})
        raw = [name for name in first._parameters if name.removesuffix("_unconstrained") in first.per_component]
        self.sizes = {name: _value(first, name).shape[0] for name in raw}  # K, or K times M
        for name in raw:
            self._set(name, torch.cat([_value(model, name) for model in models]))
        own = [f"{name}_unconstrained" for name in self.owned if f"{name}_unconstrained" in first._parameters]
        self.own = {name: torch.stack([_value(model, name) for model in models]) for name in own}

    @classmethod
    def serves(cls, model: Components) -> bool:
        """Whether the model's components know nothing of each other, and all its parameters are theirs or ``owned``."""
        known = {*model.per_component, *cls.owned}
        return model.apart() and all(name.removesuffix("_unconstrained") in known for name in model._parameters)

    def _set(self, name: str, value: Tensor) -> None:
        before = self.many._parameters[name]
        self.many._parameters[name] = nn.Parameter(value, requires_grad=before.requires_grad)

    def state(self) -> State:
        return {name: _value(self.many, name) for name in self.sizes}, dict(self.own)

    def tensors(self) -> dict[str, Tensor]:
        return {**{name: _value(self.many, name) for name in self.sizes}, **self.own}

    def load(self, values: dict[str, Tensor]) -> None:
        for name in self.sizes:
            self._set(name, values[name])
        self.own = {name: values[name] for name in self.own}

    def state_of(self, state: State, index: int) -> dict[str, Tensor]:
        apart = {name: value.unflatten(0, (-1, self.sizes[name])) for name, value in state[0].items()}
        return {name: value[index] for name, value in {**apart, **state[1]}.items()}

    def keep(self, which: Sequence[int]) -> None:
        for name, size in self.sizes.items():
            self._set(name, _value(self.many, name).unflatten(0, (-1, size))[list(which)].flatten(0, 1))
        self.own = {name: value[list(which)] for name, value in self.own.items()}
        self.count = len(which)

    def weighed(self, rows: Tensor, steps: Sequence[FirstStep]) -> Statistics:
        """The statistics of all, from responsibilities of each for complete rows (M, D)."""
        beside = {name: torch.cat([step.beside[name] for step in steps]) for name in steps[0].beside}
        sums = self.many.component_statistics(rows, torch.cat([step.weight for step in steps], 1))
        return Statistics(len(rows), torch.zeros(len(steps), dtype=rows.dtype), **beside, **sums)

    def kept(self, statistics: Statistics, which: Sequence[int]) -> Statistics:
        return self._cut(statistics, list(which))

    def of_one(self, statistics: Statistics, index: int) -> Statistics:
        return self._cut(statistics, [index], alone=True)

    def _cut(self, statistics: Statistics, which: list[int], alone: bool = False) -> Statistics:
        rows: dict[int, Tensor] = {}  # by how many numbers each copy has

        def cut(value: Any) -> Any:
            if isinstance(value, Moments):
                return Moments(*(cut(getattr(value, part.name)) for part in fields(value)))
            size = len(value) // self.count
            if size not in rows:
                rows[size] = (torch.tensor(which).unsqueeze(-1) * size + torch.arange(size)).flatten().to(value.device)
            return value[rows[size]]

        values = dict(statistics)
        total, reached = values.pop("log_likelihood")[which], values.pop("objective")[which]
        if alone:
            total, reached = total[0], reached[0]
        return Statistics(values.pop("num_data"), total, reached, **{name: cut(v) for name, v in values.items()})

    def _apart(self, values: Tensor) -> Tensor:
        """Numbers by component, (S K, ...), as (S, K, ...)."""
        return values.unflatten(0, (self.count, self.k))

    def _choose(self, name: str, counts: Tensor, present: Tensor | None = None) -> None:
        """Set a parameter of the copies to the shares of counts (S, ..., K); where there are none, the ``present``."""
        total = counts.sum(-1, keepdim=True)
        shares = counts / total.where(total > 0, torch.ones_like(total))
        if present is not None:
            shares = shares.where(total > 0, present)
        elif not bool((total > 0).all()):
            raise ValueError("a copy counts nothing")
        if not bool(shares.isfinite().all()):
            raise ValueError("a copy counts what is no number")
        # As an assignment to the parameter stores them.
        self.own[name] = shares.to(self.own[name].dtype).log()


class MixtureCopies(ComponentCopies):
    """Copies of a :class:`~zoo.models.shared.mixture.Mixture` on rows ``x`` (N, D)."""

    owned = ("weights",)

    def __init__(self, models: Sequence[Components], x: Tensor) -> None:
        super().__init__(models)
        self.x = x

    @property
    def log_mixing(self) -> Tensor:
        """(S, K)."""
        return torch.log_softmax(self.own["weights_unconstrained"], -1)

    def e_step(self) -> tuple[Tensor, Statistics]:
        log_prob = self.many.component_log_prob(self.x).unflatten(-1, (self.count, self.k))
        joint = wide(log_prob + self.log_mixing)  # (N, S, K)
        log_marginal = joint.logsumexp(-1, keepdim=True)
        weight = (joint - log_marginal.clamp_min(torch.finfo(joint.dtype).min)).exp().flatten(1)
        total = log_marginal.sum((0, 2))
        sums = self.many.component_statistics(self.x, weight)
        return total, Statistics(len(self.x), total, counts=weight.sum(0), **sums)

    def m_step(self, statistics: Statistics) -> Sequence[str]:
        if not self.many.stays("weights"):
            self._choose("weights_unconstrained", self._apart(statistics["counts"]))
        notes: list[str] = self.many.update_components(statistics)
        return notes


class ChainCopies(ComponentCopies):
    """Copies of a :class:`~zoo.models.shared.hidden_markov.HiddenMarkov` on sequences ``x`` (N, T, D)."""

    owned = ("start_probs", "transition_probs")

    @classmethod
    def made(cls, models: Sequence[Any], x: Tensor, lengths: Tensor) -> ChainCopies | None:
        """Copies on few time steps; None where they cannot be taken at once."""
        model = models[0]
        few = x.shape[:2].numel() * model.num_states**2 <= PIECE_NUMBERS
        flat = model.concentration == 1 and model.prior_strength == 0
        # Diagonal Gaussians have an E step of their own, in one pass.
        alike = model.initial != "stationary" and model.diagonal() is None
        return cls(models, x, lengths) if few and flat and alike and cls.serves(model) else None

    def __init__(self, models: Sequence[Any], x: Tensor, lengths: Tensor) -> None:
        super().__init__(models)
        self.free = "start_probs_unconstrained" in self.own
        self.x, self.lengths = x[:, : int(lengths.max())], lengths
        self.there = inside(self.x, lengths)
        self.log_uniform = None if self.free else models[0].log_initial.detach()

    def e_step(self) -> tuple[Tensor, Statistics]:
        (n, t), s, k = self.x.shape[:2], self.count, self.k
        emission = wide(self.many.emission(self.x, self.lengths)).reshape(n, t, s, k).permute(2, 0, 1, 3)
        steps = torch.log_softmax(self.own["transition_probs_unconstrained"], -1)
        starts = self.log_uniform
        starts = torch.log_softmax(self.own["start_probs_unconstrained"], -1) if starts is None else starts.expand(s, k)
        found = expectations_of_copies(starts, steps, emission, self.lengths)
        total = found.log_likelihood
        marginals = found.marginals.permute(1, 2, 0, 3).reshape(n, t, s * k)
        whole = bool(self.there.all())
        rows = self.x.reshape(n * t, -1) if whole else self.x[self.there]
        weight = marginals.reshape(n * t, s * k) if whole else marginals[self.there]
        return total, Statistics(
            n,
            total,
            starts=found.initial.flatten(),
            steps=found.transition.flatten(0, 1),
            counts=weight.sum(0),
            **self.many.component_statistics(rows, weight),
        )

    def m_step(self, statistics: Statistics) -> Sequence[str]:
        if self.free and not self.many.stays("start_probs"):
            self._choose("start_probs_unconstrained", self._apart(statistics["starts"]))
        if not self.many.stays("transition_probs"):
            present = torch.softmax(self.own["transition_probs_unconstrained"], -1)
            self._choose("transition_probs_unconstrained", self._apart(statistics["steps"]), wide(present))
        notes: list[str] = self.many.update_components(statistics)
        return notes


def _value(model: Any, name: str) -> Tensor:
    value: Tensor = model._parameters[name].detach()
    return value
