"""The plan of EM for a program: which update each parameter gets, and why; then E and M steps by that plan."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from zoo.automatic.assignment import Update, assign
from zoo.automatic.chains import Chain, recognise
from zoo.automatic.enumerated import Enumerated, enumerated
from zoo.automatic.enumeration import first_enumeration
from zoo.automatic.leaves import Leaf, leaves
from zoo.automatic.lookup import Finder, Lookup, ParameterSpace, recorded
from zoo.automatic.newton import climb
from zoo.automatic.refusals import check_densities, refuse_edges, refuse_unused
from zoo.automatic.rule import Rule
from zoo.automatic.sums import Weighted
from zoo.core import program
from zoo.core.contract import LatentVariableModel
from zoo.core.data import Data, num_data
from zoo.core.edges import margin_of
from zoo.core.isolation import kept_generators
from zoo.core.ranks import Ranks
from zoo.core.sites import family_of
from zoo.core.statistics import Moments, wide
from zoo.errors import ZooError

__all__ = ["Plan", "SiteRow", "Weights", "make_plan"]


#: By site its posterior weight, or the moments it would give.
Weights = dict[str, Tensor | Moments]


@dataclass
class SiteRow:
    """A site, for the table that ``explain`` prints.

    Attributes:
        name: in the program. role: "latent", "observed" or what else a site may be. family: of its distribution.
        elements: size of its table of log-probabilities, all values of the latents enumerated.
    """

    name: str
    role: str
    family: str
    elements: int


@dataclass
class Plan:
    """EM for one program on data of one shape.

    Attributes:
        rules: the closed-form updates with their uses.
        numeric: parameters that climb their expected complete-data log-likelihood numerically (generalised EM).
        leaves: every leaf of every site that is known.
        sites, updates: what ``explain`` prints.
        points: sites that are priors of parameters, with the weight of each of their log-probabilities: 1, or what a
            scale and a mask make of it.
        nesting: batch dimensions taken by plates.
        elements, largest: size of the largest table of log-probabilities that enumeration makes, and its site.
    """

    model: LatentVariableModel
    space: ParameterSpace
    rules: list[Rule]
    numeric: list[str]
    leaves: dict[str, list[Leaf] | None]
    sites: list[SiteRow]
    updates: list[Update]
    nesting: int
    elements: int
    largest: str
    points: dict[str, Tensor] = field(default_factory=dict)
    numeric_sites: set[str] = field(default_factory=set)
    by_row: bool = False  # whether every site is of single data, so that pieces of the data add up
    chain: Chain | None = None  # how the E step is done where the program is one
    why_not_chain: str = ""

    def e_step(self, x: Data) -> tuple[float, Weights]:
        """(ln p(x), by site its posterior weight, or the moments it would give) at the present parameters."""
        if self.chain is not None:
            evidence, weights = self.chain.e_step(self.space)
            return evidence, {**weights, **self._ones()}
        with torch.enable_grad(), recorded():
            run = enumerated(self.model, x, self.nesting)
            evidence = float(run.log_evidence.detach())
            found = run.weights() if math.isfinite(evidence) else {}
        self.refresh(run)
        return evidence, {**found, **self._ones()}

    def _ones(self) -> dict[str, Tensor]:
        """The weights of the sites that are priors of parameters."""
        return dict(self.points)

    def refresh(self, run: Enumerated) -> None:
        """Take the arguments that are no lookups from a new run."""
        for name, site in run.sites.items():
            old = self.leaves[name]
            if old is None or all(lookup is not None for leaf in old for lookup in leaf.lookups.values()):
                continue
            new = leaves(name, site)
            if new is None or len(new) != len(old):
                raise ZooError(
                    f"{self.model.name}: site {name!r} expected the same distribution in every run, got "
                    "another. Control flow may depend on data, not on parameters or random numbers."
                )
            for mine, fresh in zip(old, new, strict=True):
                mine.args = {key: value.detach() for key, value in fresh.args.items()}

    def m_step(self, x: Data, weights: Weights, climbs: int = 8) -> list[str]:
        """Raise the expected complete-data log-likelihood: numeric parameters first, then the closed forms.

        Args:
            climbs: most steps that numeric parameters take.

        Returns:
            Notes on variance floors that acted.
        """
        shares = self.shares(weights)
        if self.numeric:
            self.climb([self.expected(x, weights)], climbs)
            self.reread(x)
        return self.solve(self.collect(shares))

    @property
    def _used(self) -> dict[int, Leaf]:
        """The leaves that rules work on."""
        return {id(use.leaf): use.leaf for rule in self.rules for use in rule.uses}

    def shares(self, weights: Weights) -> dict[int, Tensor | Moments]:
        """By leaf its weights, or its moments, at the parameters of the E step."""
        vector = wide(self.space.vector())
        return {
            key: share if isinstance(share, Moments) else leaf.weight(share.to(vector.dtype), self.space, vector)
            for key, leaf in self._used.items()
            for share in [weights[leaf.site]]
        }

    def collect(self, shares: dict[int, Tensor | Moments]) -> dict[str, Any]:
        """What the closed forms need of these data, by name; each adds. Arguments that are no lookups stay."""
        vector = wide(self.space.vector())
        weighted = {
            key: Weighted(leaf, shares[key], leaf.arguments(self.space, vector)) for key, leaf in self._used.items()
        }
        return {name: value for rule in self.rules for name, value in rule.collect(weighted, vector).items()}

    def solve(self, sums: Mapping[str, Any]) -> list[str]:
        """Set the parameters of closed form from what ``collect`` gave; returns notes on floors that acted."""
        vector = wide(self.space.vector())
        for rule in self.rules:
            rule.solve(sums, vector)
        closed = {name for rule in self.rules for use in rule.reaching for name in self.space.owner(use.lookup.ids)}
        for name in closed:
            self.space.assign(name, self.space.split(vector, name))
        return [note for rule in self.rules for note in rule.notes]

    def climb(self, terms: list[Callable[[], Tensor]], climbs: int = 8, ranks: Ranks | None = None) -> None:
        """Move the numeric parameters up the sum of the terms, those of the pieces of the data."""
        with torch.enable_grad():
            climb([self.space.raw[name] for name in self.numeric], terms, climbs, ranks)

    def reread(self, x: Data) -> None:
        """Take the arguments that are no lookups at the present parameters."""
        with recorded(), torch.no_grad():
            self.refresh(enumerated(self.model, x, self.nesting, set()))

    def expected(self, x: Data, weights: Weights) -> Callable[[], Tensor]:
        """The expected complete-data log-likelihood of the sites that numeric parameters reach, as a function."""

        def value() -> Tensor:
            run = enumerated(self.model, x, self.nesting, self.numeric_sites)
            total = torch.zeros(())
            for name in sorted(self.numeric_sites):
                weight, log_prob = weights[name], run.sites[name]["unscaled_log_prob"]
                assert isinstance(weight, Tensor)
                # An impossible value with weight zero adds nothing, and must not add NaN.
                kept = torch.where(weight == 0, torch.zeros_like(log_prob), log_prob)
                total = total + (weight * kept).sum()
            return total

        return value


def make_plan(model: LatentVariableModel, x: Data, recognised: bool = True, checked: bool = False) -> Plan:
    """Look at a program and find an update for each of its parameters.

    Args:
        checked: whether ``why_not_exact`` has had nothing to say.
        recognised: whether chains and mixtures go to the compiled kernel; False runs the program at every step.

    Raises:
        ZooError: the program cannot be enumerated, changes from run to run, or has a parameter without an update.
    """
    nesting = program.plate_nesting(model, x, alone=True)
    with torch.enable_grad(), recorded():
        run, elements, largest = first_enumeration(model, x, nesting, checked)
    name_of = model.name
    reached = _reached(model, run)
    names = [name for name, sites in reached.items() if sites]
    refuse_unused(model, reached, run)
    refuse_edges(model, reached, run)
    space = ParameterSpace(model, names)
    found = {name: leaves(name, site) for name, site in run.sites.items()}
    points = {
        n: s["infer"]["zoo_point"].weight(s["unscaled_log_prob"])
        for n, s in run.sites.items()
        if s["infer"].get("zoo_point")
    }

    there: list[tuple[dict[str, list[Leaf] | None], dict[str, Tensor]]] = []
    for seed in (1, 2):
        with space.elsewhere(seed), recorded(), torch.no_grad(), kept_generators():
            again = enumerated(model, x, nesting)
            there.append(({n: _copied(leaves(n, s)) for n, s in again.sites.items()}, space.views()))
            if set(again.sites) != set(run.sites):
                raise ZooError(
                    f"{name_of}: expected the same sites in every run, got others at other parameters. Control flow "
                    "may depend on data, not on parameters or random numbers."
                )
    finder = Finder(there[0][1], there[1][1])
    check_densities(there[0][0], found)
    for name, mine in found.items():
        for index, leaf in enumerate(mine or ()):
            a, b = ((place[name] or [])[index] for place, _ in there)
            leaf.lookups = {key: _source(finder, leaf.args[key], a.args[key], b.args[key]) for key in leaf.args}
            if leaf.value is not None and a.value is not None and b.value is not None:
                leaf.value_lookup = _source(finder, leaf.value, a.value, b.value)
    rules, updates, numeric = assign(space, found, reached)
    for update in updates:
        off = margin_of(space.constraints[update.parameter])
        if off is not None:
            update.how += f"; kept {off.fraction:.0e} {off.unit} off the edge"
    for mine in found.values():
        for leaf in mine or ():
            leaf.args = {key: value.detach() for key, value in leaf.args.items()}
            leaf.value = None if leaf.value is None else leaf.value.detach()
    table = [
        SiteRow(
            name,
            "prior"
            if name in points or _scores_parameters(found[name])
            else "observed"
            if s["is_observed"]
            else "latent",
            family_of(s["fn"]),
            s["unscaled_log_prob"].numel(),
        )
        for name, s in run.sites.items()
    ]
    seen: Chain | str = "told not to" if not recognised else "a parameter is updated numerically"
    if recognised and not numeric:
        seen = recognise(run, found, x)
    if isinstance(seen, Chain):
        kept = {name: found[name] for name in points}
        found = {**kept, **seen.leaves}
        names_of = {name: [site for site, mine in found.items() if _uses(mine, space, name)] for name in names}
        again_rules, _, odd = assign(space, found, names_of)
        if odd:
            seen = "a parameter is updated numerically"
        rules = again_rules
    numeric_sites = {site for name in numeric for site in reached[name]}
    plan = Plan(model, space, rules, numeric, found, table, updates, nesting, elements, largest, points, numeric_sites)
    if isinstance(seen, Chain):
        plan.chain = seen
    else:
        plan.why_not_chain = seen
    rows = num_data(x)
    plan.by_row = all(
        any(frame.vectorized and frame.size == rows for frame in site["cond_indep_stack"])
        for site in run.sites.values()
    )
    return plan


def _uses(mine: list[Leaf] | None, space: ParameterSpace, name: str) -> bool:
    return any(
        lookup is not None and name in space.owner(lookup.ids)
        for leaf in mine or ()
        for lookup in [*leaf.lookups.values(), leaf.value_lookup]
    )


def _copied(found: list[Leaf] | None) -> list[Leaf] | None:
    """Leaves with numbers of their own: an argument may be a parameter itself, which is about to move."""
    for leaf in found or ():
        leaf.args = {key: value.detach().clone() for key, value in leaf.args.items()}
        if leaf.value is not None and leaf.value.dtype.is_floating_point:
            leaf.value = leaf.value.detach().clone()
    return found


def _source(finder: Finder, here: Tensor, first: Tensor, second: Tensor) -> Lookup | None:
    """Where a number in the program comes from; what carries no gradient is a constant."""
    if not here.requires_grad:
        return Lookup(torch.full((), -1, device=here.device).expand(here.shape), here, None)
    return finder.find(first, second)


def _scores_parameters(found: list[Leaf] | None) -> bool:
    return any(leaf.is_prior for leaf in found or ())


def _reached(model: LatentVariableModel, run: Enumerated) -> dict[str, list[str]]:
    """By parameter, the sites whose log-probability depends on it."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    reached: dict[str, list[str]] = {name: [] for name in named}
    for site, message in run.sites.items():
        log_prob = message["unscaled_log_prob"]
        if not log_prob.requires_grad or not named:
            continue
        grads = torch.autograd.grad(log_prob.sum(), list(named.values()), allow_unused=True, retain_graph=True)
        for name, grad in zip(named, grads, strict=True):
            if grad is not None:
                reached[name].append(site)
    return reached
