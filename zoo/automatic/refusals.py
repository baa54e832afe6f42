"""Parameters and densities that have no update, said before any work."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor

from zoo.automatic.enumerated import Enumerated, shown
from zoo.automatic.leaves import Leaf
from zoo.core.contract import LatentVariableModel
from zoo.core.sites import unwrapped
from zoo.errors import ZooError

__all__ = ["check_densities", "refuse_edges", "refuse_unused"]


#: Families whose support moves with these parameters: no gradient leads to the maximum.
_EDGES = {"Uniform": ("low", "high"), "Pareto": ("scale",), "Delta": ("v",)}


def refuse_unused(model: LatentVariableModel, reached: dict[str, list[str]], run: Enumerated) -> None:
    """A parameter that the program asks for and no site depends on is a mistake."""
    asked = {name for name, site in run.trace.nodes.items() if site["type"] == "param"}
    for name in asked:
        for candidate in (name, "param/" + name.replace(".", "/")):
            if candidate in reached and not reached[candidate]:
                raise ZooError(
                    f"{model.name}: parameter {name!r} expected to enter some site, got used by none. "
                    "Take it out, or use it."
                )


def refuse_edges(model: LatentVariableModel, reached: dict[str, list[str]], run: Enumerated) -> None:
    """A family whose support moves with a parameter has no update: no gradient leads to the maximum."""
    for name, sites in reached.items():
        for site in sites:
            fn = unwrapped(run.sites[site]["fn"], "Independent", "MaskedDistribution")
            family = type(fn).__name__
            edges = (getattr(fn, edge, None) for edge in _EDGES.get(family, ()))
            if any(isinstance(edge, Tensor) and edge.requires_grad for edge in edges):
                raise ZooError(
                    f"{model.name}: parameter {shown(name)!r} at site {site!r} expected a family with "
                    f"an update, got {family}, whose support moves with it. Use another family."
                )


def check_densities(found: dict[str, list[Leaf] | None], target: dict[str, list[Leaf] | None]) -> None:
    """A subclass may score otherwise than its family: then it is not known."""
    for name, mine in found.items():
        for leaf in mine or ():
            if leaf.value is None:
                continue
            plain = getattr(dist, leaf.family)
            if leaf.cls is plain:
                continue
            own = leaf.log_prob(leaf.args)
            expected = plain(**leaf.args, validate_args=False).log_prob(leaf.plain_value(leaf.args))
            both = own.isfinite() & expected.isfinite()
            alike = torch.allclose(own[both], expected[both], rtol=1e-6, atol=1e-6)
            if not alike or bool((own.isnan() != expected.isnan()).any()):
                target[name] = None
