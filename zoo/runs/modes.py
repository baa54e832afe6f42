"""What is to be said of priors: which entered a fit, and where an edge of a support decides a mode."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.core.contract import LatentVariableModel, lacks
from zoo.core.data import Data, call, num_data
from zoo.core.edges import Inset, margin_of
from zoo.core.sites import family_of
from zoo.scores.evidence import enumerated_evidence

__all__ = ["told"]

#: What halving its distance to an edge must still gain, nats, for an entry to be called drawn to it.
PULL = 0.03


def told(model: LatentVariableModel, x: Data, sampled: bool = False) -> tuple[list[str], bool]:
    """Notes on the priors of a fit, and whether the edge of a support decides it.

    The second is so where the objective would go on rising towards the edge without bound: its value then hangs on how
    far off the edge a parameter stays.

    Args:
        sampled: whether the parameters are draws from their posterior, not a mode.
    """
    if sampled and lacks(model, "prior") is not None:
        return [f"priors of the parameters: those of {type(model).__name__}.numpyro_model(x)"], False
    if sampled:
        families = ", ".join(f"{name} {family_of(fn)}" for name, fn in call(model.prior, x).items())
        return [f"priors of the parameters, as {type(model).__name__}.prior(x) states them: {families}"], False
    if model.points:
        return _told_of_points(model, x)
    with torch.no_grad():
        prior = float(model.log_prior())
    if prior == 0:
        return [], False
    given = {n: v for n in ("concentration", "prior_strength") if (v := model.config.get(n)) is not None}
    stated = " (" + ", ".join(f"{n}={v}" for n, v in given.items()) + ")" if given else ""
    return [
        f"estimated at the mode under the model's own conjugate prior{stated}: ln p(θ) = {prior:.6g} nats is part of "
        "the objective, not of log_likelihood"
    ], False


def _told_of_points(model: LatentVariableModel, x: Data) -> tuple[list[str], bool]:
    notes = [f"estimated at the mode under their priors (MAP): {', '.join(sorted(model.points))}"]
    if model.joint_points:
        names = ", ".join(sorted(model.joint_points))
        notes.append(f"log_likelihood includes the prior of {names}: it depends on latents that are summed over")
    near: dict[str, tuple[Inset, Tensor]] = {}
    for name in sorted(model.points):
        inset = margin_of(model.constraint_of_point(name))
        if inset is not None:
            value = model.point(name).detach()
            close = inset.distance(value) < 2 * inset.margin_like(value)
            if close.any():
                near[name] = inset, close
    if not near:
        return notes, False
    prior, evidence = _slopes(model, x, list(near))
    for name, (inset, close) in near.items():
        unit = inset.margin_like(prior[name]) * inset.away(model.point(name).detach())
        # Slopes along the way off the edge, by its logarithm: where a density is bounded they vanish with the margin.
        of_prior, of_all = unit * prior[name], unit * (prior[name] + evidence[name])
        drawn = close & ((of_prior < -PULL) | (of_all < -max(PULL, 10 * num_data(x) * inset.fraction)))
        near[name] = inset, drawn
        if drawn.any():
            notes.append(
                f"{name}: {int(drawn.sum())} of {drawn.numel()} entries are at the edge of their support, where the "
                f"density has no bound; they are kept {inset.fraction:.0e} {inset.unit} off it"
            )
    return notes, any(bool(drawn.any()) for _, drawn in near.values())


def _slopes(model: LatentVariableModel, x: Data, names: list[str]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """By site, the gradients of ln p(θ) and of ln p(x | θ) with respect to the parameter's value."""
    found = []
    with torch.enable_grad():
        for total in (model.log_prior, lambda: -enumerated_evidence(model, x)(x)):
            output = total()
            values = [model.last_values[name] for name in names]
            grads = (
                torch.autograd.grad(output, values, allow_unused=True) if output.requires_grad else [None] * len(names)
            )
            found.append(
                {n: torch.zeros_like(v) if g is None else g for n, v, g in zip(names, values, grads, strict=True)}
            )
    return found[0], found[1]
