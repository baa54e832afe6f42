"""Scoring a model on data by every scorer (``zoo/scores``) that has something to say of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from zoo.core.data import num_data
from zoo.core.functions import as_model
from zoo.core.hooks import settled
from zoo.core.isolation import isolated
from zoo.core.turns import exclusive
from zoo.errors import ZooError
from zoo.runs.reading import prepared
from zoo.runs.result import Fit
from zoo.scores.scoring import Scoring, scorers

__all__ = ["Evaluation", "evaluate"]


@dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate` found; totals over the data, nats.

    Attributes:
        num_data: N.
        log_likelihood: exact ln p(x), None where intractable.
        importance_bound: the S-sample importance-weighted bound, None without a guide.
        importance_bound_se: its Monte-Carlo standard error (delta method, data independent).
        elbo: the bound of the guide. elbo_se: its Monte-Carlo standard error.
        khat: (N,) Pareto k̂ of each datum's importance weights (Vehtari et al. 2024): below 0.7 the guide
            covers that posterior well enough to correct it by importance weights.
        num_samples: S.
        data_se: standard error of the mean of the importance-weighted estimates over the data, nats per datum: what
            another data set of this size would change.
        active_units: of a code with posterior means, how many units vary over the data (Burda et al. 2016). num_units:
            of how many.
        filtering_bound: of sequences that can be filtered, the bound of a particle filter; filtering_bound_se: its
            Monte-Carlo standard error. num_particles: of the filter.
        denoising: of a program with noise beside its latents, the criterion that ``svi`` climbs: E ln p(x | spoilt x),
            less any KL; no bound on ln p(x). denoising_se: its Monte-Carlo standard error.
        notes: what a user should know, one line each: data of probability zero, and why.
        log_density: where the program is no normalised density (it has a ``pyro.factor``), the logarithm of its sum
            over the latents: ln p(x) up to a constant. Bounds are on that number then. None elsewhere.
        annealed: of an energy whose ln Z is no affordable sum, the log-likelihood with ln Z by annealed importance
            sampling; too high on average. annealed_se: its standard error by the chains' spread.
        reverse_annealed: the same by chains from the model to independent units; too low on average where they start
            from the model. reverse_annealed_se: its standard error.
        pseudo_likelihood: of such an energy, the sum of ln p of each unit given all others, which knows no ln Z and is
            no likelihood; of more than 5000 data, what 5000 of them say of all.
        num_recalled: of a memory, how many data come back as they are. recall_error: the share of units that are wrong
            in what comes back; noisy_recall_error: the same from states with a tenth of their units turned.
        density: what the numbers are of: "p(x)", "p(y | x)".
    """

    num_data: int
    log_likelihood: float | None = None
    importance_bound: float | None = None
    importance_bound_se: float | None = None
    elbo: float | None = None
    elbo_se: float | None = None
    khat: Tensor | None = None
    num_samples: int = 0
    data_se: float | None = None
    active_units: int | None = None
    num_units: int | None = None
    notes: tuple[str, ...] = ()
    log_density: float | None = None
    filtering_bound: float | None = None
    filtering_bound_se: float | None = None
    num_particles: int | None = None
    annealed: float | None = None
    annealed_se: float | None = None
    reverse_annealed: float | None = None
    reverse_annealed_se: float | None = None
    pseudo_likelihood: float | None = None
    denoising: float | None = None
    denoising_se: float | None = None
    num_recalled: int | None = None
    recall_error: float | None = None
    noisy_recall_error: float | None = None
    density: str = "p(x)"

    @property
    def nll(self) -> float | None:
        """-ln p(x) in nats per datum, as papers on deep models report it: by the importance-weighted bound."""
        return None if self.importance_bound is None else -self.importance_bound / self.num_data

    @property
    def nll_se(self) -> float | None:
        """Monte-Carlo standard error of :attr:`nll`."""
        return None if self.importance_bound_se is None else self.importance_bound_se / self.num_data

    @property
    def evidence_gap(self) -> float | None:
        """ln p(x) minus the ELBO: KL from guide to posterior, summed over data."""
        if self.log_likelihood is None or self.elbo is None:
            return None
        return self.log_likelihood - self.elbo

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, with the k̂ summarised."""
        values = {k: v for k, v in self.__dict__.items() if k not in ("khat", "density")} | {
            "evidence_gap": self.evidence_gap,
            "nll": self.nll,
            "nll_se": self.nll_se,
        }
        if self.khat is not None:
            finite = self.khat[self.khat.isfinite()]
            values["khat_max"] = float(finite.max()) if len(finite) else None
            values["khat_above_0.7"] = int((self.khat > 0.7).sum())
        return values

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        from zoo.reporting.notebook import text_html

        return text_html(self)

    def __str__(self) -> str:
        lines = [f"{self.num_data} data"]
        if self.log_likelihood is not None:
            lines.append(f"log-likelihood    {self.log_likelihood:.4f} (exact)")
        if self.log_density is not None:
            lines.append(f"log-density       {self.log_density:.4f} (exact; no likelihood: ln Z is not known)")
        if self.annealed is not None:
            lines.append(f"annealed          {self.annealed:.4f} ± {self.annealed_se:.4f} (log-likelihood, from above)")
            lines.append(
                f"reverse annealed  {self.reverse_annealed:.4f} ± {self.reverse_annealed_se:.4f} "
                "(log-likelihood, from below)"
            )
        if self.pseudo_likelihood is not None:
            lines.append(f"pseudo-likelihood {self.pseudo_likelihood:.4f} (each unit given all others; no likelihood)")
        if self.importance_bound is not None:
            lines.append(
                f"importance bound  {self.importance_bound:.4f} ± {self.importance_bound_se:.4f} "
                f"({self.num_samples} samples)"
            )
            lines.append(f"elbo              {self.elbo:.4f} ± {self.elbo_se:.4f}")
            if self.log_likelihood is None and self.data_se is not None:
                lines.append(
                    f"{f'-ln {self.density}, a datum':17} {self.nll:.4f} ± {self.nll_se:.4f} by the draws, "
                    f"± {self.data_se:.4f} by the data"
                )
        if self.denoising is not None:
            lines.append(
                f"denoising         {self.denoising:.4f} ± {self.denoising_se:.4f} (no bound on ln {self.density})"
            )
        if self.filtering_bound is not None:
            lines.append(
                f"filtering bound   {self.filtering_bound:.4f} ± {self.filtering_bound_se:.4f} "
                f"({self.num_particles} particles)"
            )
        if self.active_units is not None:
            lines.append(f"active units      {self.active_units} of {self.num_units}")
        if self.num_recalled is not None:
            lines.append(f"recalled          {self.num_recalled} of {self.num_data}")
            lines.append(
                f"units wrong       {self.recall_error:.4f}, "
                f"and {self.noisy_recall_error:.4f} where a tenth was turned before"
            )
        if self.khat is not None:
            lines.append(f"PSIS k̂            {int((self.khat > 0.7).sum())} of {len(self.khat)} data above 0.7")
        return "\n".join(lines + [f"note: {note}" for note in self.notes])


@exclusive
def evaluate(
    model: Any,
    x: Any,
    *,
    guide: Any = None,
    num_samples: int = 1000,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> Evaluation:
    """Score a model (or a fit) on data.

    Args:
        model: a zoo model, a fit, or a program. guide: of a program, its q(z | x), a Pyro program too.
        x: data as the model takes them. The guide of a fit that did not train it (``em``, ``eg``) is left out, as is a
            default one (tables) on other data than it was fitted to.
        num_samples: S, draws from the guide a datum.
        seed: where these come from, and the 0s and 1s of grey pixels.
        progress: told now and then which fraction of the data is scored.

    Returns:
        An :class:`Evaluation`: the exact log-likelihood where tractable, and, with a guide, the importance-weighted
        bound, the ELBO, their Monte-Carlo errors and the PSIS k̂ of each datum.

    Raises:
        ZooError: neither an exact sum nor a guide is to be had.

    Example:
        >>> fit = zoo.fit("ppca", "iris", num_factors=2, estimator="closed_form")
        >>> round(zoo.evaluate(fit, zoo.load_data("iris")).log_likelihood, 3)
        -404.963
    """
    trained = model.guide_trained if isinstance(model, Fit) else True
    model = as_model(model.model if isinstance(model, Fit) else model, guide)
    x = settled(model, prepared(model, x), seed)
    reasons = []
    with isolated(seed):
        model.create(x)
        task = Scoring(model, x, num_samples, trained and model.guide_knows(x), progress)
        for scorer in scorers():
            answer = scorer.score(task)
            if isinstance(answer, str):
                reasons.append(answer)
            else:
                task.found.update(answer)
    if not task.found:
        raise ZooError(f"evaluate: {reasons[0]}. Mend that, or pass guide=... for a bound.")
    fields = model.fields
    given = f" | {', '.join(fields.given)}" if fields.given else ""
    return Evaluation(num_data(x), **task.found, density=f"p({fields.observed[0]}{given})")
