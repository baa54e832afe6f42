"""Probabilistic context-free grammar, trained by the inside-outside algorithm.

    root ~ Categorical(root_probs);  A -> B C ~ Categorical(rule_probs[A]);  P -> w ~ Categorical(emission_probs[P])

See ``zoo/models/shared/grammar.py`` for its form. Baker (1979), "Trainable grammars for speech recognition"; Lari &
Young (1990), "The estimation of stochastic context-free grammars using the inside-outside algorithm".
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints

from zoo.core.checks import assigned
from zoo.core.contract import parameter
from zoo.core.data import Data
from zoo.core.pieces import added
from zoo.core.schema import Schema
from zoo.core.sequences import inside, lengths_of
from zoo.core.statistics import Statistics, wide
from zoo.data.parse_tree import ParseTree
from zoo.errors import ZooError
from zoo.models.shared import grammar_starts
from zoo.models.shared.grammar import OneGrammar, Tables, trees_of
from zoo.models.shared.reading_off import read_off

__all__ = ["PCFG"]

_PARAMETERS = ("root_probs", "productions", "emission_probs")


class PCFG(OneGrammar):
    """A grammar of A nonterminals and P preterminals over V symbols, in binary form.

    Args:
        num_nonterminals: A. num_preterminals: P. num_symbols: V, symbols are 0 to V - 1.
        concentration: of a Dirichlet prior on the root and on each symbol's rules and words, at least 1; 1 is maximum
            likelihood.
        labels: what the A + P symbols are called; by default N0, N1, ..., P0, P1, ... A phrase whose label begins with
            "@" stands for a part of one, and is no node of the trees that come out.

    Shapes:
        x: (N, T) with ``lengths`` (N,), or text as lists of words. root_probs: (A,). emission_probs: (P, V).
        rule_probs: (A, S, S), S = A + P, nonterminals first.
        log_marginal(x, lengths): (N,), nats, exact; -inf for a sentence that the grammar cannot make, such as one of
            one word, which fits leave out.

    Raises:
        ZooError: an empty sentence, a symbol outside 0 to V - 1; a root that reaches no word.

    Example:
        >>> model, x = tiny()
        >>> model.log_marginal(**x).shape
        torch.Size([4])
    """

    reference = "Lari & Young (1990), The estimation of stochastic context-free grammars"
    reads_as: ClassVar[dict[str, str]] = {"rule_probs": "productions"}
    keeps = _PARAMETERS
    #: "short": the best of several draws by short runs of EM.
    inits = ("short", "random")
    root_probs: Tensor
    emission_probs: Tensor
    productions: Tensor
    root_probs_unconstrained: Tensor
    productions_unconstrained: Tensor
    emission_probs_unconstrained: Tensor

    def __init__(
        self,
        num_nonterminals: int,
        num_preterminals: int,
        num_symbols: int,
        concentration: float = 1.0,
        labels: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self._set_up(num_nonterminals, num_preterminals, num_symbols)
        who, symbols = type(self).__name__, num_nonterminals + num_preterminals
        if not (math.isfinite(concentration) and concentration >= 1):
            raise ZooError(f"{who}: concentration expected a number of at least 1, got {concentration}.")
        if labels is not None and len(labels) != symbols:
            raise ZooError(f"{who}: labels expected {symbols} names, got {len(labels)}. Name every symbol.")
        self.concentration, self.labels = float(concentration), None if labels is None else tuple(labels)
        for name, *shape in (
            ("root_probs", num_nonterminals),
            ("productions", num_nonterminals, symbols**2),
            ("emission_probs", num_preterminals, num_symbols),
        ):
            even = torch.full(shape, 1 / shape[-1], dtype=self.dtype)
            setattr(self, name, parameter(even, constraints.simplex))

    def entries(self, axis: str) -> Sequence[str] | None:
        if self.labels is None:
            return super().entries(axis)
        a, every = self.num_nonterminals, self.labels
        named = {"nonterminal": every[:a], "preterminal": every[a:], "left child": every, "right child": every}
        return named.get(axis) or super().entries(axis)

    # The grammar ------------------------------------------------------------------------------------------------

    def tables(self) -> Tables:
        raw = (self.root_probs_unconstrained, self.productions_unconstrained, self.emission_probs_unconstrained)
        root, rules, emissions = (torch.log_softmax(each, -1) for each in raw)
        symbols = self.num_nonterminals + self.num_preterminals
        return root, rules.unflatten(-1, (symbols, symbols)), emissions

    @property
    def rule_probs(self) -> Tensor:
        """p(A -> B C | A), (A, S, S), nonterminals before preterminals."""
        return self.tables()[1].exp()

    @rule_probs.setter
    def rule_probs(self, value: Any) -> None:
        new = assigned(value, self.rule_probs, f"{type(self).__name__}.rule_probs")
        self.productions = self._checked("productions", new.flatten(1), "rule_probs")

    def symbol_names(self) -> list[str]:
        return super().symbol_names() if self.labels is None else list(self.labels)

    @classmethod
    def from_treebank(
        cls,
        trees: Sequence[ParseTree],
        symbols: Sequence[str] | None = None,
        leaves: str = "tags",
        smoothing: float = 1.0,
        concentration: float = 1.0,
    ) -> PCFG:
        """The grammar of known trees, each rule as probable as it is frequent among its symbol's.

        Phrases of more than two parts are cut from the left into "@" phrases; a phrase of one part is one with it.

        Args:
            trees: of two words or more; others have no rule here.
            symbols: what the codes 0, 1, ... of the data stand for; by default the leaves' symbols, sorted.
            leaves: what a sentence is made of, "tags" or "words".
            smoothing: pseudo-counts of each symbol in all, spread evenly over its rules or words; 0 for none.
            concentration: as for the constructor, for fits that begin here.

        Raises:
            ZooError: no trees of two words, or a symbol that is not among those named.
        """
        counts = read_off(trees, symbols, leaves)
        a, p = len(counts.rules), len(counts.emissions)
        model = cls(a, p, len(counts.symbols), concentration, counts.labels)
        for name, table in zip(_PARAMETERS, (counts.root, counts.rules.flatten(1), counts.emissions), strict=True):
            table = table + smoothing / table.shape[-1]
            setattr(model, name, table / table.sum(-1, keepdim=True))
        model.schema = Schema(symbols=counts.symbols)
        return model

    # EM ---------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def e_step(
        self, x: Tensor, lengths: Tensor | None = None, hard: bool = False, weights: Tensor | None = None
    ) -> Statistics:
        """Expected counts: ``root_counts`` (A,), ``rule_counts`` (A, S, S), ``emission_counts`` (P, V).

        Args:
            hard: of the most probable tree of each sentence alone. weights: how often each sentence counts, (N,).
        """
        size = self.datum_size({"x": x}) + (0 if weights is None else self.productions_unconstrained.numel())
        e_step = functools.partial(self._piece_e_step, hard=hard)
        return added(e_step, (x, lengths_of(x, lengths), weights), size)

    def _piece_e_step(self, x: Tensor, lengths: Tensor, weights: Tensor | None, hard: bool) -> Statistics:
        tables = tuple(wide(t) for t in self.tables())
        tree = trees_of(tables, x, lengths)  # type: ignore[arg-type]
        weight = tree.preterminals.new_ones(len(x)) if weights is None else wide(weights)
        log_likelihood = objective = tree.value()
        if hard:
            parts, objective = tree.argmax()
            root, rules, tags = tree.counts(parts, weight)
        elif weights is None:
            _, (root, rules, tags) = tree.solve([False] * 3)
        else:
            _, (root, rules, tags) = tree.solve([True] * 3)
            root, rules = (torch.tensordot(weight, t, 1) for t in (root, rules))
            tags = tags * weight.reshape(-1, 1, 1)
        there = inside(x, lengths)
        words = tags.new_zeros(self.num_symbols, self.num_preterminals).index_add_(0, x.long()[there], tags[there])
        return Statistics(
            float(weight.sum()),
            (weight * log_likelihood).sum(),
            (weight * objective).sum(),
            root_counts=root,
            rule_counts=rules,
            emission_counts=words.mT,
        )

    @torch.no_grad()
    def m_step(self, statistics: Statistics) -> list[str]:
        """Shares of the counts, and of the prior's; a symbol that is never used keeps its rules."""
        counts = (statistics["root_counts"], statistics["rule_counts"].flatten(1), statistics["emission_counts"])
        for name, count in zip(_PARAMETERS, counts, strict=True):
            if self.stays(name):
                continue
            count = count + (self.concentration - 1) * (getattr(self, f"{name}_unconstrained") > -math.inf)
            total = count.sum(-1, keepdim=True)
            shares = count / total.where(total > 0, torch.ones_like(total))
            setattr(self, name, shares.where(total > 0, getattr(self, name)))
        return []

    def log_prior(self) -> Tensor:
        """ln p(θ) up to a constant: Dirichlet on the root, and on each symbol's rules and words."""
        total = torch.zeros((), dtype=self.dtype)
        if self.concentration > 1:
            for table in self.tables():
                total = total + (self.concentration - 1) * table[table > -math.inf].sum()
        return total

    # Starts -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def initialize(self, x: Data, init: str, restart: int = 0) -> None:
        """The best of several draws by short runs of EM, or "random", one draw; see ``shared/grammar_starts.py``.

        Raises:
            ZooError: a grammar without an end: from its root no words are reached.
        """
        if init == "current":
            self._check_reaches()
        elif init == "short":
            grammar_starts.start(self, x, restart)
        else:
            often = (
                torch.bincount(x["x"][inside(x["x"], x["lengths"])], minlength=self.num_symbols).to(self.dtype) + 0.5
            )
            for name in _PARAMETERS:
                raw = getattr(self, f"{name}_unconstrained")
                share = often if name == "emission_probs" else 1.0
                drawn = torch.rand(raw.shape, dtype=self.dtype).to(raw) * share + 1e-3
                setattr(self, name, drawn / drawn.sum(-1, keepdim=True))

    def _check_reaches(self) -> None:
        """Raise ZooError where no tree of the grammar ends."""
        root, rules, _ = (t > -math.inf for t in self.tables())
        ends = torch.zeros(rules.shape[-1], dtype=torch.bool, device=rules.device)
        ends[self.num_nonterminals :] = True
        for _ in range(self.num_nonterminals):
            ends[: self.num_nonterminals] |= (rules & ends & ends.unsqueeze(-1)).flatten(1).any(-1)
        if not bool((root & ends[: self.num_nonterminals]).any()):
            raise ZooError(
                f"{type(self).__name__}: expected a root that reaches words, got a grammar without an end. Give a "
                "nonterminal of root_probs a rule with two preterminals in rule_probs."
            )

    def permute_components(self, order: Tensor) -> None:
        """Renumber nonterminals: i becomes what ``order[i]`` was."""
        symbols = torch.cat([order, torch.arange(self.num_nonterminals, self.num_nonterminals + self.num_preterminals)])
        root, rules = self.root_probs.detach(), self.rule_probs.detach()
        self.root_probs = root[order]
        self.rule_probs = rules[order][:, symbols][:, :, symbols]


def tiny() -> tuple[PCFG, dict[str, Tensor]]:
    """The smallest honest instance, and data from it."""
    model = PCFG(num_nonterminals=2, num_preterminals=2, num_symbols=3, concentration=1.1)
    model.root_probs = torch.tensor([0.7, 0.3])
    rules = torch.tensor([[1.0, 1.0, 2.0, 1.0], [1.0, 1.0, 2.0, 1.0], [2.0, 1.0, 12.0, 8.0], [1.0, 3.0, 14.0, 9.0]])
    tables = torch.stack([rules, rules.flip(0, 1)])
    tables[1, 2:, 2:] = rules[2:, 2:].mT
    model.rule_probs = tables / tables.sum((1, 2), keepdim=True)
    model.emission_probs = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])
    x = torch.tensor([[0, 1, 2, 0], [2, 2, 0, 0], [0, 1, 0, 0], [1, 2, 2, 1]])
    return model, {"x": x, "lengths": torch.tensor([4, 3, 2, 4])}
