"""What Tab offers, where the shell asks (``zoo --install-completion``).

A shell waits for the answer: names are read off the text of the files that have them, and nothing of theirs is run.
"""

from __future__ import annotations

import re
from pathlib import Path

from zoo.reporting.subjects import CRITERIA

__all__ = [
    "benchmarks",
    "criteria",
    "data_names",
    "estimator_list",
    "estimators",
    "installed",
    "model_names",
    "models",
    "suffixes",
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
    named = _written("data", r'^    "(\w+)": (?:DataSet\(|_published\(|_treebank\(|\(\d+, ")')
    return [name for name in named if name.startswith(incomplete)] + _paths(incomplete, suffixes())


def suffixes() -> tuple[str, ...]:
    """Of the files that can be read."""
    return tuple(re.findall(r'"(\.\w+)"', " ".join(_written("data", r"^(?:TEXT_)?SUFFIXES = \((.*)\)$"))))


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


def _written(package: str, pattern: str) -> list[str]:
    """What a pattern finds in the files of a package, sorted."""
    texts = (path.read_text(encoding="utf-8") for path in (Path(__file__).parent.parent / package).glob("*.py"))
    return sorted(name for text in texts for name in re.findall(pattern, text, re.MULTILINE))


def _paths(incomplete: str, suffixes: tuple[str, ...]) -> list[str]:
    """Folders and files that begin so; what is in a folder, where it is the only one: shells end a single word."""
    folder = Path(incomplete if incomplete.endswith("/") else Path(incomplete).parent)
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return []
    names = [f"{path}/" if path.is_dir() else str(path) for path in entries if not path.name.startswith(".")]
    fitting = [name for name in names if name.startswith(incomplete) and name.endswith(("/", *suffixes))]
    if len(fitting) == 1 and fitting[0].endswith("/") and fitting[0] != incomplete:
        return _paths(fitting[0], suffixes) or fitting
    return fitting


def installed() -> None:
    """Mend what typer has installed: names with blanks in bash, and the first Tab in zsh.

    A function that zsh loads when it is first asked only defines another one, which answers from the second Tab on.
    """
    for script, plain, mended in (
        (Path.home() / ".bash_completions" / "zoo.sh", "complete -o default -F", "complete -o default -o filenames -F"),
        (
            Path.home() / ".zfunc" / "_zoo",
            "compdef _zoo_completion zoo",
            'if [[ $funcstack[1] = _zoo ]]; then _zoo_completion "$@"; else compdef _zoo_completion zoo; fi',
        ),
    ):
        if script.is_file() and mended not in (text := script.read_text(encoding="utf-8")):
            script.write_text(text.replace(f"\n{plain}", f"\n{mended}"), encoding="utf-8")
