"""Strings out of log-probabilities, against all paths written out."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from zoo.errors import ZooError
from zoo.scores.edits import edit_distance, label_error_rate
from zoo.structures import Alignment
from zoo.structures.decoding import best_path, frames_needed, padded, prefix_beam, spans, spelled


def string_of(path: tuple[int, ...]) -> tuple[int, ...]:
    merged = [symbol for symbol, _ in itertools.groupby(path)]
    return tuple(symbol for symbol in merged if symbol > 0)


def log_probs(items: int, steps: int, symbols: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(items, steps, symbols, dtype=torch.float64, generator=generator)).log_softmax(-1)


def test_paths_spell_their_strings() -> None:
    paths = list(itertools.product(range(3), repeat=5))
    found = spelled(torch.tensor(paths))
    assert [tuple(s for s in row if s) for row in found.tolist()] == [string_of(path) for path in paths]
    assert all(0 not in row[: len(string_of(p))] for p, row in zip(paths, found.tolist(), strict=True))
    assert spelled(torch.tensor([[2, 2, -1], [0, 1, 1]])).tolist() == [[2, 0, 0], [1, 0, 0]]
    assert spelled(torch.tensor(paths).reshape(3, 81, 5)).reshape(-1, 5).equal(found)


def test_a_path_says_from_when_to_when_each_symbol_lasts() -> None:
    paths = torch.tensor([[1, 1, 0, 1, 2, 2], [0, 0, 3, -1, -1, -1]])
    assert spans(paths, 3).tolist() == [[[0, 1], [3, 3], [4, 5]], [[2, 2], [-1, -1], [-1, -1]]]


def test_a_target_needs_a_blank_between_equal_neighbours() -> None:
    targets = torch.tensor([[1, 1, 1], [1, 2, 1], [2, 2, 0], [0, 0, 0]])
    sizes = torch.tensor([3, 3, 2, 0])
    need = frames_needed(targets, sizes)
    assert need.tolist() == [5, 3, 3, 0]
    for target, size, least in zip(targets[:3], sizes[:3], need[:3], strict=True):
        for frames, possible in ((int(least), True), (int(least) - 1, False)):
            alignment = Alignment(torch.zeros(1, frames, 3), target[None, : int(size)])
            assert bool(alignment.log_partition().isfinite()) == possible


def test_a_wide_beam_finds_the_most_probable_string_and_all_of_its_probability() -> None:
    logs, lengths = log_probs(6, 5, 3), torch.tensor([5, 4, 5, 1, 3, 5])
    for item, n, (string, weight) in zip(logs, lengths.tolist(), prefix_beam(logs, lengths, 1000), strict=True):
        totals: dict[tuple[int, ...], float] = {}
        for path in itertools.product(range(3), repeat=n):
            share = math.exp(sum(float(item[t, s]) for t, s in enumerate(path)))
            totals[string_of(path)] = totals.get(string_of(path), 0.0) + share
        best = max(totals, key=lambda string: totals[string])
        assert tuple(string) == best
        assert weight == pytest.approx(math.log(totals[best]), abs=1e-12)


def test_a_beam_of_some_width_finds_what_the_best_path_does_not() -> None:
    # The blank is likeliest in either frame, but all paths of "1" together are likelier than two blanks.
    logs = torch.tensor([[[0.6, 0.4], [0.6, 0.4]]]).log()
    lengths = torch.tensor([2])
    assert spelled(best_path(logs, lengths)).tolist() == [[0, 0]]
    ((string, weight),) = prefix_beam(logs, lengths, 2)
    assert string == [1]
    assert weight == pytest.approx(math.log(0.64), abs=1e-7)
    with pytest.raises(ZooError, match="width expected at least 1, got 0"):
        prefix_beam(logs, lengths, 0)


def test_strings_are_padded_with_blanks() -> None:
    assert padded([[1, 2], [], [3]]).tolist() == [[1, 2], [0, 0], [3, 0]]
    assert padded([[]]).tolist() == [[0]]


def slow_distance(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    if not a or not b:
        return len(a) + len(b)
    return min(
        slow_distance(a[1:], b) + 1,
        slow_distance(a, b[1:]) + 1,
        slow_distance(a[1:], b[1:]) + (a[0] != b[0]),
    )


def test_edit_distance_is_the_recursion() -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(60):
        a, b = (
            tuple(
                torch.randint(0, 3, (int(torch.randint(0, 6, (), generator=generator)),), generator=generator).tolist()
            )
            for _ in range(2)
        )
        assert edit_distance(a, b) == slow_distance(a, b), (a, b)


def test_label_error_rate_counts_edits_by_the_symbols_of_the_truth() -> None:
    predicted, y = torch.tensor([[1, 2, 0], [3, 3, 3]]), torch.tensor([[1, 2, 4, 0], [3, 3, 3, 0]])
    assert label_error_rate(predicted, y) == pytest.approx(1 / 6)
    with pytest.raises(ZooError, match="expected 2 predicted strings, got 1"):
        label_error_rate(predicted[:1], y)
    with pytest.raises(ZooError, match="got none"):
        label_error_rate(predicted, torch.zeros(2, 1))
