"""Units of speech without a label: an HMM-VAE beside Gaussian HMMs and an HMM on the codes of a plain VAE.

Recordings of ten digits by six people as frames of 10 ms, 13 mel cepstra and two differences; models of as many states
see the frames of the training split and no label. Each frame of the recordings of the test split then has a most
probable state, and its digit is that of its recording. A row is the normalised mutual information of the two over
these frames, I(state; digit) over the mean of the entropies: median over seeds, and lowest and highest. A state is a
sound, a digit has several and shares some: 1 is not to be reached, and what counts is the order of the rows.

    HMM, diagonal    a Gaussian HMM of diagonal covariances of the 39 features, by EM
    HMM, full        of full covariances
    VAE, then HMM    a plain VAE of frames, codes N(0, I) of 12, then a Gaussian HMM of full covariances on mean codes
    HMMVAE, 12       both at once, from a Gaussian HMM on the first 12 principal coordinates
    HMMVAE, 39       the same with as many codes as features: it starts as a Gaussian HMM of full covariances

Networks, schedule and frames a step of the VAEs are the same. Nothing was searched for: 12 codes were tried first and
39 then, when full covariances had turned out to serve the HMM; both are here. The length of the schedule, and every
second recording at the full budget, are what the time allowed.

Ebbers et al. (2017) found units on TIMIT, with other measures; nothing of the kind is published on these data.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.core.data import take
from zoo.core.sequences import inside
from zoo.data import load_data
from zoo.data.speech import smooth_spectrogram
from zoo.models.gaussian_hmm import GaussianHMM
from zoo.models.hmm_vae import HMMVAE
from zoo.models.vae import VAE
from zoo.reporting.units import plot_units
from zoo.reproduce._curves import learning_curve
from zoo.reproduce._neural import trained
from zoo.reproduce._rows import each_by_itself, fit
from zoo.runs.result import Fit
from zoo.scores.clustering import normalized_mutual_information, purity

ABOUT = "HMM-VAE on spoken digits, no label: information between frames' states and the digit, unseen recordings"
PUBLISHED: list[dict[str, Any]] = []

Sequences = dict[str, Tensor]


@dataclass(frozen=True)
class Setting:
    """What a budget allows.

    Attributes:
        num_states: K. few, many: codes of the smaller and the larger model. hidden_dims: of encoders, from frames on.
        epochs, batch_size (sequences), rate: of both VAEs. max_iter: of EM.
        every: of the training recordings one in so many is seen. seeds: how many are run.
    """

    num_states: int = 32
    few: int = 12
    many: int = 39
    hidden_dims: tuple[int, ...] = (128,)
    epochs: int = 15
    batch_size: int = 20
    rate: float = 0.1
    max_iter: int = 30
    every: int = 2
    seeds: int = 5


SETTINGS: dict[str, Setting] = {"quick": Setting(every=3, seeds=1), "full": Setting()}


def recordings(split: str, every: int = 1) -> tuple[Sequences, Tensor]:
    """One in so many recordings as frames, and their digits (N,)."""
    data, digits = load_data("spoken_digits", split=split, labels=True)
    assert isinstance(data, dict)
    return take(data, slice(0, None, every)), digits[::every]


def run(budget: str, seed: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Fit every model with every seed, and score the frames of the test split; see :mod:`zoo.reproduce`."""
    setting = SETTINGS[budget]
    train, _ = recordings("train", setting.every)
    test, digits = recordings("test")
    there = inside(test["x"], test["lengths"])
    said = digits.unsqueeze(-1).expand_as(there)[there]
    frames = int(train["lengths"].sum())
    runs: list[dict[str, Any]] = []
    curve: list[dict[str, Any]] = []
    shown: dict[int, Fit] = {}

    def scored(run: tuple[int, str], say: Callable[[str], None]) -> tuple[dict[str, Any], Fit]:
        each, name = run
        began, cpu = time.perf_counter(), time.process_time()
        fitted, found, more = models(setting)[name](train, test, setting, each, say)
        fitted.x, states = None, found[there]
        row = {
            "method": name,
            "seed": each,
            "information": normalized_mutual_information(states, said),
            "purity": purity(states, said),
            "states_used": len(states.unique()),
            "seconds": time.perf_counter() - began,
            "cpu_seconds": time.process_time() - cpu,
            **{key: value / frames for key, value in more.items()},
        }
        say(f"{name}, seed {each}: information {row['information']:.3f}, {row['seconds']:.0f} s")
        return row, fitted

    every = [(each, name) for each in range(seed, seed + setting.seeds) for name in models(setting)]
    for (each, name), (row, fitted) in each_by_itself(scored, every, say):
        runs.append(row)
        if name.startswith("HMMVAE"):
            shown[each] = fitted
            curve += learning_curve(f"{name}, seed {each}", fitted, frames)
    rows = [_row(name, [r for r in runs if r["method"] == name]) for name in models(setting)]

    def figure(path: Path) -> Path:
        return plot_units(shown[seed], test, path, image=smooth_spectrogram)

    return {"setting": vars(setting), "frames": frames, "rows": rows, "runs": runs, "curve": curve, "figure": figure}


def _row(name: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The median over seeds."""
    found = [r["information"] for r in runs]
    nats = next((key for key in ("log_likelihood", "bound") if key in runs[0]), None)
    note = f"{min(found):.3f} to {max(found):.3f} over {len(found)} seeds"
    note += f"; purity {statistics.median(r['purity'] for r in runs):.3f}"
    if nats is not None:
        what = "exact" if nats == "log_likelihood" else "bound"
        note += f"; {statistics.median(r[nats] for r in runs):.2f} nats a training frame, {what}"
    return {"name": name, "value": statistics.median(found), "note": note}


# The models: each gives its fit, the states (N, T) of the test recordings, and totals in nats -------------------------

Found = tuple[Fit, Tensor, dict[str, float]]
Model = Callable[[Sequences, Sequences, Setting, int, Callable[[str], None]], Found]


def models(setting: Setting) -> dict[str, Model]:
    """What is fitted, by row."""
    return {
        "HMM, diagonal": functools.partial(straight, "diag"),
        "HMM, full": functools.partial(straight, "full"),
        "VAE, then HMM": apart,
        f"HMMVAE, {setting.few}": functools.partial(together, setting.few),
        f"HMMVAE, {setting.many}": functools.partial(together, setting.many),
    }


def straight(
    covariance_type: str, train: Sequences, test: Sequences, setting: Setting, seed: int, say: Callable[[str], None]
) -> Found:
    """A Gaussian HMM on the features."""
    model = GaussianHMM(setting.num_states, train["x"].shape[-1], covariance_type)
    fitted = _by_em(model, train, setting, seed)
    assert fitted.log_likelihood is not None
    return fitted, fitted.predict(test), {"log_likelihood": fitted.log_likelihood}


def apart(train: Sequences, test: Sequences, setting: Setting, seed: int, say: Callable[[str], None]) -> Found:
    """A plain VAE of frames, then a Gaussian HMM on its codes."""
    rows = train["x"][inside(train["x"], train["lengths"])].float()
    model = VAE(rows.shape[1], setting.few, setting.hidden_dims, likelihood="gaussian", activation="tanh")
    vae, _ = trained(
        f"VAE, seed {seed}",
        model,
        rows,
        len(rows),
        say,
        times=3,
        estimator="svi",
        seed=seed,
        max_epochs=setting.epochs,
        batch_size=max(1, len(rows) * setting.batch_size // len(train["x"])),
        learning_rate=setting.rate * HMMVAE.step / VAE.step,
    )
    codes = [{"x": _codes(vae.model, data["x"]), "lengths": data["lengths"]} for data in (train, test)]
    fitted = _by_em(GaussianHMM(setting.num_states, setting.few, "full"), codes[0], setting, seed)
    return fitted, fitted.predict(codes[1]), {"bound_of_frames": vae.elbo or float("nan")}


def together(
    latent_dim: int, train: Sequences, test: Sequences, setting: Setting, seed: int, say: Callable[[str], None]
) -> Found:
    """An HMM-VAE."""
    model = HMMVAE(setting.num_states, train["x"].shape[-1], latent_dim, setting.hidden_dims)
    fitted, _ = trained(
        f"HMMVAE, {latent_dim}, seed {seed}",
        model,
        train,
        int(train["lengths"].sum()),
        say,
        times=3,
        estimator="svi",
        seed=seed,
        max_epochs=setting.epochs,
        batch_size=setting.batch_size,
        learning_rate=setting.rate,
    )
    assert fitted.elbo is not None
    return fitted, fitted.predict(test), {"bound": fitted.elbo}


def _by_em(model: GaussianHMM, x: Sequences, setting: Setting, seed: int) -> Fit:
    """By one start of EM, until an iteration gains less than a thousandth of a nat a frame."""
    return fit(model, x, estimator="em", seed=seed, restarts=1, max_iter=setting.max_iter, tol=1e-3)


@torch.no_grad()
def _codes(vae: Any, x: Tensor) -> Tensor:
    """The mean codes of frames (N, T, D), (N, T, L)."""
    codes: Tensor = vae.posterior_means(x.float().flatten(0, 1)).double()
    return codes.reshape(*x.shape[:2], -1)
