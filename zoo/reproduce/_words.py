"""A recogniser of digit strings without a network: one hidden Markov model a digit, by EM, in a loop over all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from zoo.data._fetch import locate
from zoo.data._sets import DATA_SETS
from zoo.data._strings import joined
from zoo.data.speech import features, read_recordings
from zoo.models.gaussian_hmm import GaussianHMM
from zoo.reproduce._rows import fit
from zoo.structures import Chain
from zoo.structures.decoding import padded

__all__ = ["decoded", "recogniser"]

#: The chance that a word is over, in each frame of its last state.
OVER = 0.05


def recogniser(num_states: int, max_iter: int, seed: int = 0) -> list[GaussianHMM]:
    """Chains from left to right of the digits 0..9, each of its training recordings alone, in pauses and noise."""
    (forms,) = DATA_SETS["digit_strings"].files["train"].values()
    rng = np.random.default_rng(seed)
    said: dict[int, list[Tensor]] = {digit: [] for digit in range(10)}
    for name, rate, signal in sorted(
        read_recordings(locate("digit_strings", forms)), key=lambda recording: recording[0]
    ):
        digit, _, index = name.split("_")
        if int(index) >= 5:  # the published split
            said[int(digit)].append(torch.from_numpy(features(joined([signal], rate, rng), rate)))
    models = []
    for spoken in said.values():
        x = {"x": pad_sequence(spoken, batch_first=True), "lengths": torch.tensor([len(frames) for frames in spoken])}
        template = GaussianHMM(num_states, x["x"].shape[2], topology="left_right")
        models.append(fit(template, x, estimator="em", seed=seed, max_iter=max_iter, restarts=1).model)
    return models  # type: ignore[return-value]


def decoded(models: Sequence[GaussianHMM], symbols: Sequence[int], x: Tensor, lengths: Tensor) -> Tensor:
    """The strings (N, U) of the most probable paths through all chains in a loop, padded with 0.

    Args:
        models: chains from left to right of as many states each. symbols: what each stands for.
        x: (N, T, D). lengths: (N,).
    """
    size, words = len(models[0].transition_probs), len(models)
    within = torch.block_diag(*(model.transition_probs.double() for model in models))
    first, last = torch.arange(words) * size, torch.arange(words) * size + size - 1
    within[last, last] = 1 - OVER
    within[last.unsqueeze(-1), first] = OVER / words
    initial = torch.full((words * size,), -torch.inf, dtype=torch.float64)
    initial[first] = 0.0
    rows = x.double().reshape(-1, x.shape[2])
    with torch.no_grad():
        emission = torch.cat([model.component_log_prob(rows) for model in models], -1)
    chain: Any = Chain(initial, within.log(), emission.reshape(*x.shape[:2], -1), lengths)
    paths, _ = chain.argmax()
    strings = []
    for path, length in zip(paths.tolist(), lengths.tolist(), strict=True):
        begun = [i for i in range(length) if path[i] % size == 0 and (i == 0 or path[i - 1] != path[i])]
        strings.append([symbols[path[i] // size] for i in begun])
    return padded(strings)
