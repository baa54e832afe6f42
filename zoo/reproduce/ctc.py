"""The claim that the name "expected gradient" comes with: CTC's exact gradient beside gradients that are sampled.

McAllester (2017), "CTC and the EG algorithm: discrete latent choices without reinforcement learning", Machine Thoughts.
Recognisers of spoken digit strings of one architecture, trained alike but for the gradient: ``eg`` sums over all
alignments, ``svi`` does under an amortized guide, ``iwae`` and ``reinforce`` draw alignments from that guide. A row
is the label error rate on strings of unseen recordings, in per cent; beside it stand ln p(y | x) of these, bias and
standard deviation of one gradient at the start and at the optimum of ``eg``, and seconds.

Beside them stands a recogniser without a network, ``HMM``: one chain from left to right a digit, by EM, in a loop.

Three frames of 10 ms are one of the network's. Nothing of the kind is published on these data.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.core.data import call, take
from zoo.data import load_data
from zoo.models.ctc import CTC
from zoo.reproduce._curves import learning_curve
from zoo.reproduce._estimators import gradient_note, note_gradients, started
from zoo.reproduce._neural import teller
from zoo.reproduce._rows import each_by_itself, fit
from zoo.reproduce._words import decoded, recogniser
from zoo.runs.result import Fit
from zoo.scores.edits import label_error_rate

ABOUT = "CTC on spoken digit strings, exact gradient against sampled ones: label errors on unseen recordings, %"
PUBLISHED: list[dict[str, Any]] = []

#: Rows: the estimator and what it is told.
ROWS: dict[str, dict[str, Any]] = {
    "eg": {},
    "svi": {},
    "iwae": {"num_particles": 4},
    "reinforce": {"num_particles": 4},
}
STACKED = 3


@dataclass(frozen=True)
class Setting:
    """What a budget allows.

    Attributes:
        strings: how many are trained on; None takes all. seeds: how many are run; the median is the row's.
        measured, draws: strings and draws of the gradients' bias and spread. guide_steps: of the guide before.
        num_states, max_iter: of each chain, and of EM.
    """

    strings: int | None
    epochs: int
    hidden_dim: int
    rate: float
    seeds: int
    measured: int
    draws: int
    guide_steps: int
    num_states: int = 16
    max_iter: int = 20


SETTINGS: dict[str, Setting] = {
    "quick": Setting(400, 25, 48, 0.05, seeds=1, measured=8, draws=25, guide_steps=50),
    "full": Setting(None, 40, 96, 0.05, seeds=3, measured=16, draws=200, guide_steps=500),
}


def strings(split: str, count: int | None = None) -> dict[str, Tensor]:
    """Digit strings, three frames side by side as one; what is left over at an end is dropped."""
    data: Any = load_data("digit_strings", split=split)
    data = data if count is None else take(data, slice(0, count))
    x, steps = data["x"], data["x"].shape[1] // STACKED
    x = x[:, : steps * STACKED].reshape(len(x), steps, STACKED * x.shape[2])
    return {**data, "x": x, "lengths": data["lengths"] // STACKED}


def run(budget: str, seed: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Train and score; see :mod:`zoo.reproduce`."""
    setting = SETTINGS[budget]
    train, test = strings("train", setting.strings), strings("test")
    template = CTC(train["x"].shape[2], int(train["y"].max()), setting.hidden_dim)
    rows: list[dict[str, Any]] = []
    curve: list[dict[str, Any]] = []
    points = {"start": started(template, train, seed)}

    def trained(run: tuple[str, int], say: Callable[[str], None]) -> tuple[Fit, dict[str, float]]:
        name, each = run
        began, cpu = time.perf_counter(), time.process_time()
        fitted = fit(
            template,
            train,
            estimator=name,
            seed=each,
            batch_size=16,
            max_epochs=setting.epochs,
            learning_rate=setting.rate,
            clip_norm=5.0,
            progress=teller(f"{name}, seed {each}", setting.epochs, len(train["x"]), say),
            **ROWS[name],
        )
        fitted.x = None
        adopted = fitted.model.prepare(test)
        with torch.no_grad():
            exact = float(call(fitted.model.log_marginal, adopted).double().sum())
        predicted = fitted.model.predict(adopted["x"], adopted["lengths"])
        found = {
            "error": 100 * label_error_rate(predicted, test["y"]),
            "nats": exact / float(test["target_lengths"].sum()),
            "seconds": time.perf_counter() - began,
            "cpu_seconds": time.process_time() - cpu,
        }
        say(f"{name}, seed {each}: {found['error']:.2f} % label errors, {fitted.seconds:.0f} s")
        return fitted, found

    every = [(name, each) for name in ROWS for each in range(seed, seed + setting.seeds)]
    done = dict(each_by_itself(trained, every, say))
    for name in ROWS:
        fits = [fitted for (each, _), (fitted, _) in done.items() if each == name]
        scores = [found for (each, _), (_, found) in done.items() if each == name]
        if name == "eg":
            points["optimum"] = copy.deepcopy(fits[0].model)
        rows.append(
            {
                "name": name,
                "value": _median([found["error"] for found in scores]),
                "label_errors": [found["error"] for found in scores],
                "nats_a_digit": [found["nats"] for found in scores],
                "status": [fitted.status for fitted in fits],
                "train_seconds": [fitted.seconds for fitted in fits],
                "seconds": sum(found["seconds"] for found in scores),
                "cpu_seconds": sum(found["cpu_seconds"] for found in scores),
            }
        )
        curve += learning_curve(name, fits[0], len(train["x"]))
    sizes = {"measured": setting.measured, "draws": setting.draws, "guide_steps": setting.guide_steps}
    note_gradients(rows, ROWS, points, train, seed=seed, **sizes)
    for row in rows:
        row["note"] = (
            f"{_median(row['nats_a_digit']):.3f} nats a digit, {_median(row['train_seconds']):.0f} s; "
            f"{gradient_note(row)}"
        )
        say(f"{row['name']}: {row['value']:.2f} % {row['note']}")
    rows.append(_words(setting, seed))
    say(f"HMM: {rows[-1]['value']:.2f} % {rows[-1]['note']}")
    return {"setting": {**vars(setting), "rows": ROWS}, "rows": rows, "curve": curve}


def _words(setting: Setting, seed: int) -> dict[str, Any]:
    """The row of the recogniser of chains."""
    began, test = time.perf_counter(), load_data("digit_strings", split="test")
    assert isinstance(test, dict)
    models = recogniser(setting.num_states, setting.max_iter, seed)
    predicted = decoded(models, [10, *range(1, 10)], test["x"], test["lengths"])
    spent = time.perf_counter() - began
    note = f"em, {setting.num_states} states a digit, {spent:.0f} s"
    return {"name": "HMM", "value": 100 * label_error_rate(predicted, test["y"]), "seconds": spent, "note": note}


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]
