"""Particles of an HMM-VAE: codes are drawn, the chain of states above them is summed exactly."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from test_hmm_vae import make
from torch import Tensor
from torch.distributions import MultivariateNormal

import zoo
from zoo.core.particles import PROPOSALS, follow, particle_bound

Sequences = dict[str, Any]


def linear() -> tuple[zoo.HMMVAE, zoo.GaussianHMM]:
    """A linear HMM-VAE with noise, and the Gaussian HMM that it is once its codes are integrated out."""
    model = zoo.HMMVAE(2, 2, 1, (), noise_scale=0.7).double()
    weight, offset = torch.tensor([[1.0], [-0.6]]).double(), torch.tensor([0.3, -0.2]).double()
    model.transition_probs = torch.tensor([[0.8, 0.2], [0.4, 0.6]])
    with torch.no_grad():
        model.decoder.straighten(weight, offset)
        model.encoder.straighten(torch.tensor([[0.4, -0.2]]), torch.tensor([0.1]), torch.tensor([0.8]))
        model.code_means.copy_(torch.tensor([[-1.0], [1.2]]))
    model.code_scale_tril = torch.tensor([[[0.7]], [[1.1]]])
    exact = zoo.GaussianHMM(2, 2, "full")
    exact.initial_probs, exact.transition_probs = model.initial_probs, model.transition_probs
    exact.means = model.code_means.detach() @ weight.mT + offset
    exact.covariances = weight @ model.code_covariances.detach() @ weight.mT + 0.49 * torch.eye(2).double()
    return model, exact


def sequences() -> Sequences:
    x = torch.tensor([[[0.5, -1.0], [2.0, -0.4], [-1.5, 0.3], [0.2, 0.2]]]).double()
    return {"x": x.repeat(2, 1, 1), "lengths": torch.tensor([4, 3])}


@pytest.mark.parametrize("proposal", PROPOSALS)
@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_the_estimate_is_unbiased_for_the_gaussian_hmms_evidence(proposal: str, threshold: float) -> None:
    model, exact = linear()
    data, times = sequences(), 10_000
    evidence = exact.log_marginal(**data).detach()
    torch.manual_seed(0)
    with torch.no_grad():
        many = {name: value.repeat_interleave(times, 0) for name, value in data.items()}
        bound = particle_bound(model, many, 4, threshold, proposal).bound.unflatten(0, (2, times))
    ratio = (bound - evidence.unsqueeze(-1)).exp()
    error = ratio.std(-1) / times**0.5
    assert (error < 0.05).all()
    assert ((ratio.mean(-1) - 1).abs() < 4 * error).all()
    assert (bound.mean(-1) < evidence - 0.005).all()


@pytest.mark.parametrize("covariance", ["diag", "full"])
def test_without_resampling_it_is_the_weighted_bound_and_with_one_particle_the_elbo(covariance: str) -> None:
    model, x = make(covariance=covariance)
    x = {name: value[[0, 2, 1]] for name, value in x.items()}  # the longest first: then the draws are the same
    for size in (5, 1):
        torch.manual_seed(4)
        ours = particle_bound(model, x, size, threshold=0.0 if size > 1 else 1.0).bound
        torch.manual_seed(4)
        weights = model.log_weights(**x, num_particles=size)
        torch.testing.assert_close(ours, weights.logsumexp(0) - math.log(size), rtol=1e-12, atol=1e-12)
        theirs = torch.autograd.grad(weights.logsumexp(0).sum(), model.code_means)[0]
        torch.testing.assert_close(torch.autograd.grad(ours.sum(), model.code_means)[0], theirs, rtol=1e-9, atol=1e-9)
    torch.manual_seed(4)
    torch.testing.assert_close(ours, model.elbo_parts(**x)[0], rtol=1e-12, atol=1e-12)


def test_what_a_particle_knows_of_its_state_is_the_sum_over_paths() -> None:
    """Path by path, after resampling too."""
    model, x = make()
    x = {"x": x["x"][:1], "lengths": x["lengths"][:1]}
    particles = model.particles(**x, num_particles=3)
    codes = list[Tensor]()
    initial, transition = model.initial_probs.detach(), model.transition_probs.detach()

    def watch(t: int, log_weights: Tensor) -> None:
        codes.append(particles.latents[:, 0].detach())
        for s in range(3):
            total = torch.zeros(2, dtype=torch.float64)
            for path in itertools.product(range(2), repeat=t + 1):
                weight = initial[path[0]]
                for i, j in itertools.pairwise(path):
                    weight = weight * transition[i, j]
                for code, k in zip(codes, path, strict=True):
                    normal = MultivariateNormal(model.code_means[k], scale_tril=model.code_scale_tril[k])
                    weight = weight * normal.log_prob(code[s]).exp().detach()
                total[path[-1]] += weight
            torch.testing.assert_close(particles.belief[s, 0].exp().detach(), total / total.sum(), rtol=1e-9, atol=1e-9)
        swap = torch.tensor([[1], [1], [0]])
        particles.resample(swap)
        codes[:] = [code[swap[:, 0]] for code in codes]

    torch.manual_seed(1)
    with torch.no_grad():
        follow(particles, 0.0, watch=watch)
    assert len(codes) == 4


@pytest.mark.parametrize("proposal", PROPOSALS)
def test_a_fit_climbs(proposal: str) -> None:
    model, _ = linear()
    data = {"x": torch.randn(20, 5, 2).double() * 2 + 1}
    options: dict[str, Any] = {"num_particles": 4, "proposal": proposal, "init": "current", "max_epochs": 8}
    fit = zoo.fit(model.float(), data, estimator="fivo", learning_rate=0.3, warmup=0, **options)
    assert fit.history["objective"][-1] > fit.history["objective"][0] + 10
