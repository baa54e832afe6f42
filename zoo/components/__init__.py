"""Families of components: K ways to emit a row of D features, shared by mixtures and hidden Markov models."""

from zoo.components.base import Components
from zoo.components.bernoulli import BernoulliComponents
from zoo.components.categorical import CategoricalComponents
from zoo.components.gaussian import GaussianComponents
from zoo.components.gaussian_mixture import GaussianMixtureComponents
from zoo.components.poisson import PoissonComponents

__all__ = [
    "BernoulliComponents",
    "CategoricalComponents",
    "Components",
    "GaussianComponents",
    "GaussianMixtureComponents",
    "PoissonComponents",
]
