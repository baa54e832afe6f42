"""A model with a prior, as one joint over parameters and data: local latents are summed out, parameters are latent.

    ln p(θ, x) = sum over sites of ln prior(θ_site) + sum_n ln p(x_n | θ)

From ``prior(x)`` and ``log_marginal(x)`` alone, :func:`joint` makes a Pyro program of which every parameter is a sample
site: what ``advi`` fits, and what a NumPyro program is held against. :class:`Draws` is what comes back.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributions import constraints, transform_to
from torch.func import functional_call

from zoo.batch import Data, call, tensors
from zoo.errors import ZooError
from zoo.model import Half, LatentVariableModel
from zoo.priors import Prior

__all__ = ["Draws", "joint", "log_joint", "log_likelihood", "parameters", "set_means", "site_values"]

Values = dict[str, Tensor]


def parameters(values: Values) -> Values:
    """The model's parameters that a point of the prior's space stands for.

    Sites bear their parameters' names, but ``scales`` (..., D) and ``correlations`` (..., D, D) make
    ``scale_tril`` = diag(scales) correlations.
    """
    values = dict(values)
    if "scales" in values:
        scales = values.pop("scales").unsqueeze(-1)
        values["scale_tril"] = scales * values.pop("correlations", torch.ones_like(scales))
    return values


def site_values(model: LatentVariableModel, sites: Prior) -> Values:
    """Where the model's present parameters lie in the prior's space; sites it has no value for are left out.

    The inverse of :func:`parameters`.
    """
    values = {}
    for name in sites:
        if name in ("scales", "correlations"):
            factor = model.scale_tril.detach()
            scales = factor.norm(dim=-1)
            values[name] = scales if name == "scales" else factor / scales.unsqueeze(-1)
        elif isinstance(getattr(model, name, None), Tensor):
            values[name] = getattr(model, name).detach()
    return values


def log_likelihood(model: LatentVariableModel, values: Values, x: Data) -> Tensor:
    """ln p(x_n | θ), (N,), nats, at parameters by name in place of the model's own; differentiable in them."""
    own = {name for name, _ in model.named_parameters()}
    replaced = {}
    for name, value in values.items():
        key = name if name in own else f"{name}_unconstrained"
        if key not in own:
            raise ZooError(
                f"{type(model).__name__}: prior expected the names of parameters, got {name!r}. "
                f"Use some of {', '.join(sorted(n.removesuffix('_unconstrained') for n in own if '.' not in n))}."
            )
        constraint = model.constraint_of(key)
        replaced[f"owner.{key}"] = value if constraint is None else transform_to(constraint).inv(value)
    args, kwargs = ((), x) if isinstance(x, dict) else (x if isinstance(x, tuple) else (x,), {})
    out: Tensor = functional_call(Half(model, "log_marginal"), replaced, args, kwargs)
    return out


def log_joint(model: LatentVariableModel, values: Values, x: Data) -> Tensor:
    """ln p(θ, x), nats, at a point of the prior's space, in constrained space: no Jacobian."""
    prior = sum(fn.log_prob(values[name]) for name, fn in call(model.prior, x).items())
    return torch.as_tensor(prior) + log_likelihood(model, parameters(values), x).sum()


def joint(model: LatentVariableModel, x: Data, wrap: Callable[..., Any] | None = None) -> Callable[..., None]:
    """The Pyro program whose latent sites are the parameters, one for each site of ``model.prior(x)``.

    Args:
        wrap: an effect handler for the prior's part, such as a reparametrisation.
    """
    sites: Prior = call(model.prior, x)

    def prior() -> Values:
        return {name: pyro.sample(name, fn) for name, fn in sites.items()}

    drawn = wrap(prior) if wrap else prior

    def program(*args: Any, **kwargs: Any) -> None:
        pyro.factor("log_likelihood", log_likelihood(model, parameters(drawn()), x).sum())

    return program


def set_means(model: LatentVariableModel, values: Values) -> None:
    """Set each parameter that draws (S, ...) bear the name of to their mean.

    Cholesky factors are averaged as the covariances they stand for: their own mean depends on the order of features.
    """
    own = {name for name, _ in model.named_parameters()}
    for name, draws in values.items():
        key = f"{name}_unconstrained"
        if name not in own and key not in own:
            continue
        constraint = model.constraint_of(key) if key in own else None
        if isinstance(constraint, type(constraints.lower_cholesky)):
            mean = torch.linalg.cholesky((draws @ draws.mT).mean(0))
        else:
            mean = draws.mean(0)
        if isinstance(constraint, type(constraints.simplex)):
            mean = mean / mean.sum(-1, keepdim=True)
        if constraint is None:
            with torch.no_grad():
                model.get_parameter(name).copy_(mean)
        else:
            setattr(model, name, mean)


@dataclass
class Draws:
    """Draws of a model's parameters from their posterior, or from an approximation to it.

    Attributes:
        values: by site, (chains, draws, ...); also parameters that sites make up.
        stats: by ArviZ's names for what the sampler tells of each draw, (chains, draws).
        diagnostics: plain numbers; of a sampler ``max_rhat``, ``min_ess``, ``divergences``, of an approximation
            ``elbo``, ``elbo_se`` (on ln p(x), parameters integrated out) and ``khat``.
        x: the data, kept for ``to_inference_data`` but not saved.
    """

    values: Values
    stats: Values = field(default_factory=dict)
    diagnostics: dict[str, Any] = field(default_factory=dict)
    x: Data = field(default=None, repr=False)

    @property
    def num_chains(self) -> int:
        return next(iter(self.values.values())).shape[0]

    @property
    def num_draws(self) -> int:
        """Draws in each chain."""
        return next(iter(self.values.values())).shape[1]

    def flat(self) -> Values:
        """All chains' draws in one, (chains * draws, ...)."""
        return {name: value.flatten(0, 1) for name, value in self.values.items()}

    def summary(self) -> Any:
        """ArviZ's table of every entry: mean, sd, 94% interval, Monte-Carlo errors, effective sizes and R-hat."""
        import arviz

        with _quiet():
            # Draws from an approximation are independent: nothing there to diagnose.
            return arviz.summary(self.inference_data(), kind="all" if self.stats else "stats", round_to="none")

    def rhat(self) -> dict[str, np.ndarray[Any, Any]]:
        """Rank-normalised split R-hat (Vehtari et al. 2021) of every entry, by site; NaN where an entry is constant.

        ArviZ asks for two chains: a lone one is held against itself, one half against the other.
        """
        import arviz

        halves = self
        if self.num_chains == 1:
            half = self.num_draws // 2
            halves = Draws({n: torch.cat([v[:, :half], v[:, half : 2 * half]]) for n, v in self.values.items()})
        with _quiet():
            return _plain(arviz.rhat(halves.inference_data()))

    def ess(self, method: str = "bulk") -> dict[str, np.ndarray[Any, Any]]:
        """Effective sample size of every entry, by site, by ArviZ's ``method``; NaN where an entry is constant."""
        import arviz

        with _quiet():
            found = _plain(arviz.ess(self.inference_data(), method=method))
        varied = {name: value.flatten(0, 1).std(0).numpy() > 0 for name, value in self.values.items()}
        return {name: np.where(varied[name], value, np.nan) for name, value in found.items()}

    def inference_data(self, model: LatentVariableModel | None = None, x: Data = None) -> Any:
        """ArviZ ``InferenceData``: ``posterior`` and ``sample_stats``; given model and data also ``log_likelihood``
        (ln p(x_n | θ) of every draw) and ``observed_data``."""
        from zoo.inference_data import from_groups

        groups: dict[str, Any] = {"posterior": {name: value.numpy() for name, value in self.values.items()}}
        if self.stats:
            groups["sample_stats"] = {name: value.numpy() for name, value in self.stats.items()}
        if model is not None and x is not None:
            own = {name.removesuffix("_unconstrained") for name, _ in model.named_parameters()}
            shown = {name: value for name, value in self.flat().items() if name in own}
            with torch.no_grad():
                each = [
                    log_likelihood(model, {name: value[s] for name, value in shown.items()}, x).reshape(-1)
                    for s in range(self.num_chains * self.num_draws)
                ]
            shape = (self.num_chains, self.num_draws, -1)
            groups["log_likelihood"] = {"x": torch.stack(each).reshape(shape).cpu().numpy()}
            groups["observed_data"] = {f"x{i or ''}": t.cpu().numpy() for i, t in enumerate(tensors(x))}
        return from_groups(groups)

    def plot(self, path: str | Path, kind: str = "trace", sites: list[str] | None = None) -> Path:
        """Draw "trace" (each chain's draws, beside their densities) or "pair" (two by two) into a picture file."""
        from zoo.posterior_plots import plot_draws

        return plot_draws(self, path, kind=kind, sites=sites)

    def diagnosed(self) -> Draws:
        """The same draws with ``max_rhat``, ``min_ess`` (bulk and tail) and ``divergences`` worked out."""
        rhat, ess = self.rhat(), [self.ess(method) for method in ("bulk", "tail")]
        found = {
            "max_rhat": _extreme(rhat.values(), np.nanmax),
            "min_ess": _extreme([v for e in ess for v in e.values()], np.nanmin),
            "divergences": int(self.stats["diverging"].sum()) if "diverging" in self.stats else 0,
        }
        return dataclasses.replace(self, diagnostics={**self.diagnostics, **found})

    def write(self, folder: Path) -> None:
        """Write ``draws.safetensors`` and ``draws.json`` into a folder that exists."""
        groups = {"values": self.values, "stats": self.stats}
        flat = {f"{group}/{name}": v.contiguous() for group, part in groups.items() for name, v in part.items()}
        save_file(flat, str(folder / "draws.safetensors"))
        (folder / "draws.json").write_text(json.dumps(self.diagnostics))

    @staticmethod
    def read(folder: Path) -> Draws | None:
        """What :meth:`write` wrote, None where there is nothing.

        Raises:
            ZooError: the files are damaged.
        """
        if not (folder / "draws.safetensors").is_file():
            return None
        try:
            flat = load_file(str(folder / "draws.safetensors"))
            diagnostics = json.loads((folder / "draws.json").read_text())
        except Exception as error:
            raise ZooError(
                f"load: the draws in {str(folder)!r} are damaged ({type(error).__name__}). Fit and save again."
            ) from None
        values, stats = (
            {name.removeprefix(prefix): v for name, v in flat.items() if name.startswith(prefix)}
            for prefix in ("values/", "stats/")
        )
        return Draws(values, stats, diagnostics)

    def __str__(self) -> str:
        told = ", ".join(f"{name} {_brief(value)}" for name, value in self.diagnostics.items())
        return f"{self.num_chains} x {self.num_draws} draws: {told}"


def _brief(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _plain(found: Any) -> dict[str, np.ndarray[Any, Any]]:
    return {str(name): np.asarray(found[name]) for name in found}


def _extreme(arrays: Any, pick: Callable[..., Any]) -> float:
    known = np.concatenate([np.ravel(a) for a in arrays])
    known = known[np.isfinite(known)]
    return float(pick(known)) if len(known) else float("nan")


@contextmanager
def _quiet() -> Iterator[None]:
    """ArviZ and numpy complain of entries that never vary (the upper triangle of a Cholesky factor); we know."""
    logger = logging.getLogger("arviz")
    before, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before
