"""Reusable families of guides q(z | x). Nothing here imports ``zoo``."""

from guides.categorical import AmortizedCategorical
from guides.chain import AmortizedChain
from guides.combiner import Combiner, Paths
from guides.discrete import AmortizedBits, AmortizedCode
from guides.finite import FiniteSupport
from guides.flows import AmortizedFlow
from guides.gaussian import AmortizedGaussian
from guides.networks import MLP, ConvDecoder, ConvEncoder, Standardize
from guides.normal import AmortizedNormal
from guides.packing import Packing, Padding
from guides.recurrent import Recurrent
from guides.relaxed import RelaxedBernoulli, RelaxedCategorical
from guides.residual import Residual, ResidualNormal
from guides.tables import DiscreteTables

__all__ = [
    "MLP",
    "AmortizedBits",
    "AmortizedCategorical",
    "AmortizedChain",
    "AmortizedCode",
    "AmortizedFlow",
    "AmortizedGaussian",
    "AmortizedNormal",
    "Combiner",
    "ConvDecoder",
    "ConvEncoder",
    "DiscreteTables",
    "FiniteSupport",
    "Packing",
    "Padding",
    "Paths",
    "Recurrent",
    "RelaxedBernoulli",
    "RelaxedCategorical",
    "Residual",
    "ResidualNormal",
    "Standardize",
]
