"""Relaxed discrete latents: the Gumbel-softmax path (Jang et al. 2017; Maddison et al. 2017).

The objective is E[ln p(x | z)] with z a relaxed draw, minus the exact KL of the *discrete* distributions. A relaxed
prior and posterior density instead collapses mixtures; nothing here ever scores a relaxed z under a density.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions.kl import kl_divergence

from guides.relaxed import RelaxedBernoulli, RelaxedCategorical
from zoo.core import traces
from zoo.core.data import Data, call, mass, num_data, total
from zoo.core.hooks import choose, fresh
from zoo.core.objective import Objective, Step
from zoo.core.problem import Problem
from zoo.core.sites import is_masked_out, unwrapped
from zoo.errors import ZooError
from zoo.estimators.base import above_zero
from zoo.estimators.gradient import GuidedEstimator

__all__ = ["Gumbel", "StraightThroughGumbel"]

#: The relaxation of each family of discrete variables.
_KINDS: dict[str, Any] = {
    "Categorical": RelaxedCategorical,
    "OneHotCategorical": RelaxedCategorical,
    "Bernoulli": RelaxedBernoulli,
    "ExactBernoulli": RelaxedBernoulli,
}


@dataclass(frozen=True)
class Gumbel(GuidedEstimator):
    """Relaxed categorical guide, annealed.

    Jang, Gu & Poole (2017), "Categorical reparameterization with Gumbel-softmax"; Maddison, Mnih & Teh (2017), "The
    concrete distribution".

    Attributes:
        temperature: at the start, above 0.
        final_temperature: at the end, above 0; geometric in between.
    """

    name: ClassVar[str] = "gumbel"
    about_e: ClassVar[str] = "relaxed categorical guide"
    about_m: ClassVar[str] = "gradient"
    spreads: ClassVar[bool] = True
    straight_through: ClassVar[bool] = False
    column: ClassVar[str] = "bound"  # a relaxed draw is no draw of the model's

    temperature: float = 1.0
    final_temperature: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        above_zero(self.name, temperature=self.temperature, final_temperature=self.final_temperature)

    def refuses(self, problem: Problem) -> str | None:
        reason = super().refuses(problem)
        if reason:
            return reason
        discrete = [site.name for site in problem.program.latents if site.discrete or site.family in _KINDS]
        if not discrete:
            return "it has no discrete latent to relax"
        left = sorted(problem.program.left_out)  # looked up here: what fails there does not fail for a relaxed z
        if left:
            return f"its guide leaves out the discrete site {left[0]!r}"
        try:
            with torch.no_grad():
                self.objective(problem)(problem.model.probe(problem.data))
        except ZooError as error:
            return str(error).splitlines()[0].removesuffix(".")
        except (IndexError, TypeError, RuntimeError, ValueError) as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            return (
                f"its program cannot take a point of the simplex at site {discrete[0]!r} ({first}); "
                "write the site's use as zoo.Selected(components, z) or as a product with z"
            )
        return None

    def objective(self, problem: Problem) -> Objective:
        return GumbelObjective(problem, int(self.num_particles), self)


@dataclass(frozen=True)
class StraightThroughGumbel(Gumbel):
    """The same with a corner of the simplex forwards and the relaxed gradient backwards (biased).

    Jang, Gu & Poole (2017), section 2.2.
    """

    name: ClassVar[str] = "st_gumbel"
    about_e: ClassVar[str] = "straight-through categorical guide"
    straight_through: ClassVar[bool] = True
    column: ClassVar[str] = "elbo"


class GumbelObjective(Objective):
    """The relaxed bound; ``at(fraction)`` sets the temperature, a number or, on an accelerator, a tensor ()."""

    def __init__(self, problem: Problem, num_particles: int, options: Gumbel) -> None:
        self.model, self.num_particles, self.options = problem.model, num_particles, options
        self.nesting = problem.program.nesting
        problem.program.spend("model", "guide")
        self.tables = problem.lacks("choices") is None
        self.column = options.column_for(problem)
        device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
        # On an accelerator a tensor that changes in place, so that steps are the same operations while it falls.
        self.steady = device.type != "cpu"
        self.temperature: float | Tensor = options.temperature
        if self.steady:
            self.temperature = torch.tensor(float(options.temperature), device=device)

    def at(self, fraction: float) -> None:
        o = self.options
        temperature = o.temperature * (o.final_temperature / o.temperature) ** fraction
        if isinstance(self.temperature, Tensor):
            self.temperature.fill_(temperature)
        else:
            self.temperature = temperature

    def __call__(self, batch: Data) -> Step:
        batch = fresh(self.model, batch)
        rows, k = num_data(batch), self.num_particles
        if self.tables:
            relaxed_bound = choose(self.model, batch).relax(k, self.temperature, self.options.straight_through)
            bound = total(relaxed_bound.sum(0), batch) / (k * mass(batch))
            return Step(-bound, bound.detach())
        relax = _Relax(self.temperature, self.options.straight_through)
        guide, model = (traces.repeated(p, k, self.nesting) for p in (self.model.guide, self.model.model))
        with relax:
            guide_trace = poutine.trace(lambda: call(guide, batch)).get_trace()
        model_trace = poutine.trace(poutine.replay(lambda: call(model, batch), trace=guide_trace)).get_trace()
        relaxed = relax.names

        def scored(name: str, site: Any) -> bool:
            return name not in relaxed

        with self.model.in_its_dtype(batch):
            guide_trace.compute_log_prob(site_filter=scored)
            model_trace.compute_log_prob(site_filter=scored)
        for name in relaxed:
            q: Any = guide_trace.nodes[name]
            p: Any = model_trace.nodes[name]
            kl = kl_divergence(q["fn"], p["fn"]) * p["scale"]
            p["log_prob"] = -(kl if p["mask"] is None else torch.where(p["mask"], kl, torch.zeros_like(kl)))
        log_joint = traces.totals(model_trace, rows, k, self.nesting)
        log_guide = traces.totals(guide_trace, rows, k, self.nesting, only=scored, device=log_joint.device)
        bound = (log_joint.sum() - log_guide.sum()) / (k * mass(batch))
        return Step(-bound, bound.detach())


class _Relax(Messenger):
    """Draws every discrete latent of a guide from its relaxation, and remembers which."""

    def __init__(self, temperature: float | Tensor, straight_through: bool) -> None:
        super().__init__()
        self.temperature, self.straight_through = temperature, straight_through
        self.names: set[str] = set()

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        fn = unwrapped(msg["fn"], "Independent", "ExpandedDistribution", "MaskedDistribution")
        family = type(fn).__name__
        # Several variables at one site (to_event) have no support to enumerate, but are relaxed one by one.
        several = family in _KINDS and msg["fn"].event_dim > fn.event_dim
        if msg["is_observed"] or is_masked_out(msg) or not (several or _is_discrete(msg["fn"])):
            return
        if family not in _KINDS:
            raise ZooError(
                f"gumbel: site {msg['name']!r} expected a Categorical, OneHotCategorical or Bernoulli, got {family}. "
                "Use svi or reinforce."
            )
        relaxed = _KINDS[family](self.temperature, fn.logits, self.straight_through)
        shape = msg["fn"].batch_shape + (
            msg["fn"].event_shape if family != "OneHotCategorical" else msg["fn"].event_shape[:-1]
        )
        if shape != relaxed.batch_shape:
            relaxed = relaxed.expand(shape)
        msg["value"], msg["done"], msg["infer"] = relaxed.rsample(), True, {**msg["infer"], "relaxed": True}
        self.names.add(msg["name"])


def _is_discrete(fn: Any) -> bool:
    """Whether draws are discrete: those of a structure are, though nobody could list them."""
    return bool(
        getattr(fn, "has_enumerate_support", False) or getattr(getattr(fn, "support", None), "is_discrete", False)
    )
