"""Draws of parameters and what they say of themselves."""

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
import torch

from zoo.bayes.joint import Values, log_likelihood
from zoo.core.contract import LatentVariableModel
from zoo.core.data import Data
from zoo.errors import ZooError
from zoo.storage.json import to_json
from zoo.storage.tensors import read_tensors, write_tensors

__all__ = ["Draws"]


@dataclass
class Draws:
    """Draws of a model's parameters from their posterior, or from an approximation to it.

    Attributes:
        values: by site, (chains, draws, ...); also parameters that sites make up.
        stats: by ArviZ's names for what the sampler tells of each draw, (chains, draws).
        diagnostics: plain numbers; of a sampler ``max_rhat``, ``min_ess``, ``divergences``, of an approximation
            ``elbo``, ``elbo_se`` (on ln p(x), parameters integrated out) and ``khat``.
    """

    values: Values
    stats: Values = field(default_factory=dict)
    diagnostics: dict[str, Any] = field(default_factory=dict)

    @property
    def num_chains(self) -> int:
        """Chains, 1 of an approximation."""
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
        from zoo.reporting.arviz import summary_table

        with _quiet():
            # Draws from an approximation are independent: nothing there to diagnose.
            return summary_table(self.inference_data(), kind="all" if self.stats else "stats")

    def rhat(self) -> dict[str, np.ndarray[Any, Any]]:
        """Rank-normalised split R-hat (Vehtari et al. 2021) of every entry, by site; NaN where an entry is constant.

        ArviZ asks for two chains: a lone one is held against itself, one half against the other.
        """
        import arviz

        from zoo.reporting.arviz import by_site

        halves = self
        if self.num_chains == 1:
            half = self.num_draws // 2
            halves = Draws({n: torch.cat([v[:, :half], v[:, half : 2 * half]]) for n, v in self.values.items()})
        with _quiet():
            return by_site(arviz.rhat(halves.inference_data()), self.values)

    def ess(self, method: str = "bulk") -> dict[str, np.ndarray[Any, Any]]:
        """Effective sample size of every entry, by site, by ArviZ's ``method``; NaN where an entry is constant."""
        import arviz

        from zoo.reporting.arviz import by_site

        with _quiet():
            found = by_site(arviz.ess(self.inference_data(), method=method), self.values)
        varied = {name: value.flatten(0, 1).std(0).cpu().numpy() > 0 for name, value in self.values.items()}
        return {name: np.where(varied[name], value, np.nan) for name, value in found.items()}

    def inference_data(
        self, model: LatentVariableModel | None = None, x: Data = None, predictive: dict[str, Any] | None = None
    ) -> Any:
        """ArviZ ``InferenceData``: ``posterior`` and ``sample_stats``; given model and data also ``log_likelihood``
        (ln p(x_n | θ) of every draw), ``observed_data`` and what else the data hold, ``constant_data``.

        Args:
            model: the fitted model. x: the data that were fitted, as the model takes them.
            predictive: the group ``posterior_predictive``: by name, draws of data, (chains, draws, ...).
        """
        from zoo.reporting.arviz import data_groups, from_groups

        groups: dict[str, Any] = {"posterior": {name: value.cpu().numpy() for name, value in self.values.items()}}
        if self.stats:
            groups["sample_stats"] = {name: value.cpu().numpy() for name, value in self.stats.items()}
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
            groups["observed_data"], constant = data_groups(model, x)
            groups |= {"constant_data": constant} if constant else {}
        if predictive:
            groups["posterior_predictive"] = predictive
        return from_groups(groups)

    def plot(self, path: str | Path, kind: str = "trace", sites: list[str] | None = None) -> Path:
        """Draw draws of parameters into a picture file.

        Args:
            path: of the file, .png, .svg or .pdf.
            kind: "trace" (each chain's draws, beside their densities) or "pair" (two by two).
            sites: names of the parameters to show; None shows all that vary, as far as there is room.

        Raises:
            ZooError: a kind or a site that is not known.
        """
        from zoo.reporting.draws import plot_draws

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
        write_tensors(flat, folder / "draws.safetensors")
        (folder / "draws.json").write_text(to_json(self.diagnostics, None))

    @staticmethod
    def read(folder: Path) -> Draws | None:
        """What :meth:`write` wrote into a folder, None where there is nothing.

        Raises:
            ZooError: the files are damaged.
        """
        if not (folder / "draws.safetensors").is_file():
            return None
        try:
            flat = read_tensors(folder / "draws.safetensors")
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
