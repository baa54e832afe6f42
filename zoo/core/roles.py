"""Which parameters p(x, z) depends on, and which q(z | x)."""

from __future__ import annotations

import torch
from pyro import poutine
from torch import Tensor

from zoo.core.contract import LatentVariableModel
from zoo.core.data import Data, call
from zoo.core.sites import sample_sites

__all__ = ["parameter_roles", "reached_by_model"]


def reached_by_model(model: LatentVariableModel, x: Data) -> list[str]:
    """Names of the parameters that p(x, z) depends on, found by differentiating at a draw of z from the model."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    log_joint = torch.as_tensor(poutine.trace(lambda: call(model.model, x)).get_trace().log_prob_sum())
    if not log_joint.requires_grad:
        return []
    grads = torch.autograd.grad(log_joint, [p for _, p in named], allow_unused=True)
    return [name for (name, _), grad in zip(named, grads, strict=True) if grad is not None]


def parameter_roles(model: LatentVariableModel, x: Data) -> tuple[list[str], list[str]]:
    """Names of the parameters that p(x, z) depends on (θ), and of those that q(z | x) depends on (ψ).

    Found by differentiating, so shared parameters are in both and unused ones in neither.
    """
    x = model.probe(x)
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    parameters = [p for _, p in named]

    def reached(output: Tensor) -> list[str]:
        if not output.requires_grad or not parameters:
            return []
        grads = torch.autograd.grad(output, parameters, allow_unused=True)
        return [name for (name, _), grad in zip(named, grads, strict=True) if grad is not None]

    with torch.random.fork_rng(devices=[]):
        if model.has_guide:
            guide_trace = poutine.trace(lambda: call(model.guide, x)).get_trace()
            guide_trace.compute_log_prob()
            latents = sample_sites(guide_trace)
            drawn = [s["value"].sum() for s in latents.values() if s["value"].requires_grad]
            psi = reached(sum((*drawn, *(s["log_prob_sum"] for s in latents.values())), torch.zeros(())))
            for site in latents.values():
                site["value"] = site["value"].detach()
            model_trace = poutine.trace(poutine.replay(lambda: call(model.model, x), trace=guide_trace)).get_trace()
        else:
            psi = []
            model_trace = poutine.trace(lambda: call(model.model, x)).get_trace()
        theta = reached(torch.as_tensor(model_trace.log_prob_sum()))
    return theta, psi
