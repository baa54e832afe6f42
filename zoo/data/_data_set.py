"""What is known of a named data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from zoo.data._fetch import File
from zoo.data._loaded import Loaded
from zoo.data.parse_tree import ParseTree

__all__ = ["DataSet", "Forms"]

Forms = tuple[File, ...]


@dataclass(frozen=True)
class DataSet:
    """One row of the table.

    Attributes:
        shape: what a user gets, as text, for the default split.
        about: what the numbers are.
        source: where they were published.
        licence: as stated there, or what is known.
        read: makes arrays of the located files, by role; called with nothing where the data come with a package.
        files: split -> role -> the file in every form we read. Sets in one part have the one split ``""``.
        provider: the package that holds the data where there are no files.
        labelled: whether ``labels=True`` works.
        trees: the parse trees behind sentences, one a row, of the located files; None where there are none.
        otherwise: a data set of the same kind that comes with the library.
    """

    shape: str
    about: str
    source: str
    licence: str
    read: Callable[[Mapping[str, Path]], Loaded]
    files: Mapping[str, Mapping[str, Forms]] = field(default_factory=dict)
    provider: str = ""
    labelled: bool = False
    trees: Callable[[Mapping[str, Path]], list[ParseTree]] | None = None
    otherwise: str = ""

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the parts, the default one first; empty for a set in one part."""
        return tuple(split for split in self.files if split)
