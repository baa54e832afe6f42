"""Parse trees in brackets, as treebanks and NLTK write them: ``(S (NP (DT the) (NN cat)) (VP (VB sat)))``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from zoo.errors import ZooError

__all__ = ["ParseTree", "Span", "binary", "parse_trees"]

Span = tuple[int, int]
_TOKEN = re.compile(r"[()]|[^()\s]+")


@dataclass(frozen=True)
class ParseTree:
    """A labelled tree over the words of a sentence.

    Attributes:
        label: of a phrase, or a word's tag; "" for a bracket without one.
        children: phrases and tags below a phrase; the word alone below a tag.

    ``str(tree)`` is one line of brackets, which :func:`parse_trees` reads again; ``tree.draw()`` a picture in text.

    Example:
        >>> tree = zoo.ParseTree("S", (zoo.ParseTree("N", ("cats",)), zoo.ParseTree("V", ("sleep",))))
        >>> str(tree), tree.words()
        ('(S (N cats) (V sleep))', ('cats', 'sleep'))
    """

    label: str
    children: tuple[ParseTree | str, ...]

    def nodes(self) -> Iterator[tuple[ParseTree, int, int]]:
        """Every node with the words that it spans, [begin, end), each after those below it."""
        stack: list[tuple[ParseTree | str, int]] = [(self, -1)]
        words = 0
        while stack:
            node, begin = stack.pop()
            if isinstance(node, str):
                words += 1
            elif begin >= 0:
                yield node, begin, words
            else:
                # A node is seen again once all below it has been: the words counted by then are its end.
                stack.append((node, words))
                stack.extend((child, -1) for child in reversed(node.children))

    @property
    def is_tag(self) -> bool:
        """Whether a word stands directly below."""
        return len(self.children) == 1 and isinstance(self.children[0], str)

    def words(self) -> tuple[str, ...]:
        """The words, from left to right."""
        return tuple(str(node.children[0]) for node, _, _ in self.nodes() if node.is_tag)

    def tags(self) -> tuple[str, ...]:
        """The tags of the words."""
        return tuple(node.label for node, _, _ in self.nodes() if node.is_tag)

    def spans(self) -> set[Span]:
        """What its phrases and tags span, [begin, end), each once."""
        return {(begin, end) for _, begin, end in self.nodes()}

    def __str__(self) -> str:
        pieces: list[str] = []
        stack: list[ParseTree | str] = [self]
        while stack:
            node = stack.pop()
            if isinstance(node, str):
                pieces.append(node)
            else:
                pieces.append(f"({node.label}")
                stack.append(")")
                stack.extend(reversed(node.children))
        return re.sub(r"\s+\)", ")", " ".join(pieces))

    def draw(self) -> str:
        """The tree as lines of text, a node each, indented by depth."""
        lines: list[str] = []
        stack: list[tuple[ParseTree | str, str, str]] = [(self, "", "")]
        while stack:
            node, before, below = stack.pop()
            if isinstance(node, str) or node.is_tag:
                lines.append(before + (node if isinstance(node, str) else f"{node.label} {node.children[0]}"))
                continue
            lines.append(before + (node.label or "."))
            last = len(node.children) - 1
            for i, child in reversed(list(enumerate(node.children))):
                stack.append(
                    (child, below + ("└── " if i == last else "├── "), below + ("    " if i == last else "│   "))
                )
        return "\n".join(lines)

    def relabelled(self, change: Callable[[str], str], keep: Callable[[ParseTree], bool]) -> ParseTree | None:
        """The tree with other labels, without the tags that ``keep`` refuses and phrases left empty by that.

        None where nothing is left.

        Args:
            change: a label's new one. keep: whether a tag stays, by its label.
        """
        done: dict[int, ParseTree | None] = {}
        for node, _, _ in self.nodes():
            if node.is_tag:
                done[id(node)] = ParseTree(change(node.label), node.children) if keep(node) else None
            else:
                kept = tuple(
                    t for t in (done[id(c)] for c in node.children if isinstance(c, ParseTree)) if t is not None
                )
                done[id(node)] = ParseTree(change(node.label), kept) if kept else None
        return done[id(self)]


def parse_trees(text: str, source: str = "the text") -> list[ParseTree]:
    """The trees of a text in brackets, any number, over any number of lines; a bracket around one is taken off.

    Args:
        text: ``(S (NP ...) (V ...))`` and so on. source: what to call it in a message.

    Raises:
        ZooError: brackets that do not match, a word beside brackets, an empty bracket, each with its line.

    Example:
        >>> trees = zoo.parse_trees("(S (NP (D the) (N cat)) (V sleeps))")
        >>> trees[0].words(), trees[0].spans()
        (('the', 'cat', 'sleeps'), {(0, 1), (1, 2), (0, 3), (2, 3), (0, 2)})
    """
    trees: list[ParseTree] = []
    open_brackets: list[tuple[int, str, list[ParseTree | str]]] = []  # line, label, children
    fresh = False  # whether the last token opened a bracket, so that a word is its label
    for number, line in enumerate(text.splitlines(), 1):
        for token in _TOKEN.findall(line):
            if token == "(":
                open_brackets.append((number, "", []))
            elif token == ")":
                if not open_brackets:
                    raise ZooError(f"{source}: line {number} closes a bracket that none opens. Take out its ')'.")
                begun, label, children = open_brackets.pop()
                tree = _closed(source, begun, label, children)
                (open_brackets[-1][2] if open_brackets else trees).append(tree)
            elif not open_brackets:
                raise ZooError(f"{source}: line {number} expected '(', got {token!r}. Put trees in brackets.")
            elif fresh:
                open_brackets[-1] = (open_brackets[-1][0], token, open_brackets[-1][2])
            else:
                open_brackets[-1][2].append(token)
            fresh = token == "("
    if open_brackets:
        raise ZooError(f"{source}: the bracket that line {open_brackets[0][0]} opens is never closed. Add its ')'.")
    return trees


def _closed(source: str, line: int, label: str, children: list[ParseTree | str]) -> ParseTree:
    words = [child for child in children if isinstance(child, str)]
    if not children:
        got = f"({label})" if label else "()"
        raise ZooError(
            f"{source}: line {line} expected a word or brackets after a label, got {got}. Fill or remove it."
        )
    if words and len(children) > 1:
        raise ZooError(
            f"{source}: line {line} expected either one word or brackets below {label!r}, got {words[0]!r} beside "
            "others. Give each word a tag: (DT the) (NN cat)."
        )
    if not label and len(children) == 1 and isinstance(children[0], ParseTree):
        return children[0]
    return ParseTree(label, tuple(children))


def binary(tags: list[ParseTree], split: Callable[[int, int], int], label: str = "X") -> ParseTree:
    """The binary tree over tagged words that divides [begin, end) at ``split(begin, end)``."""
    stack, done = [(0, len(tags), False)], list[ParseTree]()
    while stack:
        begin, end, seen = stack.pop()
        if end - begin == 1:
            done.append(tags[begin])
        elif seen:
            right, left = done.pop(), done.pop()
            done.append(ParseTree(label, (left, right)))
        else:
            middle = split(begin, end)
            stack += [(begin, end, True), (middle, end, False), (begin, middle, False)]
    return done[0]
