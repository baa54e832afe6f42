"""The table of tours, small, and what it sets beside the mean fields."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

import zoo
from zoo.densities import tour_dynamics
from zoo.densities.tours import shortest, tour_lengths
from zoo.reporting.tours import animate_tour, places
from zoo.reproduce import reproduce, tsp
from zoo.scores.tours import nearest_neighbour, two_opt


def test_the_table_runs_small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    small = dataclasses.replace(tsp.SETTINGS["quick"], starts=6, problems=("burma14",))
    monkeypatch.setitem(tsp.SETTINGS, "quick", small)
    monkeypatch.setattr(tour_dynamics, "STEPS", 300)
    done = reproduce("tsp", say=lambda line: None)
    found = {row["name"]: row["value"] for row in done.record["rows"]}
    assert found["burma14, potts, valid"] >= 80
    assert 0 <= found["burma14, potts, best"] <= 3
    assert found["burma14, potts and 2-opt, median"] <= found["burma14, potts, median"]
    assert found["burma14, nearest neighbour, best"] > 5
    assert 0 <= found["hopfield_tank, valid"] < 50
    done.save(tmp_path / "tsp.json")
    assert (tmp_path / "tsp.png").stat().st_size > 5000


def test_an_interval_for_a_share() -> None:
    """Wilson's, as in the tables of Newcombe (1998): 81 of 263."""
    assert tsp.interval(81, 263) == "95 % interval 25.5 to 36.6"
    assert tsp.interval(0, 100).startswith("95 % interval 0.0 to 3.7")


def test_nearest_neighbours_and_exchanges() -> None:
    distances = np.asarray(zoo.load_data("burma14"))
    tour = nearest_neighbour(distances, 3)
    assert sorted(tour) == list(range(14))
    assert tour[0] == 3
    for i in range(13):
        assert distances[tour[i], tour[i + 1]] == min(distances[tour[i], b] for b in tour[i + 1 :])
    better = two_opt(tour, distances)
    assert sorted(better) == list(range(14))
    d = torch.tensor(distances)

    def length(order: np.ndarray) -> float:
        return float(tour_lengths(torch.tensor(order), d))

    assert float(shortest(d)) <= length(better) < length(tour)
    for i in range(13):  # no stretch turned round shortens it
        for j in range(i + 1, 14):
            turned = np.concatenate([better[:i], better[i : j + 1][::-1], better[j + 1 :]])
            assert length(turned) >= length(better)


def test_places_keep_distances_of_a_plane() -> None:
    points = np.random.default_rng(0).normal(size=(7, 2))
    distances = np.linalg.norm(points[:, None] - points, axis=-1)
    found = places(distances)
    assert np.linalg.norm(found[:, None] - found, axis=-1) == pytest.approx(distances, abs=1e-6)


def test_a_relaxation_is_animated(tmp_path: Path) -> None:
    from PIL import Image

    distances = torch.as_tensor(zoo.load_data("burma14"))
    steps = zoo.HopfieldTSP(14).steps(distances, 4)
    assert steps.shape == (4, 14, 14)
    assert float(steps[0].max()) < 0.9 < float(steps[-1].max(-1).values.min())
    path = animate_tour(steps, places(distances.numpy()), tmp_path / "a.gif")
    with Image.open(path) as film:
        assert getattr(film, "n_frames", 1) == 4
    with pytest.raises(zoo.ZooError, match=r"expected a name ending in .gif, got 'a.png'"):
        animate_tour(steps, places(distances.numpy()), tmp_path / "a.png")
