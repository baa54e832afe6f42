"""Text as language models take it: sequences of words or characters, each with its end, over a stated vocabulary.

The rule: of the words of a text those are kept that come at least twice, the most frequent first and of equals the one
first in sorted order, up to the size of the vocabulary, ``<unk>`` and ``<eos>`` among them. Every other word becomes
``<unk>``. A text that has ``<unk>`` was cut before: words that come once are kept there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from zoo.core.schema import END, UNKNOWN
from zoo.data._loaded import Loaded
from zoo.data._text import unpacked_text
from zoo.data._treebank import sentences
from zoo.errors import ZooError

__all__ = ["in_vocabulary", "read_characters", "read_penn_words"]

#: The share of lines of a text without published parts that is trained on.
TRAINED = 0.9


def in_vocabulary(rows: Sequence[Sequence[str]], vocabulary: int | Collection[str], source: str) -> Loaded:
    """Sentences of words, their ends added and other words than the vocabulary's unknown.

    Args:
        vocabulary: how many words to keep, by the rule of this module; or the words themselves, and where ``<unk>`` is
            none of them every other word stays as it is.

    Raises:
        ZooError: a vocabulary of less than one word beside the two.
    """
    if isinstance(vocabulary, int):
        if vocabulary < 3:
            raise ZooError(
                f"{source}: vocabulary expected at least 3 words, {UNKNOWN} and {END} among them, got {vocabulary}."
            )
        counts = Counter(word for row in rows for word in row)
        least = 1 if UNKNOWN in counts else 2
        others = [word for word in counts if word not in (UNKNOWN, END) and counts[word] >= least]
        kept = set(sorted(others, key=lambda word: (-counts[word], word))[: vocabulary - 2])
    else:
        kept = set(vocabulary)
        if UNKNOWN not in kept:  # then whoever reads on names the words that are strange
            kept |= {word for row in rows for word in row}
    known = [[word if word in kept else UNKNOWN for word in row if word != END] + [END] for row in rows]
    return sentences(known, source)


def read_penn_words(paths: Mapping[str, Path]) -> Loaded:
    """One of the three parts of the Penn Treebank's words, a sentence a line, coded by the words of the training part.

    Files by role: the part itself, and ``train``.
    """
    (part,) = [role for role in paths if role != "train"] or ["train"]
    rows = {role: _lines(path) for role, path in paths.items()}
    loaded = in_vocabulary(rows[part], {word for row in rows["train"] for word in row}, "ptb_lm")
    loaded.symbols = tuple(sorted({END, UNKNOWN, *(word for row in rows["train"] for word in row)}))
    return loaded


def read_characters(paths: Mapping[str, Path]) -> Loaded:
    """The lines of a text that have any characters, in these; the first nine tenths of them, or the rest."""
    ((split, path),) = paths.items()
    lines = [line for line in unpacked_text(path).split("\n") if line]
    cut = round(TRAINED * len(lines))
    symbols = tuple(sorted({END, *(character for line in lines for character in line)}))
    part = lines[:cut] if split == "train" else lines[cut:]
    loaded = sentences([[*line, END] for line in part], path.name)
    loaded.symbols = symbols
    return loaded


def _lines(path: Path) -> list[list[str]]:
    return [words for line in unpacked_text(path).split("\n") if (words := line.split())]
