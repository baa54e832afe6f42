"""Closed-form M steps, one rule for each kind of parameter; every sum goes to the parameter entries it belongs to.

Each rule holds the leaves whose argument it updates. Three conjugate families cover most: ``counts`` (Categorical,
OneHotCategorical, Multinomial; Dirichlet prior), ``trials`` (Bernoulli, Binomial, Geometric, NegativeBinomial; Beta
prior), ``events`` (Poisson, Exponential, Gamma with known concentration; Gamma prior). Gaussian locations and scales
are updated one after the other, which is joint wherever a location's data share one scale (conditional maximisation:
Meng & Rubin 1993).
"""

from __future__ import annotations

from zoo.automatic.counts import Counts
from zoo.automatic.events import Events
from zoo.automatic.gaussians import Gaussians
from zoo.automatic.rule import Rule
from zoo.automatic.sums import Use
from zoo.automatic.trials import Trials

__all__ = ["RULES", "kind_of"]


RULES: tuple[type[Rule], ...] = (Counts, Trials, Events, Gaussians)

_KINDS: dict[tuple[str, str], type[Rule]] = {
    **{(f, a): Counts for f in ("Categorical", "OneHotCategorical", "Multinomial") for a in ("probs", "logits")},
    **{(f, a): Trials for f in ("Bernoulli", "Binomial", "Geometric", "NegativeBinomial") for a in ("probs", "logits")},
    ("Poisson", "rate"): Events,
    ("Exponential", "rate"): Events,
    ("Gamma", "rate"): Events,
    **{(f, a): Gaussians for f in ("Normal", "LogNormal") for a in ("loc", "scale")},
    **{("MultivariateNormal", a): Gaussians for a in ("loc", "scale_tril", "covariance_matrix")},
}
_PRIORS: dict[str, type[Rule]] = {"Dirichlet": Counts, "Beta": Trials, "Gamma": Events, "Normal": Gaussians}


def kind_of(use: Use) -> type[Rule] | str:
    """The rule for a use, or why there is none."""
    leaf = use.leaf
    fixed = {name: lookup is not None and lookup.fixed for name, lookup in leaf.lookups.items()}
    if use.argument == "value":
        if leaf.family not in _PRIORS:
            return f"has a {leaf.family} prior, for which no update is known"
        if not all(fixed.values()):
            return "has a prior that depends on other parameters"
        return _PRIORS[leaf.family]
    rule = _KINDS.get((leaf.family, use.argument))
    if rule is None:
        return f"is the {use.argument} of a {leaf.family}: no closed form"
    if leaf.is_prior:
        return "is a parameter of a prior"
    if not all(fixed.get(name, True) for name in ("total_count", "concentration")):
        return f"shares a {leaf.family} with another unknown argument"
    return rule
