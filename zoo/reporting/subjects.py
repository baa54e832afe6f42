"""What is shown: as much of a fit and of a comparison as pictures, tables and pages read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

__all__ = ["CRITERIA", "DRAWS", "Compared", "Fitted", "Selecting"]


class Fitted(Protocol):
    """A fit; what each attribute says stands in :class:`zoo.Fit`."""

    model: Any
    estimator: str
    label: str
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
    num_units: float
    num_parameters: int
    notes: list[str]
    degenerate: bool
    restarts: list[dict[str, Any]]
    peak_memory_mb: float | None
    draws: Any
    template: Any
    guide_trained: bool
    data: Any

    @property
    def parameters(self) -> dict[str, Any]: ...
    @property
    def evidence_gap(self) -> float | None: ...
    @property
    def aic(self) -> float | None: ...
    @property
    def bic(self) -> float | None: ...
    def transform(self, x: Any) -> Any: ...
    def predict_proba(self, x: Any) -> Any: ...
    def score_samples(self, x: Any) -> Any: ...
    def posterior(self, x: Any) -> Any: ...
    def predict(self, x: Any) -> Any: ...
    def discrete_posterior(self, x: Any) -> Any: ...
    def posterior_predictive(self, x: Any = None, num_draws: int = 100) -> Any: ...
    def sample(self, n: int, seed: int | None = None) -> Any: ...


class Compared(Protocol):
    """A comparison; see :class:`zoo.Comparison`."""

    model: str
    data: str
    num_data: float
    x: Any
    notes: list[str]

    @property
    def fits(self) -> Sequence[Any]: ...
    @property
    def estimators(self) -> Sequence[str]: ...
    @property
    def gradients(self) -> Sequence[Any]: ...
    @property
    def best(self) -> Any: ...
    @property
    def score_kind(self) -> str: ...
    @property
    def weighted_bounds(self) -> Any: ...
    @property
    def annealed(self) -> Any: ...
    def score(self, fit: Any) -> float | None: ...
    def best_of(self, fits: Any) -> Any: ...


class Selecting(Protocol):
    """A selection; see :class:`zoo.Selection`."""

    model: str
    data: str
    num_data: float
    criterion: str
    folds: int | None
    x: Any
    notes: list[str]

    @property
    def candidates(self) -> Sequence[Any]: ...
    @property
    def names(self) -> list[str]: ...
    @property
    def known(self) -> list[str]: ...
    @property
    def best(self) -> Any: ...
    def chosen_by(self, criterion: str) -> Any: ...


#: What models of different sizes are compared by: of the first three lower is better, of "cv" higher.
CRITERIA = ("bic", "aic", "icl", "cv")
#: Draws a datum of the bounds that fits without a known evidence are ranked by.
DRAWS = 100
