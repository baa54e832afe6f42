"""``zoo.as_sklearn``: a model and how it is fitted, as an estimator that scikit-learn's pipelines and searches take."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.core.contract import LatentVariableModel
from zoo.core.unsized import SIZES, Unsized
from zoo.errors import ZooError, unknown_name
from zoo.estimators import option_names
from zoo.models import find_model
from zoo.runs.fit import fit
from zoo.runs.result import Fit

__all__ = ["as_sklearn"]

#: What every fit takes, and what it is unless said.
COMMON: dict[str, Any] = {"estimator": None, "seed": 0, "init": None, "restarts": None}


def as_sklearn(model: Any, **options: Any) -> Any:
    """A model of rows as an estimator of scikit-learn: it clones, and sits in a ``Pipeline`` and a ``GridSearchCV``.

    It has ``fit`` and ``score`` (mean ln p(x) a row, nats) and ``score_samples``; where the latent is a label
    ``predict``, ``fit_predict`` and ``predict_proba``, where it is a vector ``transform``; and ``bic``, ``aic``,
    ``sample``. ``fit_`` is the :class:`zoo.Fit`. Sizes are read off the data.

    Args:
        model: the name or class of a model, or one with open sizes, ``zoo.GaussianMixture(num_components=3)``.
        options: arguments of the model, of ``zoo.fit`` and of its estimator. All of the model's, and ``estimator``,
            ``seed``, ``init`` and ``restarts``, can be searched over; of an estimator's options those named here.

    Raises:
        ZooError: a model that is not known, or an option that neither it nor any estimator has.

    Example:
        >>> x = zoo.load_data("iris").numpy()
        >>> model = zoo.as_sklearn("gaussian_mixture", num_components=3).fit(x)
        >>> round(float(model.score(x)), 4), model.predict(x)[::50]
        (-1.2012, array([0, 1, 2]))
    """
    if isinstance(model, Unsized):
        model, options = model.kind, {**model.arguments, **options}
    kind = find_model(model) if isinstance(model, str) else model
    if not (inspect.isclass(kind) and issubclass(kind, LatentVariableModel)):
        raise ZooError(f"as_sklearn expected the name or class of a model, got {kind!r}. Take 'gaussian_mixture'.")
    usual = {**_arguments(kind), **COMMON}
    known = option_names()
    more = sorted(set(options) - set(usual))
    for name in more:
        if name not in known:
            raise unknown_name(f"option of {kind.__name__}", name, {*usual, *known})
    return _class_of(kind, tuple(more))(**options)


def _arguments(kind: Any) -> dict[str, Any]:
    """The arguments of a model but for its sizes, with their defaults; None where one has to be said."""
    named = (p for p in inspect.signature(kind).parameters.values() if p.name not in SIZES)
    return {p.name: None if p.default is p.empty else p.default for p in named}


class _OfRows:
    """What all of these estimators do; each class knows its ``kind`` of model and the ``more`` options it has."""

    kind: Any
    more: tuple[str, ...]
    fit_: Fit

    def __reduce__(self) -> tuple[Any, ...]:
        state: Any = self.__getstate__()
        return _unpickled, (self.kind, self.more), state

    def fit(self, X: Any, y: Any = None) -> Any:
        """Fit the model to rows (N, D); y is not looked at."""
        rows = _validated(self, X, reset=True)
        said = vars(self)
        needed = {p.name for p in inspect.signature(self.kind).parameters.values() if p.default is p.empty}
        # None stands for what nobody said: where it has to be, the model asks for it.
        arguments = {name: said[name] for name in _arguments(self.kind) if said[name] is not None or name not in needed}
        options = {name: said[name] for name in (*COMMON, *self.more)}
        self.fit_ = fit(self.kind, rows, **arguments, **options)
        self.n_iter_ = self.fit_.iterations
        return self

    def _asked(self, X: Any) -> tuple[Fit, NDArray[np.float64]]:
        from sklearn.utils.validation import check_is_fitted

        check_is_fitted(self, "fit_")
        return self.fit_, _validated(self, X, reset=False)

    def score_samples(self, X: Any) -> NDArray[np.float64]:
        """ln p(x) of each row, (N,), nats."""
        this, rows = self._asked(X)
        return np.asarray(this.score_samples(rows))

    def score(self, X: Any, y: Any = None) -> float:
        """Mean ln p(x) a row, nats."""
        return float(self.score_samples(X).mean())

    def bic(self, X: Any) -> float:
        """Bayes' information criterion on rows, lower is better."""
        return self.fit_.num_parameters * float(np.log(len(X))) - 2 * float(self.score_samples(X).sum())

    def aic(self, X: Any) -> float:
        """Akaike's information criterion on rows, lower is better."""
        return 2 * self.fit_.num_parameters - 2 * float(self.score_samples(X).sum())

    def sample(self, n_samples: int = 1) -> NDArray[np.float64]:
        """New rows, (n_samples, D)."""
        from sklearn.utils.validation import check_is_fitted

        check_is_fitted(self, "fit_")
        return np.asarray(self.fit_.sample(n_samples))


class _WithLabels(_OfRows):
    """A latent that is a label."""

    def predict(self, X: Any) -> NDArray[np.int64]:
        """The most probable label of each row, (N,)."""
        this, rows = self._asked(X)
        return np.asarray(this.predict(rows))

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """p(label | x), (N, K)."""
        this, rows = self._asked(X)
        return np.asarray(this.predict_proba(rows))

    def fit_predict(self, X: Any, y: Any = None) -> NDArray[np.int64]:
        """Fit, then the labels of the same rows."""
        labels: NDArray[np.int64] = self.fit(X).predict(X)
        return labels


class _WithCodes(_OfRows):
    """A latent that is a vector."""

    def transform(self, X: Any) -> NDArray[np.float64]:
        """E[z | x] of each row, (N, L)."""
        this, rows = self._asked(X)
        return np.asarray(this.transform(rows))

    @property
    def _n_features_out(self) -> int:
        return int(self.fit_.transform(np.zeros((1, self.fit_.model.num_features))).shape[-1])


@functools.cache
def _class_of(kind: Any, more: tuple[str, ...]) -> Any:
    """The class of a kind of model whose parameters are its arguments, those of every fit, and ``more``."""
    from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, DensityMixin, TransformerMixin

    usual = {**_arguments(kind), **COMMON, **dict.fromkeys(more)}
    parameters = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=v) for name, v in usual.items()]
    me = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)

    def __init__(self: Any, **options: Any) -> None:
        bound = init.__signature__.bind(self, **options)
        for name, default in usual.items():
            setattr(self, name, bound.arguments.get(name, default))

    init: Any = __init__
    init.__signature__ = inspect.Signature([me, *parameters])
    labels = kind.per_component is not None
    mixed = (DensityMixin,) if labels else (ClassNamePrefixFeaturesOutMixin, TransformerMixin)
    bases = (_WithLabels if labels else _WithCodes, *mixed, BaseEstimator)
    words = {"__init__": init, "kind": kind, "more": more, "__doc__": kind.__doc__, "__module__": __name__}
    return type(kind.__name__, bases, words)


def _unpickled(kind: Any, more: tuple[str, ...]) -> Any:
    cls = _class_of(kind, more)
    return cls.__new__(cls)


def _validated(estimator: Any, X: Any, reset: bool) -> NDArray[np.float64]:
    """Rows as scikit-learn checks them; the names of a frame's columns are remembered, and compared later."""
    options: dict[str, Any] = {"reset": reset, "dtype": np.float64, "ensure_min_samples": 2 if reset else 1}
    try:
        from sklearn.utils.validation import validate_data
    except ImportError:  # before scikit-learn 1.6
        return np.asarray(estimator._validate_data(X, **options))
    return np.asarray(validate_data(estimator, X, **options))
