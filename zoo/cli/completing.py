"""What Tab offers, where the shell asks (``zoo --install-completion``). Only what is asked for is imported."""

from __future__ import annotations

from pathlib import Path

from zoo.reporting.subjects import CRITERIA

__all__ = [
    "benchmarks",
    "criteria",
    "data_names",
    "estimator_list",
    "estimators",
    "model_names",
    "models",
    "tables",
]


def model_names() -> list[str]:
    """The models' names, by their files: nothing of theirs is imported."""
    return _files("models")


def models(incomplete: str) -> list[str]:
    """Models of the zoo, and files of Python."""
    return [name for name in model_names() if name.startswith(incomplete)] + _paths(incomplete, (".py",))


def data_names(incomplete: str) -> list[str]:
    """Named data sets, and files that can be read."""
    from zoo.data import list_data
    from zoo.data._files import SUFFIXES

    return [each.name for each in list_data() if each.name.startswith(incomplete)] + _paths(incomplete, SUFFIXES)


def criteria(incomplete: str) -> list[str]:
    """What chooses among models of several sizes."""
    return [name for name in CRITERIA if name.startswith(incomplete)]


def estimators(incomplete: str) -> list[str]:
    """The estimators' names."""
    from zoo.cli.descriptions import estimator_names

    return [name for name in estimator_names() if name.startswith(incomplete)]


def estimator_list(incomplete: str) -> list[str]:
    """Names with commas: the last one is completed by one that does not stand there yet."""
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in estimators(last) if name not in before.split(",")]


def tables(incomplete: str) -> list[str]:
    """The tables of ``zoo reproduce``."""
    return [name for name in _files("reproduce") if name.startswith(incomplete)]


def benchmarks(incomplete: str) -> list[str]:
    """The benchmarks, which a checkout has."""
    return [name for name in _files("../benchmarks") if name.startswith(incomplete)]


def _files(package: str) -> list[str]:
    folder = Path(__file__).parent.parent / package
    return sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))


def _paths(incomplete: str, suffixes: tuple[str, ...]) -> list[str]:
    folder = Path(incomplete if incomplete.endswith("/") else Path(incomplete).parent)
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return []
    names = [f"{path}/" if path.is_dir() else str(path) for path in entries if not path.name.startswith(".")]
    return [name for name in names if name.startswith(incomplete) and name.endswith(("/", *suffixes))]
