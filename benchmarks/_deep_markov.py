"""A training step of the deep Markov model beside the same model as Pyro programs, on the chorales or rolls like them.

The programs are written as Pyro's own example of the model is: a ``pyro.sample`` for each latent and each frame under
``poutine.mask``, ``Trace_ELBO``, ``ClippedAdam``, a recurrent network of rectified units that runs backward over packed
sequences; sizes and minibatch are that example's. Both take turns on the same minibatches, the least of all rounds
counts. One draw with the same weights and random numbers must give both the same bound.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import ClippedAdam
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from zoo.core.hooks import HookedBound
from zoo.data import load_data
from zoo.errors import ZooError
from zoo.estimators.loop.adam import ScaledAdam
from zoo.models.deep_markov_model import DeepMarkovModel

__all__ = ["STEPS", "deep_markov_rows"]

SIZES = {"latent_dim": 100, "hidden_dim": 600, "transition_dim": 200, "emission_dim": 100, "cell": "rnn"}
BATCH, RATE = 20, 3e-4
#: Steps of the sequences whose time is looked at for its growth.
STEPS = (128, 256, 512, 1024)


class Programs(nn.Module):
    """The deep Markov model as Pyro programs, with the weights of ours."""

    def __init__(self, ours: DeepMarkovModel) -> None:
        super().__init__()
        transition, combiner, decoder = ours.transition, ours.combiner, ours.decoder
        self.gate, self.proposal = _layers(transition.gate), _layers(transition.proposal)
        self.linear, self.raw_scale = transition.linear, transition.raw_scale
        self.emitter = _layers(decoder)
        self.from_z, self.heads, self.rnn = combiner.from_z, combiner.heads, combiner.recurrent
        self.z_0, self.z_q_0, self.h_0 = ours.start, combiner.start, combiner.memory

    def model(self, x: Tensor, reversed_x: Tensor, mask: Tensor, lengths: Tensor) -> None:
        pyro.module("dmm", self)
        z = self.z_0.expand(len(x), -1)
        with pyro.plate("data", len(x)):
            for t in pyro.markov(range(x.shape[1])):
                gate, proposal = self.gate(z).sigmoid(), self.proposal(z)
                loc = (1 - gate) * self.linear(z) + gate * proposal
                scale = softplus(self.raw_scale(proposal.relu())) + 1e-5
                with poutine.mask(mask=mask[:, t]):
                    z = pyro.sample(f"z_{t}", dist.Normal(loc, scale).to_event(1))
                    frame = dist.Bernoulli(logits=self.emitter(z)).to_event(1)
                    pyro.sample(f"x_{t}", frame, obs=x[:, t])

    def guide(self, x: Tensor, reversed_x: Tensor, mask: Tensor, lengths: Tensor) -> None:
        pyro.module("dmm", self)
        packed = pack_padded_sequence(reversed_x, lengths, batch_first=True)
        hidden, _ = self.rnn(packed, self.h_0.expand(1, len(x), -1).contiguous())
        ahead = mirrored(pad_packed_sequence(hidden, batch_first=True)[0], lengths)
        z = self.z_q_0.expand(len(x), -1)
        with pyro.plate("data", len(x)):
            for t in pyro.markov(range(x.shape[1])):
                combined = 0.5 * (self.from_z(z).tanh() + ahead[:, t])
                loc, raw = self.heads(combined).chunk(2, -1)
                with poutine.mask(mask=mask[:, t]):
                    z = pyro.sample(f"z_{t}", dist.Normal(loc, softplus(raw) + 1e-5).to_event(1))


def _layers(network: nn.Sequential) -> nn.Sequential:
    """A network without the standardising layer, which does nothing where data have no units."""
    return nn.Sequential(*list(network)[1:])


def mirrored(x: Tensor, lengths: Tensor) -> Tensor:
    """Each sequence of x (N, T, D) from its last step to its first, zeros beyond."""
    found = torch.zeros_like(x)
    for n, length in enumerate(lengths.tolist()):
        found[n, :length] = x[n, :length].flip(0)
    return found


def minibatches(count: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Minibatches of the chorales, longest sequence first; where they are not at hand, of random rolls as long."""
    try:
        data: Any = load_data("jsb")
        x, lengths = data["x"].float(), data["lengths"]
    except ZooError:
        generator = torch.Generator().manual_seed(1)
        lengths = torch.randint(25, 110, (229,), generator=generator)
        x = (torch.rand(229, int(lengths.max()), 88, generator=generator) < 0.044).float()
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        chosen = torch.randperm(len(x), generator=generator)[:BATCH]
        chosen = chosen[lengths[chosen].argsort(descending=True)]
        top = int(lengths[chosen].max())
        found.append((x[chosen, :top] * (torch.arange(top) < lengths[chosen, None]).unsqueeze(-1), lengths[chosen]))
    return found


def ours(model: DeepMarkovModel) -> Any:
    """A step as training takes it: bound, gradient, Adam."""
    parameters = dict(model.named_parameters())
    optimizer = ScaledAdam(parameters.values(), {}, RATE)
    objective = HookedBound(model, 1)

    def step(x: Tensor, lengths: Tensor) -> None:
        optimizer.zero_grad()
        objective({"x": x, "lengths": lengths}).surrogate.backward()
        optimizer.step(10.0, True)

    return step


def theirs(programs: Programs) -> Any:
    optimizer = ClippedAdam(
        {"lr": RATE, "betas": (0.96, 0.999), "clip_norm": 10.0, "lrd": 0.99996, "weight_decay": 2.0}
    )
    svi = SVI(programs.model, programs.guide, optimizer, loss=Trace_ELBO())

    def step(x: Tensor, lengths: Tensor) -> None:
        svi.step(*arguments(x, lengths))

    return step


def arguments(x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return x, mirrored(x, lengths), torch.arange(x.shape[1]) < lengths.unsqueeze(-1), lengths


def deep_markov_rows(repeats: int = 5, steps: Sequence[int] = STEPS) -> list[dict[str, Any]]:
    """Milliseconds of a step, ours and Pyro's, and how ours grow with T.

    Returns:
        a row of the comparison: ``zoo_ms``, ``pyro_ms`` and these of the processor, ``ratio`` of the processor's, and
        ``difference`` of the two bounds at one draw, relative. Then a row of the growth: ``steps``, ``cpu_ms``,
        ``slope``.
    """
    batches = minibatches(repeats)
    model = DeepMarkovModel(88, **SIZES)  # type: ignore[arg-type]
    programs = Programs(DeepMarkovModel(88, **SIZES))  # type: ignore[arg-type]
    x, lengths = batches[0]
    with torch.no_grad():
        torch.manual_seed(0)
        mine = float(model.log_weights(x, lengths, 1).sum())
        torch.manual_seed(0)
        other = -float(Trace_ELBO().loss(programs.model, programs.guide, *arguments(x, lengths)))
    pyro.clear_param_store()
    spent: dict[str, list[tuple[float, float]]] = {"zoo": [], "pyro": []}
    systems = {"zoo": ours(model), "pyro": theirs(programs)}
    for batch in (batches[0], *batches):
        for name, step in systems.items():
            spent[name].append(timed(step, batch))
    pyro.clear_param_store()
    least = {name: np.min(times[1:], 0) for name, times in spent.items()}
    row: dict[str, Any] = {"what": "deep Markov model, a step of 20 chorales", "difference": abs(mine / other - 1)}
    for name, (clock, processor) in least.items():
        row |= {f"{name}_ms": float(clock), f"{name}_cpu_ms": float(processor)}
    row["ratio"] = row["zoo_cpu_ms"] / row["pyro_cpu_ms"]
    return [row, growth(repeats, steps)]


def growth(repeats: int, steps: Sequence[int]) -> dict[str, Any]:
    """Milliseconds of a step against T, at the model's default sizes, and the slope of a line through logarithms."""
    model = DeepMarkovModel(88)
    step = ours(model)
    found = []
    for length in steps:
        batch = torch.bernoulli(torch.full((8, length, 88), 0.05)), torch.full((8,), length)
        found.append(min(timed(step, batch)[1] for _ in range(repeats + 1)))
    slope = float(np.polyfit(np.log(steps), np.log(found), 1)[0])
    return {"what": "deep Markov model, a step against T", "steps": list(steps), "cpu_ms": found, "slope": slope}


def timed(step: Any, batch: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """Milliseconds of a step on the clock, and of the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    step(*batch)
    return 1e3 * (time.perf_counter() - clock), 1e3 * (time.process_time() - processor)
