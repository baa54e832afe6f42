"""TSPLIB's distances, held to the published lengths of optimal tours, and files that are not what they should be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import zoo
from zoo.data.tsplib import load_cities, read_tsp

#: The optimal tours of TSPLIB, and their published lengths.
ULYSSES = ([1, 14, 13, 12, 7, 6, 15, 5, 11, 9, 10, 16, 3, 2, 4, 8], 6859)
EIL51 = (
    [1, 22, 8, 26, 31, 28, 3, 36, 35, 20, 2, 29, 21, 16, 50, 34, 30, 9, 49, 10, 39, 33, 45, 15, 44, 42, 40, 19, 41,
     13, 25, 14, 24, 43, 7, 23, 48, 6, 27, 51, 46, 12, 47, 18, 4, 17, 37, 5, 38, 11, 32],
    426,
)  # fmt: skip


def along(distances: np.ndarray, tour: list[int]) -> float:
    return float(sum(distances[a - 1, b - 1] for a, b in zip(tour, [*tour[1:], tour[0]], strict=True)))


def test_the_built_in_problem_has_the_published_length() -> None:
    cities = load_cities("ulysses16")
    assert along(cities.distances, ULYSSES[0]) == ULYSSES[1]
    assert cities.coordinates is not None
    assert cities.coordinates[0] == pytest.approx([20.7, 38.4])  # 20.42 is 20 degrees, 42 minutes east
    x = zoo.load_data("ulysses16")
    assert isinstance(x, torch.Tensor)
    assert np.array_equal(x.numpy(), cities.distances)


def problem(kind: str, rows: str, section: str = "NODE_COORD_SECTION", more: str = "", n: int = 4) -> str:
    return f"NAME : four\nTYPE: TSP\nDIMENSION : {n}\nEDGE_WEIGHT_TYPE: {kind}\n{more}{section}\n{rows}\nEOF\n"


POINTS = "2 3 4\n1 0 0\n3 0.5 0\n 4 10 0.4"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("EUC_2D", [5, 1, 10, 5, 8, 10]),  # 0.5 is rounded up
        ("CEIL_2D", [5, 1, 11, 5, 8, 10]),
        ("MAN_2D", [7, 1, 10, 7, 11, 10]),
        ("MAX_2D", [4, 1, 10, 4, 7, 10]),
        ("ATT", [2, 1, 4, 2, 3, 4]),  # sqrt(25 / 10) = 1.58, up from what is nearest where that is less
    ],
)
def test_distances_by_coordinates(tmp_path: Path, kind: str, expected: list[int]) -> None:
    path = tmp_path / "four.tsp"
    path.write_text(problem(kind, POINTS))
    cities = read_tsp(path)
    assert cities.name == "four"
    assert cities.distances[np.triu_indices(4, 1)].tolist() == expected
    assert np.array_equal(cities.distances, cities.distances.T)
    assert cities.coordinates is not None
    assert cities.coordinates[1].tolist() == [3, 4]  # the file has the second city first


FULL = np.array([[0, 1, 2, 3], [1, 0, 4, 5], [2, 4, 0, 6], [3, 5, 6, 0]], dtype=float)
LOWER, UPPER = "1 2 4 3 5 6", "1 2 3 4 5 6"
LOWER_DIAGONAL, UPPER_DIAGONAL = "0 1 0 2 4 0 3 5 6 0", "0 1 2 3 0 4 5 0 6 0"
FORMS = [
    ("FULL_MATRIX", "0 1 2 3\n1 0 4 5 2 4 0\n6 3 5 6 0"), ("LOWER_ROW", LOWER), ("UPPER_COL", LOWER),
    ("UPPER_ROW", UPPER), ("LOWER_COL", UPPER), ("LOWER_DIAG_ROW", LOWER_DIAGONAL), ("UPPER_DIAG_COL", LOWER_DIAGONAL),
    ("UPPER_DIAG_ROW", UPPER_DIAGONAL), ("LOWER_DIAG_COL", UPPER_DIAGONAL),
]  # fmt: skip


@pytest.mark.parametrize(("form", "rows"), FORMS)
def test_explicit_distances(tmp_path: Path, form: str, rows: str) -> None:
    path = tmp_path / "four.tsp"
    path.write_text(problem("EXPLICIT", rows, "EDGE_WEIGHT_SECTION", f"EDGE_WEIGHT_FORMAT: {form}\n"))
    cities = read_tsp(path)
    assert np.array_equal(cities.distances, FULL)
    assert cities.coordinates is None
    x = zoo.load_data(path)
    assert isinstance(x, torch.Tensor)
    assert np.array_equal(x.numpy(), FULL)


EXPLICIT = "EDGE_WEIGHT_FORMAT: LOWER_ROW\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (problem("XRAY1", POINTS), "expected an EDGE_WEIGHT_TYPE of EUC_2D, .*, got XRAY1"),
        (problem("EUC_2D", POINTS).replace("TYPE: TSP", "TYPE: ATSP", 1), "expected TYPE: TSP, got ATSP"),
        (problem("EUC_2D", "1 0 0\n2 3"), "expected 12 numbers in NODE_COORD_SECTION, got 5. It is cut short"),
        (problem("EUC_2D", POINTS + "\n5 1 1"), "expected 12 numbers .*, got 15. Check its DIMENSION"),
        (problem("EUC_2D", POINTS.replace("3 0.5", "2 0.5")), "expected the cities 1 to 4 .*, each once"),
        (problem("EUC_2D", POINTS.replace("0.5", "half")), "expected numbers in NODE_COORD_SECTION, got 'half'"),
        (problem("EUC_2D", POINTS.replace("0.5", "nan")), "expected finite numbers"),
        (problem("EXPLICIT", "1 2 3", "EDGE_WEIGHT_SECTION", EXPLICIT), "expected 6 numbers .*, got 3. It is cut"),
        (problem("EXPLICIT", "1", "EDGE_WEIGHT_SECTION"), "expected an EDGE_WEIGHT_FORMAT of FULL_MATRIX"),
        (problem("EUC_2D", "1 0 0\n2 1 1", n=2), "expected a DIMENSION of at least 3, got 2"),
        ("NAME: x\nTYPE: TSP\nDIMENSION: 4\n", "expected a TSPLIB file with EDGE_WEIGHT_TYPE, got none"),
        ("city,x,y\n", "expected a TSPLIB file with DIMENSION, got none"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "four.tsp"
    path.write_text(text)
    with pytest.raises(zoo.ZooError, match=message) as caught:
        zoo.load_data(path)
    assert "\n" not in str(caught.value)


def test_the_rounding_of_a_plane_has_the_published_length() -> None:
    if not next(each for each in zoo.list_data() if each.name == "eil51").available:
        pytest.skip("needs TSPLIB's files in ZOO_DATA")
    assert along(load_cities("eil51").distances, EIL51[0]) == EIL51[1]
