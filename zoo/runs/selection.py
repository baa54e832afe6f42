"""What comes back from ``zoo.select``: a fit at every point of a grid, and what each criterion makes of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.core.data import Data
from zoo.errors import ZooError, unknown_name
from zoo.reporting.subjects import CRITERIA
from zoo.runs.folds import HeldOutScore
from zoo.runs.grids import Point, told
from zoo.runs.result import Fit
from zoo.storage.folders import new_folder
from zoo.storage.json import to_json

if TYPE_CHECKING:
    from zoo.reporting.page import Figure

__all__ = ["Candidate", "Selection"]


@dataclass
class Candidate:
    """One point of the grid and what came of it.

    Attributes:
        point: the settings, by name.
        fit: the fit; None where it failed. reason: why it failed, or cannot be chosen; else "".
        entropy: of the posterior of the discrete latents, total, nats; None where there is none.
        held_out: the score by cross-validation, where it was asked for.
    """

    point: Point
    fit: Fit | None = None
    reason: str = ""
    entropy: float | None = None
    held_out: HeldOutScore = field(default_factory=HeldOutScore)

    @property
    def icl(self) -> float | None:
        """The integrated completed likelihood as BIC penalised by the posterior's entropy, BIC + 2 H(z | x); lower is
        better (Biernacki, Celeux & Govaert 2000; McLachlan & Peel 2000, section 6.10)."""
        bic = None if self.fit is None else self.fit.bic
        return None if bic is None or self.entropy is None else bic + 2 * self.entropy

    def value(self, criterion: str) -> float | None:
        """The value of a criterion; None where there is none.

        Args:
            criterion: "bic", "aic" or "icl", lower is better, or "cv", the mean of held-out ln p(x), higher is better.
        """
        if self.fit is None:
            return None
        values = {"bic": self.fit.bic, "aic": self.fit.aic, "icl": self.icl, "cv": self.held_out.mean}
        value = values[criterion]
        return None if value is None or math.isnan(value) else value

    @property
    def row(self) -> dict[str, Any]:
        """Plain numbers and words."""
        fitted = self.fit
        names = ("status", "log_likelihood", "num_parameters", "bic", "aic")
        return {
            **self.point,
            **{name: None if fitted is None else getattr(fitted, name) for name in names},
            "icl": self.icl, "cv": self.held_out.mean, "cv_se": self.held_out.se,
            "status": "failed" if fitted is None else fitted.status,
            "seconds": None if fitted is None else fitted.seconds,
            "reason": self.reason or self.held_out.reason,
        }  # fmt: skip


@dataclass(repr=False)
class Selection:
    """Fits of one model over a grid of settings, and what each criterion makes of them.

    Attributes:
        model: the model's name. data: the data's name. num_data: N.
        candidates: one for each point of the grid, the last name's values running fastest.
        criterion: "bic", "aic", "icl" or "cv": what :attr:`best` goes by.
        folds: of cross-validation; None where there was none.
        x: the data. seed: what every draw came from.
        notes: what a user should know, a line each. interrupted: whether it was stopped before all was done.

    Raises:
        ZooError: :attr:`best`, :attr:`chosen` and :meth:`chosen_by`, where no point has a value of the criterion: the
            model has no likelihood, and no folds were asked for.
    """

    model: str
    data: str
    num_data: float
    candidates: list[Candidate]
    criterion: str = "bic"
    folds: int | None = None
    seed: int = 0
    x: Data = None
    notes: list[str] = field(default_factory=list)
    interrupted: bool = False

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One plain row a point: its settings, ``log_likelihood``, ``bic``, ``aic``, ``icl``, ``cv``, ``cv_se``, ..."""
        return [each.row for each in self.candidates]

    @property
    def table(self) -> Any:
        """:attr:`rows` as a pandas ``DataFrame``."""
        import pandas

        return pandas.DataFrame(self.rows)

    @property
    def fits(self) -> list[Fit]:
        """The fits that there are, in the grid's order."""
        return [each.fit for each in self.candidates if each.fit is not None]

    @property
    def names(self) -> list[str]:
        """The names that the grid varies."""
        return list(self.candidates[0].point)

    @property
    def known(self) -> list[str]:
        """The criteria that some point has a value of."""
        return [name for name in CRITERIA if any(each.value(name) is not None for each in self.candidates)]

    @property
    def without(self) -> str:
        """What there is for a model that no criterion knows: its bound on data left out, or nothing."""
        if all(this.elbo is None for this in self.fits):
            return "It has no bound of one either: compare its fits by what they are for."
        if self.folds is not None:
            return "Compare the bounds of its fits."
        return "Ask for 5 folds: the bound of data left out (cv) chooses then."

    def chosen_by(self, criterion: str) -> Candidate:
        """The point that a criterion prefers: sound fits before those at which a constraint acts, these before what
        diverged; of equally good ones the one of fewest parameters.

        Args:
            criterion: "bic", "aic", "icl" or "cv".

        Raises:
            ZooError: a criterion that is not known, or that no point has a value of.
        """
        if criterion not in CRITERIA:
            raise unknown_name("criterion", criterion, CRITERIA)
        sign = -1.0 if criterion == "cv" else 1.0

        def order(each: Candidate) -> tuple[bool, bool, float, int]:
            fitted, value = each.fit, each.value(criterion)
            assert fitted is not None
            assert value is not None
            return fitted.status == "diverged", fitted.degenerate, round(sign * value, 4), fitted.num_parameters

        able = [each for each in self.candidates if each.value(criterion) is not None]
        if not able:
            raise ZooError(f"select: {criterion} expected a likelihood, got none for {self.model}. {self.without}")
        return min(able, key=order)

    @property
    def best(self) -> Fit:
        """The fit that ``criterion`` prefers, see :meth:`chosen_by`.

        Raises:
            ZooError: no point has a value of the criterion.
        """
        fitted = self.chosen_by(self.criterion).fit
        assert fitted is not None
        return fitted

    @property
    def chosen(self) -> Point:
        """The settings of :attr:`best`.

        Raises:
            ZooError: no point has a value of the criterion.
        """
        return self.chosen_by(self.criterion).point

    def to_dict(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        best = {name: self.chosen_by(name).point for name in self.known}
        found = {name: getattr(self, name) for name in ("model", "data", "num_data", "criterion", "folds", "seed")}
        return {**found, "best": best, "rows": self.rows, "notes": self.notes}

    def __repr__(self) -> str:
        best = f", best by {self.criterion}: {told(self.chosen)}" if self.criterion in self.known else ""
        return f"{self.model} on {self.data}: {len(self.candidates)} settings{best}\nprint it for the table"

    def _repr_html_(self) -> str:
        from zoo.reporting.notebook import selection_html

        return selection_html(self)

    def __str__(self) -> str:
        from zoo.reporting.selection import selection_text

        return selection_text(self)

    def plot(self, path: str | Path | None = None, *, dark: bool = False) -> Figure:
        """The curve of each criterion over the grid's sizes, a figure that a notebook shows.

        Args:
            path: where to save it: .png, .svg or .pdf. dark: whether on dark paper.
        """
        from zoo.reporting.page import as_figure
        from zoo.reporting.selection_picture import plot_selection

        return as_figure(lambda folder: plot_selection(self, folder / "selection.png", dark=dark), path)

    def save(self, folder: str | Path) -> Path:
        """Write ``selection.json``, ``selection.csv``, pictures, ``report.html`` and the best fit's folder ``best``
        into a new folder; all or nothing.

        Raises:
            ZooError: the folder already holds something.
        """
        with new_folder(folder) as staging:
            self.write(staging)
        return Path(folder)

    def write(self, folder: Path) -> None:
        """The files of :meth:`save`, into a folder that exists."""
        from zoo.reporting.selection import write_selection

        (folder / "selection.json").write_text(to_json(self.to_dict()), encoding="utf-8")
        self.table.to_csv(folder / "selection.csv", index=False)
        if self.criterion in self.known:
            (folder / "best").mkdir()
            self.best.write(folder / "best")
        write_selection(self, folder)
