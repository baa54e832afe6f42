"""How unsure a model is of its discrete latents: the entropy of their posterior."""

from __future__ import annotations

from typing import Any

import torch

from zoo.automatic.posteriors import discrete_posterior
from zoo.core import program
from zoo.core.contract import LatentVariableModel, lacks
from zoo.core.data import Data, call
from zoo.core.isolation import isolated
from zoo.core.pieces import by_pieces
from zoo.errors import ZooError

__all__ = ["posterior_entropy"]


def posterior_entropy(model: LatentVariableModel, x: Data, seed: int = 0) -> float | None:
    """The entropy of p(z | x) of all discrete latents together, total over the data, nats.

    Of whole paths or trees where the latents are one; None where p(z | x) is not discrete, or no exact sum is to be
    had.

    Args:
        x: data as the model takes them.
        seed: of the random numbers that a program's first run draws.
    """
    with isolated(seed), torch.no_grad():
        if lacks(model, "structure") is None:
            structure: Any = call(model.structure, x) if model.fields.given else model.structure(x)
            return float(structure.entropy().sum())
        if lacks(model, "posterior") is None:
            answer: Any = by_pieces(model, x, lambda piece: call(model.posterior, piece), "posterior")
            if isinstance(answer, dict) or not getattr(answer, "has_enumerate_support", False):
                return None
            return float(answer.entropy().sum())
    try:
        with isolated(seed):
            sites = program.latent_sites(model, x)
        if not sites or not all(site.discrete for site in sites):
            return None
        return discrete_posterior(model, x, seed=seed).joint_entropy
    except ZooError:
        return None
