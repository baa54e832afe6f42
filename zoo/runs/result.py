"""What comes back from a fit: parameters, scores, history; saved without a pickle."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro

from zoo.bayes.draws import Draws
from zoo.core import program
from zoo.core.contract import LatentVariableModel, lacks
from zoo.core.isolation import isolated
from zoo.runs.answers import Answers
from zoo.runs.templates import describe_template
from zoo.storage.folders import new_folder
from zoo.storage.json import to_json
from zoo.storage.tensors import write_tensors

if TYPE_CHECKING:
    from zoo.reporting.page import Figure

__all__ = ["Fit"]

FORMAT = 1


@dataclass(repr=False)
class Fit(Answers):
    """One fitted model and how it got there. Totals over the data, nats.

    Attributes:
        model: the fitted copy.
        estimator: its name. options: the estimator's options. seed: what every draw came from.
        status: "converged" (EM: gains below ``tol``; gradient estimators: a gradient below it), "stalled" (gains below
            rounding before ``tol``, or held-out data served no better), "max_iter" (the budget of iterations, epochs or
            seconds was used up), "diverged" or "interrupted".
        log_likelihood: exact ln p(x), with the latents that are known, by weight of row; None where not tractable.
        elbo: the bound at the estimator's q (equal to ``log_likelihood`` where the E step is exact); None without q.
        elbo_se: its Monte-Carlo standard error, 0 where summed exactly.
        history: columns ``objective``, ``log_likelihood``, ``elbo``, ``seconds``; one row an iteration or epoch,
            None where a run does not see the value. ``bound`` where a bound is climbed that is not the ELBO (``iwae``
            with K above 1, ``rws``, ``gumbel``, a weighted KL); ``denoising`` where it depends on noise beside the
            latents, and is none on ln p(x): such a fit has neither ``log_likelihood`` nor ``elbo``.
        iterations: rows of the history. seconds: of work, evaluation left out.
        num_data: N, or the sum of the rows' weights. num_parameters: degrees of freedom of θ.
        notes: what a user should know, a line each (a covariance floor that acts, a divergence).
        degenerate: whether a constraint acts at the solution.
        restarts: one entry for every start: seed, status, objective, degenerate, chosen, notes.
        peak_memory_mb: peak resident memory above the start of the fit, where the system tells.
        num_units: time steps of sequences, else ``num_data``; what ``bic`` takes the logarithm of.
        guide_trained: whether the estimator trained the model's guide.
        exact_q: whether the estimator's q was the exact posterior.
        warmup: what went before the first row of the history, if anything: the guide's ``steps``, their ``seconds``
            and the ``objective`` they reached.
        data: name and checksum of the data that were fitted, where known.
        draws: draws of the parameters (``nuts``, ``advi``), a :class:`~zoo.bayes.draws.Draws`; the model then holds
            their means, and the bound of ``advi`` is one on ln p(x) with the parameters integrated out.
        label: what a comparison calls it; the estimator's name elsewhere.
        x: the data that were fitted, as the model takes them; not saved: None of a fit that was loaded. template: what
            one of them looks like, which is saved.

    Example:
        >>> fit = zoo.fit("gaussian_mixture", "iris", num_components=3)
        >>> fit.status, fit.num_parameters, round(fit.log_likelihood, 4), round(fit.bic, 2)
        ('converged', 44, -180.1855, 580.84)
        >>> sorted(fit.parameters)
        ['covariances', 'means', 'weights']
    """

    model: LatentVariableModel
    estimator: str
    options: dict[str, Any]
    seed: int
    status: str
    log_likelihood: float | None
    elbo: float | None
    elbo_se: float | None
    history: dict[str, list[Any]]
    iterations: int
    seconds: float
    num_data: float
    num_parameters: int
    notes: list[str] = field(default_factory=list)
    degenerate: bool = False
    restarts: list[dict[str, Any]] = field(default_factory=list)
    peak_memory_mb: float | None = None
    guide_trained: bool = False
    exact_q: bool = False
    num_units: float = 0
    template: Any = None
    warmup: dict[str, Any] | None = None
    data: dict[str, Any] | None = None
    draws: Draws | None = None
    label: str = ""
    x: Any = field(default=None, compare=False)

    def __post_init__(self) -> None:
        self.label = self.label or self.estimator

    @property
    def columns(self) -> tuple[str, ...] | None:
        """Names of the columns that were fitted, where the data came with names; other data are read by them."""
        return self.model.schema.columns.get("") if self.model.schema is not None else None

    @property
    def symbols(self) -> tuple[str, ...] | None:
        """What the codes 0, 1, ... stand for, where the data were text."""
        return self.model.schema.symbols if self.model.schema is not None else None

    @property
    def diagnostics(self) -> dict[str, Any]:
        """What the parameters' draws say of themselves: R-hat, effective sizes, divergences; or ELBO and k-hat."""
        return {} if self.draws is None else self.draws.diagnostics

    @property
    def evidence_gap(self) -> float | None:
        """ln p(x) minus the bound: the KL from q to the exact posterior, summed over data.

        None where the bound is on another quantity, ln p(x) with the parameters integrated out.
        """
        if self.log_likelihood is None or self.elbo is None or "elbo" in self.diagnostics:
            return None
        return self.log_likelihood - self.elbo

    @property
    def aic(self) -> float | None:
        """Akaike's criterion, 2 p - 2 ln p(x); lower is better."""
        return None if self.log_likelihood is None else 2 * self.num_parameters - 2 * self.log_likelihood

    @property
    def bic(self) -> float | None:
        """Schwarz's criterion, p ln N - 2 ln p(x), N data or time steps; lower is better."""
        if self.log_likelihood is None:
            return None
        return self.num_parameters * math.log(self.num_units or self.num_data) - 2 * self.log_likelihood

    @property
    def parameters(self) -> dict[str, np.ndarray[Any, Any]]:
        """What was estimated, by name, constrained, as arrays: ``weights``, ``means``, ``covariances`` and the like.

        Parameters of a program have the names its author gave them, those with a prior their site's. Weights of
        networks have torch's names. A guide's are among them if the estimator trained it.

        Example:
            >>> fit = zoo.fit("poisson_hmm", "earthquakes", num_states=2)
            >>> fit.parameters["rates"].round(2)
            array([[26.02],
                   [15.42]])
        """
        names = None if self.guide_trained else self.model.of_program()
        if names is None and not self.guide_trained and self.template is not None:
            # A template that was saved is of zeros, which a program makes nothing of but an exact sum may refuse.
            exact = self.x is not None and lacks(self.model, "log_marginal") is None
            reached = program.reached_by_marginal if exact else program.reached_by_model
            with isolated(self.seed), pyro.validation_enabled(False):
                names = set(reached(self.model, self.template))
        values = self.model.named_values(names)
        return {name: value.detach().cpu().numpy().copy() for name, value in values.items()}

    def parameters_frame(self) -> Any:
        """:attr:`parameters` as a pandas ``DataFrame``, a row a number: ``parameter``, a column for each kind of axis
        (``component``, ``feature``: by the names of the data's columns), ``value``, and ``standard_error`` where there
        are draws of the parameters. Weights of networks are left out.

        Example:
            >>> fit = zoo.fit("poisson_hmm", "earthquakes", num_states=2)
            >>> fit.parameters_frame().tail(2)
              parameter  state  next state feature      value
            6     rates      0        <NA>   count  26.017629
            7     rates      1        <NA>   count  15.420481
        """
        from zoo.reporting.parameters import frame, parameters_of

        return frame(parameters_of(self))

    def to_inference_data(self, x: Any = None, num_draws: int = 100) -> Any:
        """ArviZ ``InferenceData``. With draws of the parameters: ``posterior``, ``sample_stats``, and, where the data
        are known, ``log_likelihood``, ``posterior_predictive`` and ``observed_data``. Else as
        ``Comparison.to_inference_data``, one chain.

        Args:
            x: the data; None takes those that were fitted, which a fit that was loaded does not have.
            num_draws: draws of the latents and of data; of data from each chain, spread evenly over its draws of the
                parameters, all of them at the most.

        Raises:
            ZooError: neither draws of the parameters nor data.
        """
        from zoo.reporting.arviz import predictive_group, to_inference_data

        if self.draws is None:
            return to_inference_data([self], self.known_data(x, "to_inference_data"), num_draws)
        if x is None and self.x is None:
            return self.draws.inference_data()
        x = self.known_data(x, "to_inference_data")
        predictive = predictive_group(self, x, min(num_draws, self.draws.num_draws), self.draws.num_chains)
        return self.draws.inference_data(self.model, x, predictive)

    def plot(self, x: Any = None, path: str | Path | None = None, *, dark: bool = False) -> Figure:
        """The main picture of the fit, read off what its model declares: a sequence by its states, components over
        the data, loadings, reconstructions, a tree and the like.

        Args:
            x: the data to show; None takes those that were fitted. A fit that was loaded does not have them.
            path: where to save it: .png, .svg or .pdf. dark: whether on dark paper.

        Returns:
            A Matplotlib figure that no backend holds; a notebook shows it.

        Raises:
            ZooError: no data, or a model without a picture.

        Example:
            >>> fit = zoo.fit("gaussian_mixture", "iris", num_components=3)
            >>> figure = fit.plot()
            >>> figure.savefig("iris.png")
        """
        from zoo.reporting.fit_pictures import main_figure

        return main_figure(self, self.known_data(x, "plot"), path, dark=dark)

    def summary(self) -> dict[str, Any]:
        """One row of a comparison: plain numbers and words.

        Example:
            >>> fit = zoo.fit("gaussian_mixture", "iris", num_components=3)
            >>> row = fit.summary()
            >>> row["estimator"], row["status"], round(row["log_likelihood"], 4)
            ('em', 'converged', -180.1855)
        """
        names = ("status", "log_likelihood", "elbo", "evidence_gap", "iterations", "seconds", "peak_memory_mb")
        return {"estimator": self.label, "seed": self.seed, **{name: getattr(self, name) for name in names}}

    def __repr__(self) -> str:
        many = f"{len(self.notes)} notes, see fit.notes" if len(self.notes) > 1 else "".join(self.notes)
        return "\n".join([*str(self).split("\n")[:2], *([f"note: {many}"] if many else [])])

    def _repr_html_(self) -> str:
        from zoo.reporting.notebook import fit_html

        return fit_html(self)

    def __str__(self) -> str:
        from zoo.reporting.text import size_text

        scores = {"log-likelihood": self.log_likelihood, "elbo": self.elbo, "bic": self.bic}
        known = [f"{name} {value:.4f}" for name, value in scores.items() if value is not None]
        size = size_text(self.num_data, self.num_units)
        lines = [
            f"{self.model.label} by {self.label}: {self.status} after {self.iterations} iterations, "
            f"{self.seconds:.2f} s",
            "   ".join([*known, f"({size}, {self.num_parameters} parameters)"]),
        ]
        return "\n".join(lines + [f"note: {note}" for note in self.notes])

    def save(self, folder: str | Path) -> Path:
        """Write ``model.safetensors`` and ``fit.json`` into a new folder; all of it or nothing.

        Raises:
            ZooError: the folder already holds something.

        Example:
            >>> fit = zoo.fit("poisson_hmm", "earthquakes", num_states=2)
            >>> place = fit.save("quakes")
            >>> zoo.load(place).log_likelihood == fit.log_likelihood
            True
        """
        with new_folder(folder) as staging:
            self.write(staging)
        return Path(folder)

    def write(self, folder: Path) -> None:
        """The files of :meth:`save`, into a folder that exists."""
        state = {name: value.detach().cpu().contiguous().clone() for name, value in self.model.state_dict().items()}
        write_tensors(state, folder / "model.safetensors")
        if self.draws is not None:
            self.draws.write(folder)
        record: dict[str, Any] = {
            "format": FORMAT,
            **self.model.saved_as(),
            "fixed": [name for name, p in self.model.named_parameters() if not p.requires_grad],
            "template": describe_template(self.template),
            "schema": None if self.model.schema is None else asdict(self.model.schema),
        }
        for name in [*SAVED, *SAVED_LATER]:
            record[name] = getattr(self, name)
        (folder / "fit.json").write_text(to_json(record))


SAVED = [
    "estimator", "options", "seed", "status", "log_likelihood", "elbo", "elbo_se", "history", "iterations", "seconds",
    "num_data", "num_parameters", "notes", "degenerate", "restarts", "peak_memory_mb", "guide_trained", "num_units",
    "exact_q",
]  # fmt: skip
#: Written since; a fit saved before has none of these.
SAVED_LATER = ["warmup", "data", "label"]
