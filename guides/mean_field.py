"""q that gives every discrete latent of a program a table of its own: mean field, one row of logits a datum."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine

__all__ = ["MeanFieldDiscrete"]


class MeanFieldDiscrete:
    """A guide for a program without one: q(z) = prod_s q(z_s), free logits for every site and plate index.

    Not amortized: it knows the data it was made for, no others. Jordan, Ghahramani, Jaakkola & Saul (1999), "An
    introduction to variational methods for graphical models", section 4.2.

    Args:
        model: the program; its latents all have finite support.
        args, kwargs: data it runs on; the sites are looked up once.

    Raises:
        ValueError: a latent without finite support.
    """

    def __init__(self, model: Any, *args: Any, **kwargs: Any) -> None:
        with torch.no_grad(), poutine.block():
            trace = poutine.trace(model).get_trace(*args, **kwargs)
        self.sites: list[tuple[str, type, int, list[tuple[str, int, int]], bool]] = []
        for name, site in trace.nodes.items():
            if site["type"] != "sample" or site["is_observed"] or type(site["fn"]).__name__ == "_Subsample":
                continue
            fn: Any = site["fn"]
            if not fn.has_enumerate_support:
                raise ValueError(f"site {name!r} ({type(fn).__name__}) has no finite support")
            frames = [(f.name, f.size, f.dim) for f in site["cond_indep_stack"] if f.vectorized]
            number = len(fn.enumerate_support(expand=False))
            chained = bool(site["infer"].get("_markov_depth"))
            self.sites.append((name, type(fn), number, frames, chained))

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        chained = [site for site in self.sites if site[4]]
        for site in self.sites:
            if not site[4]:
                self._sample(site)
        for i in pyro.markov(range(len(chained))):
            self._sample(chained[i])

    @staticmethod
    def _sample(site: tuple[str, type, int, list[tuple[str, int, int]], bool]) -> None:
        name, family, number, frames, _ = site
        shape = [1] * max((-dim for _, _, dim in frames), default=0)
        for _, size, dim in frames:
            shape[dim] = size
        two = issubclass(family, torch.distributions.Bernoulli)
        logits = pyro.param(f"{name}.q_logits", torch.zeros(*shape, *([] if two else [number])))
        kind: Any = dist.Bernoulli if two else dist.Categorical
        if issubclass(family, torch.distributions.OneHotCategorical):
            kind = dist.OneHotCategorical
        with ExitStack() as stack:
            for plate, size, dim in frames:
                stack.enter_context(pyro.plate(plate, size, dim=dim))
            pyro.sample(name, kind(logits=logits))
