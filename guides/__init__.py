"""Reusable families of guides q(z | x). Nothing here imports ``zoo``."""

from guides.categorical import AmortizedCategorical
from guides.gaussian import AmortizedGaussian
from guides.networks import MLP
from guides.relaxed import RelaxedBernoulli, RelaxedCategorical

__all__ = ["MLP", "AmortizedCategorical", "AmortizedGaussian", "RelaxedBernoulli", "RelaxedCategorical"]
