"""Families of components: K ways to emit a row of D features, shared by mixtures and hidden Markov models."""

from zoo.components.base import Components, cluster
from zoo.components.bernoulli import BernoulliComponents
from zoo.components.gaussian import GaussianComponents
from zoo.components.poisson import PoissonComponents

__all__ = ["BernoulliComponents", "Components", "GaussianComponents", "PoissonComponents", "cluster"]
