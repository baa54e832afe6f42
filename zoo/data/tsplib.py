"""Problems of the travelling salesman in the format of TSPLIB, with its own rounding of distances.

Reinelt (1995), TSPLIB 95, http://comopt.ifi.uni-heidelberg.de/software/TSPLIB95/: section 2 has the distances, whose
rounding is part of a problem. Symmetric problems by coordinates (EUC_2D, CEIL_2D, MAN_2D, MAX_2D, GEO, ATT) and by
explicit matrices are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoo.data._data_set import DataSet
from zoo.data._fetch import File, locate
from zoo.data._loaded import Loaded
from zoo.errors import ZooError

__all__ = ["CITIES", "Cities", "load_cities", "read_tsp"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Cities:
    """A problem.

    Attributes:
        name: as its file has it.
        distances: (n, n), whole numbers.
        coordinates: (n, 2), x to the right and y up (of GEO longitude and latitude in decimal degrees), to draw; None
            where a file has distances alone.
    """

    name: str
    distances: Array
    coordinates: Array | None


# Distances, by TSPLIB's rules ----------------------------------------------------------------------------------------


def _nearest(values: Array) -> Array:
    return np.floor(values + 0.5)


def _differences(points: Array) -> Array:
    return np.abs(points[:, None] - points[None])


def _euclidean(points: Array) -> Array:
    return np.sqrt(np.square(_differences(points)).sum(-1))


def _pseudo_euclidean(points: Array) -> Array:
    exact = np.sqrt(np.square(_differences(points)).sum(-1) / 10)
    rounded = _nearest(exact)
    return np.where(rounded < exact, rounded + 1, rounded)


def _degrees(points: Array) -> Array:
    """Degrees of latitude and longitude written as degrees.minutes."""
    whole = np.trunc(points)
    return whole + 5 * (points - whole) / 3


def _geographical(points: Array) -> Array:
    latitude, longitude = (3.141592 * _degrees(points) / 180).T  # π as TSPLIB has it: others change some distances
    q1 = np.cos(longitude[:, None] - longitude)
    q2, q3 = np.cos(latitude[:, None] - latitude), np.cos(latitude[:, None] + latitude)
    cosine = np.clip(0.5 * ((1 + q1) * q2 - (1 - q1) * q3), -1, 1)
    return np.trunc(6378.388 * np.arccos(cosine) + 1)


_BY_COORDINATES: dict[str, Callable[[Array], Array]] = {
    "EUC_2D": lambda points: _nearest(_euclidean(points)),
    "CEIL_2D": lambda points: np.ceil(_euclidean(points)),
    "MAN_2D": lambda points: _nearest(_differences(points).sum(-1)),
    "MAX_2D": lambda points: _nearest(_differences(points)).max(-1),
    "GEO": _geographical,
    "ATT": _pseudo_euclidean,
}


def _lower_rows(n: int) -> Iterator[tuple[int, int]]:
    return ((i, j) for i in range(n) for j in range(i))


def _upper_rows(n: int) -> Iterator[tuple[int, int]]:
    return ((i, j) for i in range(n) for j in range(i + 1, n))


#: By format, the entries in the order of the file; columns of one half are rows of the other, transposed.
_ENTRIES: dict[str, Callable[[int], Iterator[tuple[int, int]]]] = {
    "FULL_MATRIX": lambda n: ((i, j) for i in range(n) for j in range(n)),
    "LOWER_ROW": _lower_rows,
    "UPPER_COL": _lower_rows,
    "UPPER_ROW": _upper_rows,
    "LOWER_COL": _upper_rows,
    "LOWER_DIAG_ROW": lambda n: ((i, j) for i in range(n) for j in range(i + 1)),
    "UPPER_DIAG_COL": lambda n: ((i, j) for i in range(n) for j in range(i + 1)),
    "UPPER_DIAG_ROW": lambda n: ((i, j) for i in range(n) for j in range(i, n)),
    "LOWER_DIAG_COL": lambda n: ((i, j) for i in range(n) for j in range(i, n)),
}


# The file ------------------------------------------------------------------------------------------------------------


def read_tsp(path: str | Path) -> Cities:
    """A file in TSPLIB's format.

    Raises:
        ZooError: it is no such file, of a type that is not read, or cut short.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ZooError(f"{path} could not be read: {error.strerror or error}. Check the path.") from None
    return parsed(text, path.name)


def parsed(text: str, who: str) -> Cities:
    """The problem in a text of that format."""
    header, sections = _split(text)
    if "DIMENSION" not in header or "EDGE_WEIGHT_TYPE" not in header:
        lacking = "DIMENSION" if "DIMENSION" not in header else "EDGE_WEIGHT_TYPE"
        raise ZooError(f"{who} expected a TSPLIB file with {lacking}, got none. Check what wrote it.")
    if header.get("TYPE", "TSP").split()[0] != "TSP":
        raise ZooError(f"{who} expected TYPE: TSP, got {header['TYPE']}. Only symmetric tours are read.")
    kind, count = header["EDGE_WEIGHT_TYPE"], header["DIMENSION"]
    if not count.isdecimal() or int(count) < 3:
        raise ZooError(f"{who} expected a DIMENSION of at least 3, got {count}. Check what wrote it.")
    n = int(count)
    name = header.get("NAME", who).removesuffix(".tsp")
    if kind == "EXPLICIT":
        shown = _table(sections, "DISPLAY_DATA_SECTION", n, who) if "DISPLAY_DATA_SECTION" in sections else None
        return Cities(name, _explicit(header, sections, n, who), shown)
    if kind not in _BY_COORDINATES:
        known = ", ".join([*_BY_COORDINATES, "EXPLICIT"])
        raise ZooError(f"{who} expected an EDGE_WEIGHT_TYPE of {known}, got {kind}. Pass a matrix of distances.")
    points = _table(sections, "NODE_COORD_SECTION", n, who)
    distances = _BY_COORDINATES[kind](points)
    np.fill_diagonal(distances, 0.0)
    return Cities(name, distances, _degrees(points)[:, ::-1].copy() if kind == "GEO" else points)


def _split(text: str) -> tuple[dict[str, str], dict[str, list[str]]]:
    """The words of the header, and the lines of each section."""
    header: dict[str, str] = {}
    sections: dict[str, list[str]] = {}
    lines: list[str] | None = None
    for line in map(str.strip, text.splitlines()):
        key, colon, value = (part.strip() for part in line.partition(":"))
        if line == "EOF":
            break
        if key.endswith("_SECTION"):
            lines = sections.setdefault(key, [])
        elif colon:
            header[key.upper()], lines = value, None
        elif line and lines is not None:
            lines.append(line)
    return header, sections


def _numbers(sections: Mapping[str, list[str]], section: str, wanted: int, who: str) -> Array:
    """The numbers of a section, as many as there have to be."""
    words = " ".join(sections.get(section, [])).split()
    try:
        numbers = np.array([float(word) for word in words])
    except ValueError:
        strange = next(word for word in words if not _is_number(word))
        raise ZooError(f"{who} expected numbers in {section}, got {strange!r}. Check what wrote it.") from None
    if len(numbers) != wanted:
        short = "It is cut short: get it again." if len(numbers) < wanted else "Check its DIMENSION."
        raise ZooError(f"{who} expected {wanted} numbers in {section}, got {len(numbers)}. {short}")
    if not np.isfinite(numbers).all():
        raise ZooError(f"{who} expected finite numbers in {section}, got others. Check what wrote it.")
    return numbers


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _table(sections: Mapping[str, list[str]], section: str, n: int, who: str) -> Array:
    """Coordinates (n, 2) behind the numbers 1..n of the cities, in whatever order."""
    rows = _numbers(sections, section, 3 * n, who).reshape(n, 3)
    order = rows[:, 0].argsort()
    if not np.array_equal(rows[order, 0], np.arange(1, n + 1)):
        raise ZooError(f"{who} expected the cities 1 to {n} in {section}, each once, got others. Number them so.")
    return rows[order, 1:]


def _explicit(header: Mapping[str, str], sections: Mapping[str, list[str]], n: int, who: str) -> Array:
    form = header.get("EDGE_WEIGHT_FORMAT", "none")
    if form not in _ENTRIES:
        raise ZooError(f"{who} expected an EDGE_WEIGHT_FORMAT of {', '.join(_ENTRIES)}, got {form}. Save it so.")
    places = np.array(list(_ENTRIES[form](n)))
    distances = np.zeros((n, n))
    distances[places[:, 0], places[:, 1]] = _numbers(sections, "EDGE_WEIGHT_SECTION", len(places), who)
    return distances if form == "FULL_MATRIX" else distances + np.tril(distances, -1).T + np.triu(distances, 1).T


# Named problems ------------------------------------------------------------------------------------------------------

# Coordinates, degrees.minutes north and east: facts, in use since 1990.
# fmt: off
_BURMA = (
    16.47, 96.10, 16.47, 94.44, 20.09, 92.54, 22.39, 93.37, 25.23, 97.24, 22.00, 96.05, 20.47, 97.02,
    17.20, 96.29, 16.30, 97.38, 14.05, 98.12, 16.53, 97.38, 21.52, 95.59, 19.41, 97.13, 20.09, 94.55,
)
_ULYSSES = (
    38.24, 20.42, 39.57, 26.15, 40.56, 25.32, 36.26, 23.12, 33.48, 10.54, 37.56, 12.19, 38.42, 13.11, 37.52, 20.44,
    41.23, 9.10, 41.17, 13.05, 36.08, -5.21, 38.47, 15.13, 38.15, 15.35, 37.51, 15.17, 35.49, 14.32, 39.36, 19.56,
)
# fmt: on


def _built_in(name: str, flat: tuple[float, ...]) -> Callable[[Mapping[str, Path]], Cities]:
    def read(_: Mapping[str, Path]) -> Cities:
        points = np.array(flat).reshape(-1, 2)
        distances = _geographical(points)
        np.fill_diagonal(distances, 0.0)
        return Cities(name, distances, _degrees(points)[:, ::-1].copy())

    return read


def _from_file(paths: Mapping[str, Path]) -> Cities:
    return read_tsp(paths["x"])


_SOURCE = "G. Reinelt (1991), TSPLIB, http://comopt.ifi.uni-heidelberg.de/software/TSPLIB95/"
#: By name: number of cities, what they are, how they are read, the file with its checksum and size.
_PROBLEMS: dict[str, tuple[int, str, Callable[[Mapping[str, Path]], Cities], tuple[str, int] | None]] = {
    "burma14": (14, "cities in Burma", _built_in("burma14", _BURMA), None),
    "ulysses16": (16, "places on the way of Ulysses", _built_in("ulysses16", _ULYSSES), None),
    "gr17": (17, "cities, by explicit distances", _from_file,
             ("b18d6060189534ec7c6ea3b50b6ba793d1a3bd22b38e99bf9f422338ffa203fa", 730)),
    "att48": (48, "capitals of the United States, pseudo-Euclidean", _from_file,
              ("7a7b04423c4463e873ec5d1f0592ad4a5cba168018e3f4edfd7f7e541fde03ac", 738)),
    "eil51": (51, "points in the plane", _from_file,
              ("66c05ad077ffd64d5778e358bbd16be049f8c8ae880cbd24f034487331d1ccce", 579)),
    "berlin52": (52, "locations in Berlin", _from_file,
                 ("8496a5838133e3c3eb25a9fa8893b1ac302593fc8dc325350643a0cabd8abadc", 916)),
}  # fmt: skip


def _data_set(name: str) -> DataSet:
    n, about, read, file = _PROBLEMS[name]
    return DataSet(
        f"{n} x {n}",
        f"distances between {n} {about}, rounded as TSPLIB has it",
        _SOURCE,
        "no formal licence; free for research" if file else "facts; TSPLIB is free for research",
        lambda paths: Loaded(read(paths).distances),
        {} if file is None else {"": {"x": (File(f"tsplib/{name}.tsp", *file),)}},
        provider="" if file else "latent-zoo",
        otherwise="burma14" if file else "",
    )


CITIES: dict[str, DataSet] = {name: _data_set(name) for name in _PROBLEMS}


def load_cities(name_or_path: str | Path) -> Cities:
    """A named problem, or a file in TSPLIB's format, with coordinates where it has them.

    Raises:
        ZooError: a file that is not there, or not what it should be.
    """
    if isinstance(name_or_path, str) and name_or_path in _PROBLEMS:
        known = CITIES[name_or_path]
        roles = known.files.get("", {})
        return _PROBLEMS[name_or_path][2](
            {role: locate(name_or_path, forms, known.otherwise) for role, forms in roles.items()}
        )
    return read_tsp(name_or_path)
