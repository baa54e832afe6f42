"""What a fitted model answers: latents, labels, probabilities, scores, draws; the methods of a fit that take data."""

from __future__ import annotations

import functools
from numbers import Integral
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.core.checks import positive
from zoo.core.contract import LatentVariableModel, lacks
from zoo.core.data import Data, call
from zoo.core.hooks import settled
from zoo.core.isolation import isolated
from zoo.core.pieces import by_pieces
from zoo.core.sequences import blank_beyond, in_steps
from zoo.core.turns import exclusive
from zoo.errors import ZooError
from zoo.runs.drawing import filtered, forecast_probs, forecasts, new_data, new_sequences
from zoo.runs.reading import prepared
from zoo.scores.impossible import warn_of_impossible

if TYPE_CHECKING:
    from zoo.automatic.posteriors import DiscretePosterior
    from zoo.bayes.draws import Draws
    from zoo.runs.latents import Latents

__all__ = ["Answers"]


class Answers:
    """A fitted model and whether its guide was trained; :class:`zoo.Fit` says what each attribute is.

    Args of every method:
        x: data as the model takes them: arrays, tensors, data frames (columns by name), sequences; or the path of a
            file. Data that are none for the model are refused, a ZooError that names the rows.
    """

    model: LatentVariableModel
    estimator: str
    seed: int
    guide_trained: bool
    template: Any
    x: Any
    draws: Draws | None

    @exclusive
    def posterior(self, x: Any) -> Any:
        """p(z | x) of every datum's latents: a distribution, or a dict of them by site where there are several.

        Exact wherever it can be had: the model's own posterior, else the marginals of its discrete latents by
        enumeration (numbered in the order of their support). Else the guide's q(z | x), if this fit trained it;
        discrete latents that the guide leaves out are enumerated at its point (the median, or mean, of its continuous
        draws). A continuous latent in no plate of the data is a parameter with a prior: named only where there is no
        other latent.

        Warns of data of probability zero: they have no posterior, and what is returned for them says nothing.

        Raises:
            ZooError: neither an exact posterior nor a trained guide is to be had.

        Example:
            >>> fit = zoo.fit("gaussian_mixture", "iris", num_components=3)
            >>> fit.posterior(zoo.load_data("iris")).probs.shape
            torch.Size([150, 3])
        """
        x = prepared(self.model, x)
        warn_of_impossible("posterior", self.model, x)
        with isolated(self.seed), torch.no_grad():
            return by_pieces(self.model, x, self._posterior, "posterior")

    @exclusive
    def structure(self, x: Any) -> Any:
        """p(z | x) of whole paths, a :class:`zoo.structures.Structure`; ``posterior`` has the marginals of steps.

        Raises:
            ZooError: the model's latents are no such structure.

        Example:
            >>> fit = zoo.fit("poisson_hmm", "earthquakes", num_states=2)
            >>> fit.structure(zoo.load_data("earthquakes")).log_partition().round(decimals=3)
            tensor([-341.8790], dtype=torch.float64)
        """
        if (reason := lacks(self.model, "structure")) is not None:
            raise ZooError(f"structure: expected a model whose latents are one, but {reason}. Use posterior.")
        return self.model.structure(prepared(self.model, x))

    def _posterior(self, x: Data) -> Any:
        if lacks(self.model, "posterior") is None:
            return call(self.model.posterior, x)
        return _alone(self._latents(x).by_site)

    def _latents(self, x: Data) -> Latents:
        from zoo.runs.latents import latents

        return latents(self.model, x, trained=self.guide_trained, estimator=self.estimator, seed=self.seed)

    def discrete_posterior(self, x: Any) -> DiscretePosterior:
        """Marginals, mode, draws and entropy of the discrete latents given x, exact by enumeration of the program.

        Raises:
            ZooError: no discrete latent, or too many values to sum over.

        Example:
            >>> fit = zoo.fit("gaussian_mixture", "iris", num_components=3)
            >>> round(fit.discrete_posterior(zoo.load_data("iris")).log_evidence, 3)
            -180.185
        """
        from zoo.automatic.posteriors import discrete_posterior

        return discrete_posterior(self.model, x, seed=self.seed)

    @exclusive
    def predict(self, x: Any) -> Any:
        """The most probable z of each datum: labels (N,) or a posterior mean (N, latent_dim); a dict of them by site
        where there are several latents.

        A label is the number of a value in the order of its site's support. Several discrete latents are decoded
        jointly (the path of a chain is Viterbi's), as far as their posterior is exact; see :meth:`posterior`. A model
        of p(observed | given) that offers ``predict`` predicts from what is given, which may come alone.

        Raises:
            ZooError: neither an exact posterior nor a trained guide is to be had.

        Example:
            >>> fit = zoo.fit("gaussian_mixture", "iris", num_components=3)
            >>> fit.predict(zoo.load_data("iris"))[::25]
            tensor([0, 0, 1, 1, 2, 2])
        """
        if lacks(self.model, "predict") is None:
            given_alone = bool(self.model.fields.given)
            x = prepared(self.model, x, given_alone=given_alone)
            if not given_alone:
                warn_of_impossible("predict", self.model, x)
            with torch.no_grad():
                return by_pieces(self.model, x, self._labels, "predict")
        if lacks(self.model, "posterior") is None:
            from zoo.runs.latents import most_probable

            q = self.posterior(x)
            return {n: most_probable(one) for n, one in q.items()} if isinstance(q, dict) else most_probable(q)
        x = prepared(self.model, x)
        warn_of_impossible("predict", self.model, x)
        return by_pieces(self.model, x, lambda piece: _alone(self._latents(piece).most_probable()))

    def _labels(self, x: Data) -> Tensor:
        labels: Tensor = call(self.model.predict, x)
        return labels

    @exclusive
    def predict_proba(self, x: Any) -> Tensor:
        """Probabilities of the values of one discrete latent, (N, K); of the states of a chain, (N, T, K).

        Raises:
            ZooError: the latent is continuous, or there are several.

        Example:
            >>> fit = zoo.fit("gaussian_mixture", "iris", num_components=3)
            >>> fit.predict_proba(zoo.load_data("iris"))[77].round(decimals=3)
            tensor([0.0000, 0.3290, 0.6710], dtype=torch.float64)
        """
        if lacks(self.model, "state_probs") is None:
            x = prepared(self.model, x)
            states: Tensor = by_pieces(self.model, x, lambda piece: call(self.model.state_probs, piece))
            return states
        from zoo.runs.latents import value_probs

        return value_probs(self.posterior(x))

    @exclusive
    def transform(self, x: Any, num_samples: int = 100) -> Tensor:
        """E[z | x] of a continuous latent, (N, L): factor scores, codes, of a Boltzmann machine p(hidden unit is on);
        what an autoencoder makes of the data, (N, H).
        Of sequences (N, T, L), NaN beyond a length.

        Exact where the posterior is, else of the guide's q if this fit trained it.

        Args:
            num_samples: draws a datum for a mean that has no formula.

        Raises:
            ZooError: the latent is discrete, or there are several.

        Example:
            >>> fit = zoo.fit("factor_analysis", "iris", num_factors=1)
            >>> fit.transform(zoo.load_data("iris")).shape
            torch.Size([150, 1])
        """
        if lacks(self.model, "encoded") is None:
            codes: Tensor = by_pieces(self.model, prepared(self.model, x), self.model.encoded, "transform")
            return codes
        lacking = lacks(self.model, "posterior_means")
        if lacks(self.model, "posterior") is not None and lacking is None:
            if self.model.has_guide and not self.guide_trained:
                raise ZooError(f"transform: its guide was not trained by {self.estimator}. Fit by svi.")
            hook: Any = self.model.posterior_means
            data = settled(self.model, prepared(self.model, x), self.seed)
            with isolated(self.seed), torch.no_grad():
                means: Tensor = by_pieces(
                    self.model, data, lambda piece: call(functools.partial(hook, num_samples=num_samples), piece)
                )
            return means
        found = self.predict(x)
        if isinstance(found, dict) and (steps := in_steps(found)) is not None:
            data = prepared(self.model, x)
            return blank_beyond(steps, data.get("lengths") if isinstance(data, dict) else None)
        if isinstance(found, dict) or not found.is_floating_point():
            got = f"several, {', '.join(found)}" if isinstance(found, dict) else "a discrete one"
            raise ZooError(f"transform: expected a continuous latent, got {got}. Use predict or predict_proba.")
        return found

    @exclusive
    def viterbi(self, x: Any) -> tuple[Tensor, Tensor]:
        """Of a chain of states: the most probable path (N, T), -1 beyond a length, and ln p(path, x), (N,) nats.

        Raises:
            ZooError: the model's latents are no chain whose paths can be summed.

        Example:
            >>> fit = zoo.fit("poisson_hmm", "earthquakes", num_states=2)
            >>> path, log_joint = fit.viterbi(zoo.load_data("earthquakes"))
            >>> path.shape, log_joint.round(decimals=2)
            (torch.Size([1, 107]), tensor([-346.6200], dtype=torch.float64))
        """
        if (reason := lacks(self.model, "viterbi")) is not None:
            raise ZooError(f"viterbi: expected a model with a chain of states, but {reason}. Use predict.")
        path: tuple[Tensor, Tensor] = self.model.viterbi(prepared(self.model, x))
        return path

    @exclusive
    def score_samples(self, x: Any) -> Tensor:
        """Exact ln p(x) of each row or sequence, (N,), nats.

        Raises:
            ZooError: ln p(x) is not tractable, or is no sum over data.

        Example:
            >>> fit = zoo.fit("gaussian_mixture", "iris", num_components=3)
            >>> fit.score_samples(zoo.load_data("iris"))[:3].round(decimals=3)
            tensor([1.5710, 0.7380, 1.1440], dtype=torch.float64)
        """
        from zoo.scores.evidence import row_log_likelihoods

        x = prepared(self.model, x)
        with isolated(self.seed):
            scores = row_log_likelihoods(self.model, x)
        if scores is not None:
            warn_of_impossible("score_samples", self.model, x, scores)
        if scores is None:
            raise ZooError(
                "score_samples: expected a model whose ln p(x) is tractable, got one with a bound alone. "
                "zoo.evaluate(fit, x) estimates it."
            )
        return scores

    @exclusive
    def score(self, x: Any) -> float | None:
        """Exact total ln p(x) of other data, nats; None where not tractable. Warns where it is -inf, and says why.

        Raises:
            ZooError: ``x`` is no data for the model.

        Example:
            >>> fit = zoo.fit("gaussian_mixture", "iris", num_components=3)
            >>> round(fit.score(zoo.load_data("iris")[:100]), 3)
            -69.783
        """
        from zoo.scores.evidence import exact_log_likelihood

        x = prepared(self.model, x)
        with isolated(self.seed):
            exact = exact_log_likelihood(self.model, x)
        if exact is not None:
            warn_of_impossible("score", self.model, x, exact)
        return None if exact is None else float(exact.sum())

    @exclusive
    def sample(self, n: int | None = None, seed: int | None = None, given: Any = None, lengths: Any = None) -> Data:
        """``n`` new data from p(x), in the shape of the data that were fitted; of p(observed | given) one for each row
        of ``given``.

        Args:
            lengths: of sequences, (n,) whole numbers, or "data": drawn from those of the data that were fitted. The
                draws come then as x (n, T, D), zero beyond a length, and lengths (n,), by name. None: all as long as
                the longest of the data. seed: of the draws; None takes the fit's.

        Raises:
            ZooError: a model of p(observed | given) without ``given``; lengths of what is no sequence.

        Example:
            >>> fit = zoo.fit("gaussian_mixture", "iris", num_components=3)
            >>> fit.sample(5).shape
            torch.Size([5, 4])
        """
        if self.template is None:
            raise ZooError("sample: this fit does not know the shape of its data. Fit again with this version.")
        seed = self.seed if seed is None else seed
        if n is not None:
            positive(int(n) if isinstance(n, Integral) else n, "n", "sample")
        if lengths is not None:
            return new_sequences(self.model, self.template, n, lengths, seed, self.x)
        return new_data(self.model, self.template, n, given, seed)

    @exclusive
    def posterior_predictive(
        self, x: Any = None, num_draws: int = 100, seed: int | None = None
    ) -> Tensor | dict[str, Tensor]:
        """Draws of what each datum might have been: of z from its posterior, then of x given z,
        ``(num_draws, *data)``; a dict of them by site where several are observed.

        z is drawn from its exact posterior wherever that is to be had, else from the guide's q if this fit trained it;
        of a fit with draws of its parameters (``nuts``, ``advi``) each at one of these, spread evenly over all of them.
        What a program reads of the data but does not observe (inputs, lengths, earlier tokens) stays as it is. What is
        missing is drawn like the rest; beyond a length there is NaN, of whole numbers -1.

        Args:
            x: the data; None takes those that were fitted, which a fit that was loaded does not have.
            num_draws: at least 1. seed: of the draws; None takes the fit's, here and elsewhere.

        Raises:
            ZooError: no data; a program that is no density of data; latents without a posterior.

        Example:
            >>> fit = zoo.fit("gaussian_mixture", "iris", num_components=3)
            >>> fit.posterior_predictive(num_draws=20).shape
            torch.Size([20, 150, 4])
        """
        from zoo.runs.predictive import predictive_draws

        positive(num_draws, "num_draws", "posterior_predictive")
        x = settled(self.model, self.known_data(x, "posterior_predictive"), self.seed)
        warn_of_impossible("posterior_predictive", self.model, x)
        with isolated(self.seed if seed is None else seed):
            return predictive_draws(self.model, x, num_draws, trained=self.guide_trained, draws=self.draws)

    def known_data(self, x: Any, who: str) -> Data:
        """Data as the model takes them; those that were fitted where ``x`` is None. An error begins with ``who``.

        Raises:
            ZooError: there are none: a fit is saved without its data.
        """
        if x is None and self.x is None:
            raise ZooError(f"{who}: expected the data, which a fit that was loaded does not hold. Pass x=...")
        return self.x if x is None else prepared(self.model, x)

    @exclusive
    def filter(self, x: Any) -> Tensor:
        """Of sequences, what x_1..x_t say of z_t: its mean, (N, T, L), by particles; of a chain of states p(z_t = k),
        (N, T, K), exact.

        Raises:
            ZooError: the model is not one of sequences that can be filtered.

        Example:
            >>> fit = zoo.fit("poisson_hmm", "earthquakes", num_states=2)
            >>> fit.filter(zoo.load_data("earthquakes"))[0, -1].round(decimals=3)
            tensor([0.0010, 0.9990], dtype=torch.float64)
        """
        return filtered(self.model, x, self.seed)

    @exclusive
    def forecast(self, x: Any, num_steps: int, num_samples: int = 100, seed: int | None = None) -> Tensor:
        """Draws, from ``seed`` or the fit's, of the ``num_steps`` frames that follow each sequence, (num_samples, N,
        num_steps, D), or tokens (num_samples, N, num_steps).

        Raises:
            ZooError: the model is not one of sequences that can be gone on with.

        Example:
            >>> fit = zoo.fit("poisson_hmm", "earthquakes", num_states=2)
            >>> fit.forecast(zoo.load_data("earthquakes"), num_steps=3).shape
            torch.Size([100, 1, 3, 1])
        """
        return forecasts(self.model, x, num_steps, num_samples, self.seed if seed is None else seed)

    @exclusive
    def forecast_probs(self, x: Any, num_steps: int = 1) -> Tensor:
        """Exact p(x_{T+h} = v | x_1..x_T) of the tokens that follow each sequence, (N, num_steps, V).

        Raises:
            ZooError: the model is not one of tokens, or sums over the tokens between no further than one step.
        """
        return forecast_probs(self.model, x, num_steps)


def _alone(by_site: dict[str, Any]) -> Any:
    return next(iter(by_site.values())) if len(by_site) == 1 else by_site
