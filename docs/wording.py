"""How pages speak of models: their families, their first sentence, a docstring's words in a table."""

from __future__ import annotations

import inspect
import re

__all__ = ["FAMILIES", "family", "first_sentence", "plain", "prose"]

#: What models are grouped by, in order, and the mark that names of such classes bear.
FAMILIES = (
    ("Mixtures", r"Mixture$"),
    ("Factors", r"Factor|PCA$"),
    ("Hidden Markov models", r"HMM$"),
    ("Networks, energies, grammars", r""),
)


def family(cls: type) -> int:
    """The number of a class's family."""
    return next(i for i, (_, mark) in enumerate(FAMILIES) if re.search(mark, cls.__name__))


def first_sentence(cls: type) -> str:
    """What a class says that it is, without the full stop, for a table."""
    about = inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0].replace("\n", " ")
    return plain(about.split(". ")[0].rstrip("."))


def plain(text: str) -> str:
    """A docstring's text in a table of Markdown."""
    return re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", text).replace("``", "`").replace("|", r"\|")


def prose(text: str) -> str:
    """A docstring as Markdown: what is indented is what was printed, the rest are paragraphs."""
    parts = []
    for block in re.split(r"\n\n(?=\S)|(?<=\S)\n\n(?= )", text.rstrip()):
        if block.startswith("    "):
            parts.append(f"```text\n{inspect.cleandoc(block)}\n```")
            continue
        options = r"(?<![\w`-])(--[a-z][\w-]*)"  # two hyphens would become a dash
        pieces = re.split("(`[^`]*`)", re.sub(options, r"`\1`", plain(block).replace(r"\|", "|")))
        parts.append("".join(p if p[:1] == "`" else re.sub(r"([*<])", r"\\\1", p) for p in pieces))
    return "\n\n".join(parts) + "\n"
