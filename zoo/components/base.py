"""The interface of a family of components."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from zoo.components.questions import Starting, alone
from zoo.core.checks import matrix
from zoo.core.contract import Axes, LatentVariableModel
from zoo.core.data import Data, plain, weights_of
from zoo.core.statistics import Statistics, varying

__all__ = ["Components"]


class Components(LatentVariableModel):
    """K components over rows of D features; a family subclasses it, a model mixes it in.

    A model with such components says how z chooses among them: independently (a mixture) or along a chain (a hidden
    Markov model). What is here is the same for both.
    """

    inits: tuple[str, ...] = ("kmeans++", "random", "current")
    num_features: int
    #: What messages call a component.
    part: str = "component"
    #: Whether distances between rows mean anything, so that clusters of them are worth starting from.
    metric: bool = True
    #: Whether a component shrinks onto a point where there is but one value for it.
    collapses: bool = False
    #: Whether densities, sums, prior and M step of a component know nothing of the others. A subclass that overrides
    #: one of these has to say it anew.
    independent: bool = False
    #: Names of the parameters whose first dimension runs over components.
    per_component: tuple[str, ...] = ()

    def named_axes(self) -> Axes:
        named = super().named_axes().items()
        return {name: tuple(axis.replace("component", self.part) for axis in axes) for name, axes in named}

    def components(self) -> dist.TorchDistribution:
        """The K components, batch shape (K,), event shape (D,)."""
        raise NotImplementedError

    def component_log_prob(self, x: Tensor) -> Tensor:
        """ln p(x_n | z_n = k), (N, K), nats, of rows (N, D)."""
        return self.components().log_prob(x.unsqueeze(-2))

    def row_size(self) -> int:
        """About how many numbers the densities of one row take."""
        return len(self.align_features()) * (1 + self.num_features)

    def component_statistics(self, x: Tensor, weight: Tensor) -> dict[str, Any]:
        """Sums over rows (N, D) of weight (N, K) times sufficient statistic, by name; besides ``counts``."""
        raise NotImplementedError

    def diagonal(self) -> tuple[Tensor, Tensor] | None:
        """Means and standard deviations (K, D) of components that are diagonal Gaussians; None of all others."""
        return None

    def update_components(self, statistics: Statistics) -> list[str]:
        """The components' part of the M step; a component without data keeps its parameters. Returns notes."""
        raise NotImplementedError

    def initialize(self, x: Data, init: str, restart: int = 0) -> None:
        """A start, see :meth:`starting`, by itself."""
        alone(self.starting(x, init, restart))

    def starting(self, x: Data, init: str, restart: int = 0) -> Starting:
        """The same on its way: it asks for what others may want too."""
        raise NotImplementedError(f"{type(self).__name__} does not define starting(x, init, restart).")

    def enter_support(self, x: Tensor) -> None:
        """Move parameters to start from into the range that the M step keeps to, where it is narrower than theirs.

        Args:
            x: complete rows, (N, D).
        """

    def leave_boundary(self, x: Tensor, counts: Tensor, shake: bool = True) -> None:
        """Move starting parameters off the edge of their range, where no gradient leads anywhere.

        Args:
            x: the rows, (N, D).
            counts: how many of them each component has, (K,).
            shake: whether components may still be equal, and have to be told apart.
        """

    def apart(self) -> bool:
        """Whether the components are ``independent``, said by a class that overrides none of their arithmetic after."""
        methods = ("components", "component_log_prob", "component_statistics", "update_components", "log_prior")
        order = type(self).__mro__
        said = next(i for i, c in enumerate(order) if "independent" in c.__dict__)
        return self.independent and not any(name in c.__dict__ for c in order[:said] for name in methods)

    def take_scale(self, rows: Tensor, weights: Tensor | None = None) -> None:
        """Keep what a constraint is measured by, from rows (M, D) with NaN where an entry is missing, which count
        ``weights`` (M,) times."""

    def start_features(self, rows: Tensor) -> Tensor:
        """Complete rows (M, D) in coordinates whose distances mean something, (M, F): each at its own scale."""
        centred = rows - rows.mean(0)
        return centred / varying(centred.square().mean(0), rows.mean(0)).sqrt()

    def pseudo_counts(self) -> float:
        """How many rows a conjugate prior counts for, in each component; they look like ``overall``."""
        return 0.0

    #: What the prior's pseudo-rows look like: the data's mean statistic, off the edge of its range.
    overall: Tensor

    def fill(self, mean: Tensor) -> Tensor:
        """What stands for a missing entry of a sequence while a start is sought, (D,), of the rows' ``mean`` (D,)."""
        return mean

    def overall_statistic(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """The mean sufficient statistic of complete rows (N, D), which count ``weights`` (N,) times."""
        raise NotImplementedError

    def pseudo_row(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """``overall`` of complete rows (N, D): their mean statistic, moved to where nothing is impossible."""
        return self.overall_statistic(x, weights)

    def component_log_prior(self) -> Tensor:
        """ln of the conjugate prior of one pseudo-row a component, up to a constant, (), nats."""
        raise NotImplementedError

    def rules_out(self) -> bool:
        """Whether there are values that some component gives probability zero."""
        return False

    def why_impossible(self, x: Data, which: Tensor) -> str:
        """Why the data numbered ``which`` (M,) have probability zero, and what would help: a phrase and a sentence."""
        return self._barred(x[which]) or f"every {self.part} rules them out"

    def _barred(self, rows: Tensor) -> str | None:
        """Which of the rows (M, D) no component allows, in a phrase; None where each has one that does."""
        barred = rows[(self.component_log_prob(rows) == -torch.inf).all(-1)]
        return f"no {self.part} emits {self.name_rows(barred)}" if len(barred) else None

    def name_rows(self, rows: Tensor) -> str:
        """``rows`` (M, D), at least one, in words: the first stands for all."""
        values = ", ".join(f"{value:g}" for value in rows[0, :6].tolist())
        return f"the row ({values}{', ...' if rows.shape[1] > 6 else ''})"

    def rows(self, x: Data) -> Tensor:
        """The complete rows (N, D) of data as the model takes them."""
        raise NotImplementedError

    def component_scales(self, x: Tensor, weights: Tensor | None) -> dict[str, Tensor]:
        """``parameter_scales`` of the components, from rows (N, D) that count ``weights`` (N,) times."""
        return {}

    def parameter_scales(self, x: Data) -> dict[str, Tensor]:
        return self.component_scales(self.rows(plain(x)), self.row_weights(x))

    def row_weights(self, x: Data) -> Tensor | None:
        """How often each of ``rows`` counts, (N,); None once."""
        return weights_of(x)

    def permute_rows(self, order: Tensor) -> None:
        """Relabel the components' own parameters: ``k`` becomes what ``order[k]`` was, ``order`` (K,)."""
        with torch.no_grad():
            for name, value in self.named_parameters():
                if "." not in name and name.removesuffix("_unconstrained") in self.per_component:
                    value.copy_(value[order].clone())

    def check_rows(self, x: Data) -> Tensor:
        """The rows (N, D) as this family takes them.

        Raises:
            ZooError: another shape, entries that are not finite or outside the family's support (which rows).
        """
        return matrix(x, self.num_features, type(self).__name__)

    def align_features(self) -> Tensor:
        """What to match components by, (K, D)."""
        raise NotImplementedError
