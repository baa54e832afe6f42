"""Bach's chorales: models of piano rolls side by side, in nats a step on the test set.

Boulanger-Lewandowski, Bengio & Vincent (2012) published the split; Krishnan, Shalit & Sontag (2017) the deep Markov
model; Maddison et al. (2017) the VRNN by three bounds. What a number is stands in its name: hidden Markov models have
exact evidence, all others a bound on it or an importance-weighted estimate, which in expectation is a bound too. All
are total nats over total steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.core.contract import LatentVariableModel
from zoo.core.data import call, split
from zoo.core.hooks import weigh
from zoo.core.isolation import isolated
from zoo.core.particles import particle_bound
from zoo.data import load_data
from zoo.models.bernoulli_hmm import BernoulliHMM
from zoo.models.deep_markov_model import DeepMarkovModel
from zoo.models.vrnn import VRNN
from zoo.reproduce._neural import CACHED, trained
from zoo.reproduce._rows import fit
from zoo.scores.importance import importance_nll

ABOUT = "JSB chorales, test nats a step: hidden Markov models (exact evidence), deep Markov model and VRNN (bounds)"
ON_DEVICE = True
_KRISHNAN = "Krishnan, Shalit & Sontag (2017), table 1"
_PYRO = "Pyro's tutorial on deep Markov models"
_FIVO = "Maddison et al. (2017)"
PUBLISHED: list[dict[str, Any]] = [
    {"name": "DMM, bound", "value": 6.926, "source": _KRISHNAN},
    {"name": "DMM, importance-weighted", "value": 6.388, "source": _KRISHNAN},
    {"name": "DMM of Pyro, bound", "value": 6.87, "source": _PYRO},
    {"name": "DMM of Pyro, 1 flow, bound", "value": 6.82, "source": _PYRO},
    {"name": "DMM of Pyro, 2 flows, bound", "value": 6.80, "source": _PYRO},
    {"name": "VRNN, ELBO", "value": 8.69, "source": _FIVO},
    {"name": "VRNN, IWAE", "source": f"8.0 to 8.3, {_FIVO} and others"},
    {"name": "VRNN, FIVO", "source": f"6.9 to 7.5, {_FIVO} and others"},
]


@dataclass(frozen=True)
class Setting:
    """What a budget allows.

    Attributes:
        num_states, max_iter: of the hidden Markov models, and of their EM.
        epochs, rate, weight_decay: of the deep Markov model. num_samples: draws of its importance weights.
        vrnn_epochs, vrnn_rate, vrnn_weight_decay, particles: of the VRNN's training. scored: particles of the bounds
            that it is scored by. repeats: independent draws that each of these is averaged over.
        patience: epochs that the validation set's bound may stay below its best.
    """

    num_states: tuple[int, ...] = (16, 32, 64, 128)
    max_iter: int = 60
    epochs: int = 300
    rate: float = 0.06
    weight_decay: float = 0.0
    num_samples: int = 200
    vrnn_epochs: int = 120
    vrnn_rate: float = 0.06
    vrnn_weight_decay: float = 0.0
    particles: int = 4
    scored: tuple[int, ...] = (4, 8, 16)
    repeats: int = 4
    patience: int = 50


SETTINGS: dict[str, Setting] = {
    "quick": Setting(),
    "full": Setting(
        epochs=500,
        weight_decay=1.0,
        num_samples=500,
        vrnn_epochs=80,
        vrnn_rate=0.03,
        vrnn_weight_decay=1.0,
        patience=100,
    ),
}


def run(budget: str, seed: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Train and score; see :mod:`zoo.reproduce`."""
    setting = SETTINGS[budget]
    data = {part: chorales(part) for part in ("train", "valid", "test")}
    steps = float(data["test"]["lengths"].sum())
    rows: list[dict[str, Any]] = []
    curve: list[dict[str, Any]] = []

    def row(name: str, kind: str, nats: float, note: str, **more: Any) -> None:
        rows.append({"name": name, "value": -nats / steps, "kind": kind, "note": f"{kind}; {note}", **more})
        say(f"{name}: {rows[-1]['value']:.3f} ({rows[-1]['note']})")

    for k in setting.num_states:
        template: Any = BernoulliHMM(k, data["train"]["x"].shape[2], concentration=1.1, prior_strength=1.0)
        chain = fit(template, data["train"], estimator="em", seed=seed, max_iter=setting.max_iter)
        model: Any = chain.model
        with torch.no_grad():
            exact = float(call(model.log_marginal, model.prepare(data["test"])).sum())
        row(f"HMM, K = {k}", "exact", exact, f"em, {chain.seconds:.0f} s", train_seconds=chain.seconds)
    _deep(setting, data, seed, row, curve, say)
    _recurrent(setting, data, seed, row, curve, say)
    return {"setting": vars(setting), "num_steps": steps, "rows": rows, "curve": curve}


def chorales(part: str) -> dict[str, Tensor]:
    """A part of the published split."""
    found: Any = load_data("jsb", split=part)
    return {"x": found["x"], "lengths": found["lengths"]}


def _deep(
    setting: Setting, data: dict[str, Any], seed: int, row: Callable[..., None], curve: list[Any], say: Any
) -> None:
    """The rows of the deep Markov model: its guide's bound, and importance-weighted draws of the same guide."""
    train, test = data["train"], data["test"]
    found, bounds = trained(
        "DMM",
        DeepMarkovModel(train["x"].shape[2], weight_decay=setting.weight_decay),
        train,
        int(train["lengths"].sum()),
        say,
        estimator="svi",
        seed=seed,
        max_epochs=setting.epochs,
        learning_rate=setting.rate,
        validation=data["valid"],
        patience=setting.patience,
    )
    curve += bounds
    scored = importance_nll(found.model, test, setting.num_samples, seed=seed, max_elements=CACHED)
    count, per_step = scored.num_data, scored.num_data / float(test["lengths"].sum())
    took = f"{found.status} after {found.iterations} epochs, {found.seconds:.0f} s"
    row(
        "DMM, bound",
        "bound",
        -scored.elbo * count,
        took,
        train_seconds=found.seconds,
        data_se=scored.data_se * per_step,
    )
    note = f"{scored.num_samples} draws, ± {scored.se * per_step:.3f} by these"
    row("DMM, importance-weighted", "estimate", -scored.nll * count, note, se=scored.se * per_step)


def _recurrent(
    setting: Setting, data: dict[str, Any], seed: int, row: Callable[..., None], curve: list[Any], say: Any
) -> None:
    """The rows of the VRNN: trained by a bound of few particles, and scored by that bound of as many and more.

    Of the one trained by svi all bounds are told: how tight they are is seen at the same parameters alone.
    """
    train, test = data["train"], data["test"]
    for estimator in ("svi", "iwae", "fivo"):
        alone = estimator == "svi"
        found, bounds = trained(
            f"VRNN by {estimator}",
            VRNN(train["x"].shape[2], weight_decay=setting.vrnn_weight_decay),
            train,
            int(train["lengths"].sum()),
            say,
            estimator=estimator,
            seed=seed,
            max_epochs=setting.vrnn_epochs,
            learning_rate=setting.vrnn_rate,
            validation=data["valid"],
            patience=setting.patience,
            num_particles=1 if alone else setting.particles,
        )
        curve += bounds
        took = f"{found.iterations} epochs of {estimator}, {found.seconds:.0f} s"
        if alone:
            total = bound_of(found.model, test, "iwae", 1, setting.repeats, seed)
            row("VRNN, ELBO", "bound", total, took, train_seconds=found.seconds)
        for by in ("iwae", "fivo") if alone else (estimator,):
            for particles in setting.scored:
                name = f"VRNN{' by svi' * alone}, {by.upper()} of {particles}"
                total = bound_of(found.model, test, by, particles, setting.repeats, seed)
                row(name, "bound", total, took, train_seconds=found.seconds)


def bound_of(model: LatentVariableModel, x: Any, estimator: str, particles: int, repeats: int, seed: int = 0) -> float:
    """The bound that an estimator climbs, on data, total nats: a mean over independent draws."""
    prepared = model.prepare(x)
    total = 0.0
    with isolated(seed), torch.no_grad():
        for piece in split(prepared, 16):
            for _ in range(repeats):
                if estimator == "fivo":
                    value = particle_bound(model, piece, particles).bound
                else:
                    value = weigh(model, piece, particles).logsumexp(0) - math.log(particles)
                total += float(value.sum()) / repeats
    return total
