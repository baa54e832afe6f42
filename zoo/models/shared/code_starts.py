"""Where a chain over codes starts: coordinates of frames, and a Gaussian HMM fitted to them by EM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.core.sequences import inside
from zoo.models.gaussian_hmm import GaussianHMM
from zoo.models.shared.axes import upright

__all__ = ["Principal", "fitted_hmm", "principal", "start_straight"]

#: Iterations of EM that a start takes at most, and the gain, nats a frame, below which it stops.
ITERATIONS, GAIN = 30, 1e-3
#: Starts of the HMM, of which the best after a few iterations is run on, and these iterations.
STARTS, FEW = 3, 5
#: Frames that the HMM sees at most.
SEEN = 30_000
#: What every step of the chain keeps: from a zero no gradient leads away.
LEAST = 1e-3


@dataclass(frozen=True)
class Principal:
    """Principal coordinates of rows (M, D) of unit scale: y = W c + residual, c of unit variances.

    Attributes:
        weight: W, (D, L); columns are orthogonal, those beyond the data's own dimensions zero.
        inverse: (L, D), the coordinates of y.
        residual: standard deviation of what W c leaves, (D,).
        rank: how many of the L columns are not zero.
    """

    weight: Tensor
    inverse: Tensor
    residual: Tensor
    rank: int


def principal(rows: Tensor, latent_dim: int) -> Principal:
    """The first ``latent_dim`` principal coordinates of centred rows (M, D)."""
    wide = rows.double()
    covariance = wide.mT @ wide / len(wide)
    values, vectors = torch.linalg.eigh(covariance)
    order = values.argsort(descending=True)[:latent_dim]
    values, vectors = values[order], upright(vectors[:, order])
    rank = max(1, int((values > 1e-9 * values[0]).sum()))
    weight, inverse = wide.new_zeros(wide.shape[1], latent_dim), wide.new_zeros(latent_dim, wide.shape[1])
    weight[:, :rank] = vectors[:, :rank] * values[:rank].sqrt()
    inverse[:rank] = (vectors[:, :rank] / values[:rank].sqrt()).mT
    residual = (covariance.diagonal() - weight.square().sum(-1)).clamp_min(0.0).sqrt()
    return Principal(weight.to(rows), inverse.to(rows), residual.to(rows), rank)


@torch.no_grad()
def fitted_hmm(codes: Tensor, lengths: Tensor, num_states: int) -> GaussianHMM:
    """A Gaussian HMM of full covariances fitted to codes (N, T, L) by EM, every step of its chain possible.

    It sees the first sequences alone where there are many; where EM starts is drawn by torch's generator.
    """
    few = max(1, int((lengths.cumsum(0) <= SEEN).sum()))
    x = {"x": codes[:few].double().cpu(), "lengths": lengths[:few].cpu()}  # where compiled sums take its short steps
    x["x"] = x["x"].masked_fill(~inside(x["x"], x["lengths"]).unsqueeze(-1), 0.0)
    # A hundredth of a code's own variance keeps a state off a single frame.
    model = GaussianHMM(num_states, codes.shape[-1], "full", covariance_floor=0.01)
    best, reached = None, -torch.inf
    for restart in range(STARTS):
        model.initialize(x, model.inits[0], restart)
        value = climb(model, x, FEW)
        if value > reached or best is None:
            best, reached = {name: value.clone() for name, value in model.state_dict().items()}, value
    assert best is not None
    model.load_state_dict(best)
    climb(model, x, ITERATIONS)
    k = num_states
    model.initial_probs = (1 - LEAST) * model.initial_probs + LEAST / k
    model.transition_probs = (1 - LEAST) * model.transition_probs + LEAST / k
    return model


def climb(model: GaussianHMM, x: dict[str, Tensor], iterations: int) -> float:
    """EM in place; the log-likelihood a frame before its last step."""
    frames, reached = float(x["lengths"].sum()), -torch.inf
    for _ in range(iterations):
        statistics = model.e_step(x["x"], x["lengths"])
        value = float(statistics["log_likelihood"]) / frames
        model.m_step(statistics)
        if value - reached < GAIN:
            break
        reached = value
    return value


@torch.no_grad()
def start_straight(model: Any, x: dict[str, Tensor], rows: Tensor) -> None:
    """Straight lines to the principal coordinates and back; the chain as EM fits it to these.

    ``model`` is an ``HMMVAE``, rows (M, D) all frames of x.
    """
    unit = model.encoder.standardize(rows)
    found = principal(unit, model.latent_dim)
    noise = found.residual.clamp_min(0.05)
    slope = torch.ones_like(noise)
    if model.likelihood.kind == "gaussian":
        model.likelihood.set_noise(noise)
        noise = model.likelihood.noise() / model.likelihood.scale
    else:  # logits are as steep as this where a feature is one half; a small share must not take them far
        slope = (1 / model.encoder.standardize.scale).clamp_max(4.0)
    told = 1 + (found.weight / noise.unsqueeze(-1)).square().sum(0)
    model.encoder.straighten(found.inverse, found.inverse.new_zeros(model.latent_dim), told.rsqrt())
    model.decoder.straighten(found.weight * slope.unsqueeze(-1), model.decoder.straight.bias)
    r, codes = found.rank, model.codes(**x)
    hmm = fitted_hmm(codes[..., :r], x["lengths"], model.num_states)
    model.initial_probs, model.transition_probs = hmm.initial_probs, hmm.transition_probs
    model.code_means.zero_()
    model.code_means[:, :r] = hmm.means.to(model.code_means)
    factor = torch.eye(model.latent_dim).to(model.code_means).repeat(model.num_states, 1, 1)
    factor[:, :r, :r] = hmm.scale_tril.to(factor)
    model.code_scale_tril = factor
