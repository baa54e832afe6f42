"""Posterior predictive draws: latents from their posterior given data, then data of the same kind given those latents.

    x_new ~ p(x | z, θ),  z ~ p(z | x, θ),  and θ ~ p(θ | x) where a fit has draws of its parameters

(Gelman et al., Bayesian Data Analysis, 3rd edition, section 6.3).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from zoo.automatic.posteriors import enumerated_posterior
from zoo.bayes.draws import Draws
from zoo.bayes.joint import set_means
from zoo.core import program
from zoo.core.contract import LatentVariableModel, lacks
from zoo.core.data import Data, call, map_tensors, num_data, tensors
from zoo.core.pieces import gathered, pieces
from zoo.core.sites import is_auxiliary, is_masked_out, sample_sites
from zoo.errors import ZooError
from zoo.runs.drawing import Redrawn
from zoo.runs.latents import Conditioned

__all__ = ["predictive_draws"]

Values = dict[str, Tensor]


def predictive_draws(
    model: LatentVariableModel, x: Data, num_draws: int, *, trained: bool, draws: Draws | None = None
) -> Tensor | Values:
    """Draws of data by torch's generator, (num_draws, *data), a dict of them by site where several are observed.

    Args:
        trained: whether the model's guide may stand for a posterior that is not to be had.
        draws: of the parameters; each draw of data is made at one of them, spread evenly over all.

    Raises:
        ZooError: the program is no density of data, or its latents have neither an exact posterior nor a trained guide.
    """
    who = "posterior_predictive"
    if type(model).model is LatentVariableModel.model:
        raise ZooError(f"{who}: expected a model with a Pyro program, got {model.name} without. Write model(x).")
    if not model.fields.given and (reason := model.withholds().get("sample_like")) is not None:
        raise ZooError(f"{who}: expected a density of the data to draw from, but {reason}.")
    sites = program.sites(model, x)
    if not any(site.role == "observed" and site.family != "Unit" for site in sites):
        raise ZooError(f"{who}: expected a program that observes data at a site, got {model.name}. Pass obs=...")
    if not model.normalized and not model.noise_sites:
        raise ZooError(f"{who}: expected a density of the data, got {model.name}, known up to a factor. Normalise it.")
    latent = [site for site in sites if site.role == "latent"]
    if lacks(model, "structure") is None and not latent:
        raise ZooError(f"{who}: expected latents to draw, but {model.name} sums over them in one site. Use sample.")
    with torch.no_grad():
        if draws is None:
            return _of_data(model, x, latent, num_draws, trained)
        twin, flat = copy.deepcopy(model), draws.flat()
        total = draws.num_chains * draws.num_draws
        made = []
        for draw in range(num_draws):
            at = draw * total // num_draws
            set_means(twin, {name: value[at : at + 1] for name, value in flat.items()})
            made.append(map_tensors(lambda t: t[0], _of_data(twin, x, latent, 1, trained)))
        found: Tensor | Values = _joined(made)
        return found


def _of_data(model: LatentVariableModel, x: Data, sites: list[program.Site], num_draws: int, trained: bool) -> Any:
    """Draws at the model's parameters, piece by piece: beyond the answer memory stays bounded."""

    def drawn(piece: Data) -> Any:
        return _joined([_drawn(model, piece, values) for values in _latents(model, piece, sites, num_draws, trained)])

    parts = list(pieces(model, x))
    if len(parts) == 1:
        return drawn(x)
    by_datum = (map_tensors(lambda t: t.movedim(0, 1), drawn(piece)) for piece in parts)
    return map_tensors(lambda t: t.movedim(1, 0), gathered(by_datum, num_data(x)))


def _joined(draws: list[Any]) -> Any:
    """Draws, of which each may be a dict by site, along a first axis."""
    if isinstance(draws[0], dict):
        return {name: torch.stack([one[name] for one in draws]) for name in draws[0]}
    return torch.stack(draws)


def _latents(
    model: LatentVariableModel, x: Data, sites: list[program.Site], num_draws: int, trained: bool
) -> Iterator[Values]:
    """Joint draws of a program's latents given data, by site: exact where that is to be had, else by the guide."""
    if not sites:
        yield from ({} for _ in range(num_draws))
    elif lacks(model, "sample_posterior") is None:
        for path in model.sample_posterior(x, num_draws):
            yield {f"z_{t}": state.clamp_min(0) for t, state in enumerate(path.unbind(-1))}
    elif len(sites) == 1 and lacks(model, "posterior") is None and hasattr(q := call(model.posterior, x), "sample"):
        yield from ({sites[0].name: value} for value in q.sample((num_draws,)))
    else:
        yield from _of_program(model, x, sites, num_draws, trained)


def _of_program(
    model: LatentVariableModel, x: Data, sites: list[program.Site], num_draws: int, trained: bool
) -> Iterator[Values]:
    nesting = program.plate_nesting(model, x, alone=True)
    trained = trained and model.has_guide
    missing = next((f"site {s.name!r} ({s.family}) has no finite support" for s in sites if not s.discrete), "")
    if not missing:
        try:
            drawn = enumerated_posterior(model, x, nesting).sample(num_draws, _seed())
        except ZooError as error:
            if not trained:
                raise
            missing = str(error)
        else:
            yield from ({name: value[s] for name, value in drawn.items()} for s in range(num_draws))
            return
    if not trained:
        raise ZooError(
            f"posterior_predictive: {missing}, and no trained guide stands for it. Fit by svi with a guide, or define "
            "posterior(x)."
        )
    for _ in range(num_draws):
        trace = sample_sites(poutine.trace(lambda: call(model.guide, x)).get_trace())
        values = {n: s["value"] for n, s in trace.items() if not is_masked_out(s) and not is_auxiliary(s)}
        if any(site.discrete and site.name not in values for site in sites):
            left = enumerated_posterior(Conditioned(model, values), x, nesting).sample(1, _seed())
            values |= {name: value[0] for name, value in left.items() if name not in values}
        yield values


def _seed() -> int:
    return int(torch.randint(2**31, ()))


def _drawn(model: LatentVariableModel, x: Data, values: Values) -> Tensor | Values:
    """One draw of all data; what is missing among them (NaN) is drawn as well."""
    handler, whole = (
        Redrawn(model.points, values),
        map_tensors(lambda t: t.nan_to_num(0.0) if t.is_floating_point() else t, x),
    )
    with handler:
        call(model.model, whole)
    drawn = {name: _seen(value, *handler.where[name]) for name, value in handler.drawn.items()}
    found = {n: _stacked(v, x) if isinstance(v, list) else v for n, v in _series(drawn).items()}
    if lacks(model, "from_pixels") is None:
        to_units: Any = model.from_pixels
        found = {name: to_units(value) for name, value in found.items()}
    return next(iter(found.values())) if len(found) == 1 else found


def _seen(value: Tensor, fn: Any, mask: Any) -> Tensor:
    """A value, NaN where a mask leaves it out, of whole numbers -1."""
    for there in (mask, getattr(fn, "_mask", None)):
        if isinstance(there, Tensor):
            entries = there.reshape(there.shape + (1,) * fn.event_dim)
            value = value.where(entries, torch.nan if value.is_floating_point() else -1)
    return value


def _series(drawn: Values) -> dict[str, Tensor | list[Tensor]]:
    """By name: the sites ``x_0``, ``x_1``, ... of one shape as a list ``x``, any other site as it is."""
    series: dict[str, Tensor | list[Tensor]] = {}
    for name, value in drawn.items():
        stem, _, number = name.rpartition("_")
        steps = series.get(stem, [])
        if (
            stem
            and isinstance(steps, list)
            and number == str(len(steps))
            and all(s.shape == value.shape for s in steps)
        ):
            series[stem] = [*steps, value]
        else:
            series[name] = value
    return series


def _stacked(steps: list[Tensor], x: Data) -> Tensor:
    """Steps along the axis that makes them shaped as data: the second, or the first of one series alone."""
    whole = torch.stack(steps)
    return whole if whole.shape in {t.shape for t in tensors(x)} or whole.dim() == 1 else whole.movedim(0, 1)
