"""Export to ArviZ. Importing arviz takes seconds, so it is done here, when asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from pyro import poutine
from torch import Tensor

from zoo.core import program
from zoo.core.contract import LatentVariableModel, lacks
from zoo.core.data import Data, call, num_data, tensors
from zoo.core.isolation import isolated
from zoo.core.pieces import gathered, pieces
from zoo.core.sequences import blank_beyond
from zoo.core.sites import is_masked_out, sample_sites
from zoo.errors import ZooError
from zoo.reporting.subjects import Fitted
from zoo.scores.evidence import exact_log_likelihood

__all__ = ["by_site", "data_groups", "from_groups", "predictive_group", "summary_table", "to_inference_data"]

#: Numbers of posterior predictive draws that go into an export without being asked for, about 80 MB.
MOST = 10_000_000


def to_inference_data(fits: Sequence[Fitted], x: Data, num_draws: int = 100, *, predictive: bool = True) -> Any:
    """The fits of one model on the same data as ArviZ ``InferenceData``.

    Chains are fits, in order (coordinate ``fit`` names them). Groups: ``posterior`` (draws of each latent from q:
    the exact posterior for exact estimators, else the guide), ``log_likelihood`` (exact ln p(x) by datum, where
    tractable), ``posterior_predictive`` (where it is asked for, all fits have it, and it is not many numbers),
    ``observed_data`` and ``constant_data`` (the fitted parameters, lengths and inputs).
    """
    labels = [f"{fit.label}:{fit.seed}" for fit in fits]
    posterior: dict[str, list[np.ndarray[Any, Any]]] = {}
    parameters: dict[str, list[np.ndarray[Any, Any]]] = {}
    evidence = []
    for fit in fits:
        with isolated(fit.seed):
            for name, draws in latent_draws(fit, x, num_draws).items():
                posterior.setdefault(name, []).append(_array(draws))
            exact = exact_log_likelihood(fit.model, x)
        for name, value in fitted_parameters(fit.model, x).items():
            parameters.setdefault(name, []).append(_array(value))
        if exact is not None:
            evidence.append(_array(exact.reshape(-1)))
    observed, constant = data_groups(fits[0].model, x)
    groups: dict[str, Any] = {
        "posterior": {name: np.stack(values) for name, values in posterior.items() if len(values) == len(fits)},
        "observed_data": observed,
        "constant_data": {"fit": np.array(labels), **{name: np.stack(v) for name, v in parameters.items()}, **constant},
    }
    drawn = [predictive_group(fit, x, num_draws, of=len(fits)) for fit in fits] if predictive else []
    if drawn and all(drawn):
        groups["posterior_predictive"] = {name: np.concatenate([one[name] for one in drawn]) for name in drawn[0]}
    if len(evidence) == len(fits):
        each = np.stack(evidence)[:, None]  # the same for every draw: z is summed out
        groups["log_likelihood"] = {"x": np.broadcast_to(each, (len(fits), num_draws, *each.shape[2:]))}
    return from_groups({name: values for name, values in groups.items() if values})


def data_groups(model: LatentVariableModel, x: Data) -> tuple[dict[str, Any], dict[str, Any]]:
    """Data by name: what is observed, NaN beyond the lengths of sequences, and what is not (lengths, inputs)."""
    fields, named = model.fields, model.fields.named(x)
    if isinstance(x, Tensor) or (isinstance(x, tuple) and not fields.given) or fields.observed[0] not in named:
        return {f"x{i or ''}": _array(t) for i, t in enumerate(tensors(x))}, {}
    values = {name: value for name, value in named.items() if isinstance(value, Tensor)}
    if "lengths" in values and "x" in fields.observed and values["x"].is_floating_point():
        values["x"] = blank_beyond(values["x"], values["lengths"])
    arrays = {name: _array(value) for name, value in values.items()}
    drawn = [name for name in fields.observed if name in arrays and not name.endswith("lengths")]
    observed = {name: arrays.pop(name) for name in drawn}
    return observed, arrays


def predictive_group(fit: Fitted, x: Data, num_draws: int, num_chains: int = 1, of: int = 1) -> dict[str, Any]:
    """The fit's posterior predictive draws as arrays (num_chains, num_draws, ...), by the names that the observed data
    have; empty where there are none to be had, or more numbers than :data:`MOST` in so many fits."""
    if num_draws * num_chains * of * sum(t.numel() for t in tensors(x)) > MOST:
        return {}
    try:
        drawn = fit.posterior_predictive(x, num_draws * num_chains)
    except ZooError:  # no density of data, or latents without a posterior
        return {}
    named = drawn if isinstance(drawn, dict) else {fit.model.fields.observed[0]: drawn}
    return {name: _array(value.reshape(num_chains, num_draws, *value.shape[1:])) for name, value in named.items()}


def from_groups(groups: dict[str, dict[str, Any]]) -> Any:
    """``InferenceData`` of groups of arrays whose first dimensions are chain and draw; of ArviZ 1.x the ``DataTree``
    that took its place, where a site's name has a dot for each "/", which are paths there."""
    import arviz

    from_dict: Any = arviz.from_dict
    if not _gives_trees():
        return from_dict(**groups)
    return from_dict({group: {name.replace("/", "."): v for name, v in of.items()} for group, of in groups.items()})


def summary_table(data: Any, kind: str) -> Any:
    """ArviZ's summary in full digits, with the highest-density interval of 94% that 0.x gives unasked."""
    import arviz

    summary: Any = arviz.summary
    interval: dict[str, Any] = {"ci_prob": 0.94, "ci_kind": "hdi"} if _gives_trees() else {"hdi_prob": 0.94}
    return summary(data, kind=kind, round_to="none", **interval)


def by_site(data: Any, names: Iterable[str]) -> dict[str, np.ndarray[Any, Any]]:
    """What ArviZ says of each site of the draws that it was given, by :func:`from_groups`."""
    return {name: np.asarray(data[name.replace("/", ".") if _gives_trees() else name]) for name in names}


def _gives_trees() -> bool:
    """Whether this is ArviZ 1.x, whose own name ``InferenceData`` is an alias that warns."""
    import arviz

    return int(arviz.__version__.split(".")[0]) >= 1


def latent_draws(fit: Fitted, x: Data, num_draws: int) -> dict[str, Tensor]:
    """Joint draws of the latents from the fit's q, (num_draws, N, ...); the states of a chain are one latent, ``z``.

    q is the guide where the estimator trained it, else the exact posterior. A step beyond a sequence's length is -1.
    """
    model = fit.model
    with torch.no_grad():
        if fit.guide_trained and model.has_guide:
            return _guide_draws(model, x, num_draws)
        if lacks(model, "sample_posterior") is None:

            def paths(piece: Data) -> Tensor:
                drawn: Tensor = model.sample_posterior(piece, num_draws)
                return drawn.movedim(0, 1)

            return {"z": gathered(map(paths, pieces(model, x)), num_data(x)).movedim(1, 0)}
        if lacks(model, "posterior") is None:
            name = program.latent_sites(model, x)[0].name
            return {name: fit.posterior(x).sample((num_draws,))}
        try:
            return fit.discrete_posterior(x).sample(num_draws, fit.seed)
        except ZooError:  # latents without an exact posterior, and no guide that was trained
            return {}


def _guide_draws(model: LatentVariableModel, x: Data, num_draws: int) -> dict[str, Tensor]:
    traces = [sample_sites(poutine.trace(lambda: call(model.guide, x)).get_trace()) for _ in range(num_draws)]
    draws = {
        name: torch.stack([trace[name]["value"] for trace in traces])
        for name, site in traces[0].items()
        if not is_masked_out(site)
    }
    if lacks(model, "sample_posterior") is not None:
        return draws
    steps = torch.stack([draws[f"z_{t}"] for t in range(len(draws))], -1)
    inside = torch.arange(steps.shape[-1], device=steps.device) < x["lengths"].unsqueeze(-1)
    return {"z": steps.masked_fill(~inside, -1)}


def fitted_parameters(model: LatentVariableModel, x: Data) -> dict[str, Tensor]:
    """The constrained values of θ by name."""
    theta = program.look(model, x).theta
    names = [name.removesuffix("_unconstrained") for name in theta if "." not in name]
    return {name: value.detach() for name in names if (value := model.quantity(name)) is not None}


def _array(value: Tensor) -> np.ndarray[Any, Any]:
    array: np.ndarray[Any, Any] = value.detach().cpu().numpy()
    return array
