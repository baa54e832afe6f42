"""What a user says beside the data, checked: how often rows count, which latents are known, which parameters stay."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from zoo.core.beside import placed
from zoo.core.checks import rows as named_rows
from zoo.core.contract import LatentVariableModel, lacks
from zoo.core.data import Data, as_data, call, num_data, plain, take, tensors
from zoo.core.isolation import kept_generators
from zoo.core.matching import match
from zoo.core.problem import Problem
from zoo.core.rows import Rows
from zoo.core.sites import SiteMessage, data_dim, sample_sites, unwrapped
from zoo.errors import ZooError, unknown_name

__all__ = ["align_to_known", "settled", "with_beside"]


def with_beside(model: LatentVariableModel, x: Data, weights: Any, known: Mapping[str, Any] | None) -> Data:
    """Data with weights and known latents beside their rows; a row of weight zero is left out.

    Raises:
        ZooError: weights that are not one finite number of at least 0 a row, or all zero; not one entry a row.
    """
    count = num_data(x)
    beside: dict[str, Tensor] = {}
    if known is not None and not isinstance(known, Mapping):
        raise ZooError(f"known expected values by latent site, got {type(known).__name__}. Take {{'z': labels}}.")
    for name, values in (known or {}).items():
        beside[name] = _tensor(f"known[{name!r}]", values, model, x)
        if not beside[name].dim() or len(beside[name]) != count:
            got = tuple(beside[name].shape)
            raise ZooError(f"known[{name!r}] expected one entry for each of {count} rows, got shape {got}.")
    given = None
    if weights is not None:
        given = _tensor("weights", weights, model, x).to(model.dtype if model.trusted else _real(x))
        if given.shape != (count,):
            raise ZooError(f"weights expected shape ({count},), one a row, got {tuple(given.shape)}.")
        bad = ~(given.isfinite() & (given >= 0))
        if bad.any():
            raise ZooError(
                f"weights expected finite numbers of at least 0, got {float(given[bad][0]):g} in {named_rows(bad)}. "
                "Give a row that should not count 0."
            )
        if not given.any():
            raise ZooError("weights expected a number above 0 for some row, got 0 for all.")
        if not given.all():
            kept = given.nonzero().flatten()
            x, given = take(x, kept), given[kept]
            beside = {name: values[kept] for name, values in beside.items()}
        if (given == 1).all():
            given = None
    if given is None and not beside:
        return x
    return Rows(x, given, beside, 1.0 if given is None else float(given.mean()))


def _tensor(what: str, values: Any, model: LatentVariableModel, x: Data) -> Tensor:
    read = None if isinstance(values, str) else as_data(values, symbols=what.startswith("known"))
    if not isinstance(read, Tensor):
        raise ZooError(f"{what} expected an array of numbers, got {type(values).__name__}.")
    return read.detach().to(tensors(x)[0].device)


def _real(x: Data) -> torch.dtype:
    return next((t.dtype for t in tensors(x) if t.is_floating_point()), torch.get_default_dtype())


def check_known(model: LatentVariableModel, x: Data) -> Data:
    """The data with what is known of each latent as the program has it: whole numbers, -1 where nothing is known, of a
    discrete one; else numbers, NaN where nothing is.

    Raises:
        ZooError: a latent that the program does not have, values of another shape or out of range.
    """
    if not isinstance(x, Rows) or not x.known:
        return x
    with torch.no_grad(), kept_generators():
        trace = poutine.trace(lambda: call(model.model, plain(x))).get_trace()
    latents = {n: s for n, s in sample_sites(trace).items() if not s["is_observed"] and n not in model.points}
    known = {}
    for name, values in x.known.items():
        steps = [s for n, s in latents.items() if re.fullmatch(rf"{re.escape(name)}_\d+", n)]
        if name not in latents and not steps:
            raise unknown_name("known: latent", name, {re.sub(r"_\d+$", "", n) for n in latents})
        if name not in latents and values.shape[1:2] != (len(steps),):
            raise ZooError(
                f"known[{name!r}] expected shape ({len(values)}, {len(steps)}), one entry a time step, got "
                f"{tuple(values.shape)}."
            )
        site = latents[name] if name in latents else steps[0]
        values = _as_the_site_has_them(name, values, site)
        _check_shape(name, values if name in latents else values[:, 0], site)
        nothing = values.isnan() if values.is_floating_point() else values < 0
        if not nothing.all():
            known[name] = values
    return Rows(x.data, x.weights, known, x.mean_weight) if known or x.weights is not None else x.data


def _as_the_site_has_them(name: str, values: Tensor, site: SiteMessage) -> Tensor:
    fn, inner = site["fn"], unwrapped(site["fn"])
    if not fn.support.is_discrete:
        if fn.event_dim > 0 and inner.event_dim > 0:
            holes = values.isnan().flatten(-fn.event_dim)
            if (holes.any(-1) & ~holes.all(-1)).any():
                raise ZooError(f"known[{name!r}] expected rows that are known wholly or not at all, got parts of one.")
        return values.to(site["value"])
    family = (torch.distributions.Categorical, torch.distributions.OneHotCategorical, torch.distributions.Bernoulli)
    if not isinstance(inner, family) and (inner.event_dim or not inner.has_enumerate_support):
        raise ZooError(
            f"known: latent {name!r} expected a family whose values can be listed, got {type(inner).__name__}. "
            "Leave it unknown."
        )
    labels = values.nan_to_num(-1.0) if values.is_floating_point() else values
    size = inner.enumerate_support(expand=False).shape[0] if inner.has_enumerate_support else None
    bad = (labels != labels.round() if labels.is_floating_point() else torch.zeros_like(labels, dtype=torch.bool)) | (
        labels >= (size or torch.inf)
    )
    if bad.any():
        to = "" if size is None else f" below {size}"
        raise ZooError(
            f"known[{name!r}] expected whole numbers{to}, or -1 where it is not known, got {float(labels[bad][0]):g} "
            f"in {named_rows(bad)}."
        )
    return labels.long().clamp_min(-1)


def _check_shape(name: str, values: Tensor, site: SiteMessage) -> None:
    fn, count = site["fn"], len(values)
    event = fn.event_shape if type(unwrapped(fn)).__name__ != "OneHotCategorical" else fn.event_shape[:-1]
    expected = (*fn.batch_shape, *event)
    got = placed(values, site, data_dim(site, count))
    if got.shape != expected:
        raise ZooError(
            f"known[{name!r}] expected {count} rows of a latent of shape {tuple(expected)} in all, got "
            f"{tuple(values.shape)}."
        )


def settled(problem: Problem, rows: Data, fixed: str | Iterable[str]) -> tuple[Problem, list[str]]:
    """A problem with what stands beside its rows and parameters that stay, and the names of those that moved before."""
    stopping = fix(problem.model, fixed)
    data = check_known(problem.model, rows)
    return (problem.on(data) if stopping else problem.beside(data)), stopping


def fix(model: LatentVariableModel, names: str | Iterable[str]) -> list[str]:
    """Let parameters stay as they are, by the names that users know; those of ``named_parameters`` that moved before.

    Raises:
        ZooError: a name that is no parameter's.
    """
    by_name: dict[str, str] = {}
    if not names:
        return []
    for full, _ in model.named_parameters():
        by_name[next(iter(model.named_values({full})), full)] = full
    stopped = []
    for name in [names] if isinstance(names, str) else names:
        if name not in by_name:
            raise unknown_name("fixed: parameter", name, by_name)
        parameter = model.get_parameter(by_name[name])
        if parameter.requires_grad:
            parameter.requires_grad_(False)
            stopped.append(by_name[name])
    return stopped


@torch.no_grad()
def align_to_known(model: LatentVariableModel, x: Data) -> None:
    """Renumber the components of a start so that they agree with the labels that are known."""
    labels = x.known.get("z") if isinstance(x, Rows) else None
    if labels is None or lacks(model, "permute_components", "posterior") is not None:
        return
    if model.config.get("topology", "full") != "full":
        return  # its states have an order already
    shares = call(model.posterior, plain(x)).probs
    there = labels >= 0
    theirs = torch.nn.functional.one_hot(labels[there], shares.shape[-1]).to(shares)
    model.permute_components(match(theirs.mT @ shares[there], shares.shape[-1]))
