"""Hidden Markov language models of the Penn Treebank's words: does perplexity fall as states are added?

Test perplexity over 10 000 words, each sentence by itself and its end predicted. ``HMM`` has free tables, by EM on
minibatches from states that are split from fewer, with ``PSEUDO`` words of the corpus's frequencies added to each;
``neural HMM`` makes its tables of embeddings
(Chiu & Rush, 2020, "Scaling hidden Markov language models", without their blocks), by the exact gradient. Beside them
interpolated modified Kneser-Ney 5-grams, counted here on what these saw and on the whole corpus.

Below, on short sentences alone, estimators from one start of a small neural HMM: the exact ln p(x), nats a word, that
each arrives at. Under it the gap to the bound of its guide, what one gradient is off by, and seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.core.data import Data, take
from zoo.data import load_data
from zoo.models.categorical_hmm import CategoricalHMM
from zoo.models.discrete_sequence_vae import DiscreteSequenceVAE
from zoo.reproduce._curves import learning_curve
from zoo.reproduce._estimators import gradient_note, note_gradients, started
from zoo.reproduce._neural import teller
from zoo.reproduce._rows import fit
from zoo.scores.ngrams import KneserNey

ABOUT = "Penn Treebank words: test perplexity of hidden Markov models by states; estimators, nats a word"
PUBLISHED: list[dict[str, Any]] = [
    {
        "name": "Kneser-Ney 5-gram, whole corpus",
        "value": 141.2,
        "source": "Mikolov & Zweig (2012), Context dependent recurrent neural network language model, table 1",
    },
]
#: Rows of estimators, and what each is told.
ESTIMATORS: dict[str, dict[str, Any]] = {"eg": {}, "svi": {}, "gumbel": {}, "reinforce": {"num_particles": 4}}
#: Words added to each state by EM, and the longest sentences that estimators see, their ends counted.
PSEUDO, SHORT = 30.0, 9


@dataclass(frozen=True)
class Setting:
    """What a budget allows.

    Attributes:
        sentences: the first so many are trained on; None takes all. states: of each model.
        epochs, batch, rate, hidden_dim: of the neural models. passes, em_batch: over the data and a step, of EM.
        short, short_states, short_epochs: sentences, states and epochs of the estimators.
        measured, draws, guide_steps: sentences and draws of the gradients' bias and spread, steps of the guide before.
    """

    sentences: int | None
    states: tuple[int, ...]
    epochs: int
    batch: int
    rate: float
    hidden_dim: int
    passes: int
    em_batch: int
    short: int
    short_states: int
    short_epochs: int
    measured: int
    draws: int
    guide_steps: int


SETTINGS: dict[str, Setting] = {
    "quick": Setting(10_000, (8, 32, 128, 512), 4, 128, 0.03, 128, 3, 128, 600, 12, 10, 8, 25, 100),
    "full": Setting(None, (8, 32, 128, 512), 2, 128, 0.03, 128, 1, 256, 600, 16, 10, 8, 25, 100),
}


def sentences(split: str, count: int | None = None) -> dict[str, Tensor]:
    """Coded words, the first so many sentences."""
    data: Any = load_data("ptb_lm", split=split)
    return data if count is None else take(data, slice(0, count))


def run(budget: str, seed: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Train and score; see :mod:`zoo.reproduce`."""
    setting = SETTINGS[budget]
    whole, test = sentences("train"), sentences("test")
    train = take(whole, slice(0, setting.sentences))
    size = int(max(whole["x"].max(), test["x"].max())) + 1
    seen = "" if setting.sentences is None else f", first {len(train['x'])} of {len(whole['x'])} sentences"
    rows: list[dict[str, Any]] = []
    curve: list[dict[str, Any]] = []
    for name, data in (("whole corpus", whole), ("the same sentences", train))[: 2 if seen else 1]:
        began = time.perf_counter()
        value = KneserNey(data["x"], data["lengths"], size).perplexity(test["x"], test["lengths"])
        rows.append({"name": f"Kneser-Ney 5-gram, {name}", "value": value, "seconds": time.perf_counter() - began})
        rows[-1]["note"] = "interpolated, modified, counted here"
        say(f"{rows[-1]['name']}: {value:.1f}")
    for states in setting.states:
        for row, fitted in (
            _plain(train, test, size, states, setting, seed, say),
            _neural(train, test, size, states, setting, seed, say),
        ):
            row["note"] += seen
            rows.append(row)
            curve += learning_curve(row["name"], fitted, len(train["x"]))
            say(f"{row['name']}: {row['value']:.1f}, {row['note']}")
    rows += _estimators(take(whole, whole["lengths"] <= SHORT), setting, seed, say)
    return {"setting": {**vars(setting), "rows": ESTIMATORS}, "rows": rows, "curve": curve}


def _plain(
    train: Data, test: Data, size: int, states: int, setting: Setting, seed: int, say: Callable[[str], None]
) -> tuple[dict[str, Any], Any]:
    """A hidden Markov model of free tables."""
    began, cpu = time.perf_counter(), time.process_time()
    fitted: Any = fit(
        CategoricalHMM(states, size, prior_strength=PSEUDO),
        {"x": train["x"].double(), "lengths": train["lengths"]},
        estimator="online_em",
        init="split",
        seed=seed,
        max_epochs=setting.passes,
        batch_size=setting.em_batch,
        tol=0,
        restarts=1,
    )
    with torch.no_grad():
        nats = fitted.model.log_marginal(test["x"].double().unsqueeze(-1), test["lengths"]).sum()
    value = float((-nats / test["lengths"].sum()).exp())
    note = f"{setting.passes} passes of online_em from split states, {fitted.seconds:.0f} s"
    spent = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
    return {"name": f"HMM, {states} states", "value": value, "note": note, "status": fitted.status, **spent}, fitted


def _neural(
    train: Data, test: Data, size: int, states: int, setting: Setting, seed: int, say: Callable[[str], None]
) -> tuple[dict[str, Any], Any]:
    """The neural hidden Markov model by the exact gradient."""
    began, cpu, name = time.perf_counter(), time.process_time(), f"neural HMM, {states} states"
    template = DiscreteSequenceVAE(states, size, hidden_dim=setting.hidden_dim)
    fitted: Any = fit(
        template,
        train,
        estimator="eg",
        seed=seed,
        max_epochs=setting.epochs,
        batch_size=setting.batch,
        learning_rate=setting.rate,
        progress=teller(name, setting.epochs, len(train["x"]), say),
    )
    value = fitted.model.perplexity(test)
    note = f"{setting.epochs} epochs of eg, {fitted.seconds:.0f} s"
    spent = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
    return {"name": name, "value": value, "note": note, "status": fitted.status, **spent}, fitted


def _estimators(data: Data, setting: Setting, seed: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Rows of the estimators, all from one start."""
    few = take(data, slice(0, setting.short))
    template = DiscreteSequenceVAE(setting.short_states, int(few["x"].max()) + 1, hidden_dim=32)
    start, words = started(template, few, seed), float(few["lengths"].sum())
    rows: list[dict[str, Any]] = []
    points = {"start": start}
    for name, options in ESTIMATORS.items():
        began = time.perf_counter()
        fitted: Any = fit(
            start,
            few,
            estimator=name,
            init="current",
            seed=seed,
            max_epochs=setting.short_epochs,
            progress=teller(name, setting.short_epochs, len(few["x"]), say),
            **options,
        )
        if name == "eg":
            points["optimum"] = fitted.model
        row: dict[str, Any] = {"name": f"{name}, short sentences", "value": fitted.log_likelihood / words}
        row |= {"status": fitted.status, "train_seconds": fitted.seconds, "seconds": time.perf_counter() - began}
        row["gap"] = None if name == "eg" else fitted.evidence_gap / words
        rows.append(row)
    sizes = {"measured": setting.measured, "draws": setting.draws, "guide_steps": setting.guide_steps}
    note_gradients(rows, ESTIMATORS, points, few, seed=seed, **sizes)
    for row in rows:
        gap = "exact" if row["gap"] is None else f"gap {row['gap']:.3f}"
        row["note"] = f"{gap}, {row['train_seconds']:.0f} s; {gradient_note(row)}"
        say(f"{row['name']}: {row['value']:.3f} nats a word, {row['note']}")
    return rows
