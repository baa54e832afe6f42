"""What probabilistic context-free grammars share: the sum over trees, parses, scores, draws, and how they are printed.

    root ~ root_probs                                       a nonterminal, A of them
    A -> B C ~ rule_probs[A]                                B and C any of S = A + P symbols, nonterminals first
    P -> w ~ emission_probs[P]                              a preterminal becomes one word of V

Every nonterminal becomes two symbols: a sentence has at least two words. The sum over the trees of a sentence is
``zoo/structures/tree.py``. Lari & Young (1990), "The estimation of stochastic context-free grammars using the
inside-outside algorithm".
"""

from __future__ import annotations

from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from zoo.core.checks import positive
from zoo.core.contract import Axes, LatentVariableModel, prepared
from zoo.core.data import Data, Fields, plain
from zoo.core.memory import rows_at_once
from zoo.core.pieces import gathered
from zoo.core.sequences import lengths_of, steps_in
from zoo.data.parse_tree import ParseTree
from zoo.errors import ZooError
from zoo.models.shared.sentences import checked_sentences, coded_sentences, drawn_sentences, readable
from zoo.structures.tree import Tree

__all__ = ["Grammar", "OneGrammar", "Sentences", "Tables", "trees_of"]

#: Logarithms of the probabilities of the root (A,), of rules (A, S, S) and of words (P, V); with a dimension for items
#: before them where each has its own.
Tables = tuple[Tensor, Tensor, Tensor]


class Sentences(dist.TorchDistribution):
    """Sentences (T,) of known length under a grammar: ``log_prob`` sums over all trees, nats.

    It is the probability of the sentence *and* of its length: over all sentences of all lengths it sums to one.

    Args:
        tables: of the grammar, with the batch shape before them, or without for one grammar.
        lengths: (N,), the last dimension of the batch.
        num_steps: T.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    has_rsample = False

    def __init__(self, tables: Tables, lengths: Tensor, num_steps: int, batch_shape: torch.Size | None = None) -> None:
        self.tables, self.lengths, self.num_steps = tables, lengths, num_steps
        own = torch.broadcast_shapes(tables[0].shape[:-1], lengths.shape)
        super().__init__(own if batch_shape is None else batch_shape, torch.Size([num_steps]), validate_args=False)

    @property
    def support(self) -> Any:
        return constraints.independent(constraints.nonnegative_integer, 1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Sentences:
        return Sentences(self.tables, self.lengths, self.num_steps, torch.Size(batch_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        shape = torch.broadcast_shapes(self.batch_shape, value.shape[:-1])
        own = self.tables[0].shape[:-1]
        # Particles stand before the items; without tables of their own they are the same number.
        inner = torch.broadcast_shapes(own, value.shape[:-1], self.lengths.shape)
        tables = tuple(
            t if not own else t.expand(*inner, *t.shape[len(own) :]).flatten(0, len(inner) - 1) for t in self.tables
        )
        x = value.expand(*inner, self.num_steps).reshape(-1, self.num_steps)
        lengths = self.lengths.expand(inner).reshape(-1)
        return trees_of(tables, x, lengths).log_partition().reshape(inner).expand(shape)  # type: ignore[arg-type]

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Sentences of these lengths: a tree of so many words, then a word for each tag."""
        shape = torch.Size(sample_shape) + self.batch_shape
        own = self.tables[0].shape[:-1]
        root, rules, emissions = (
            t.expand(*shape, *t.shape[len(own) :]).flatten(0, len(shape) - 1) for t in self.tables
        )
        lengths = self.lengths.expand(shape).reshape(-1)
        blank = root.new_zeros(len(lengths), self.num_steps, emissions.shape[-2])
        tree = Tree(root, rules, blank, lengths)
        tags = tree.tags(tree.sample(1))[0].clamp_min(0)  # (N, T)
        words = torch.distributions.Categorical(logits=emissions[torch.arange(len(tags)).unsqueeze(-1), tags]).sample()
        inside = torch.arange(self.num_steps, device=words.device) < lengths.unsqueeze(-1)
        return words.masked_fill(~inside, 0).reshape(*shape, self.num_steps)


def trees_of(tables: Tables, x: Tensor, lengths: Tensor) -> Tree:
    """The trees of sentences (N, T) of lengths (N,), weighed by a grammar."""
    root, rules, emissions = tables
    words = x.long()
    if emissions.dim() == 2:
        return Tree(root, rules, emissions.mT[words], lengths)
    index = words.unsqueeze(-1).expand(-1, -1, emissions.shape[-2])
    return Tree(root, rules, emissions.mT.gather(1, index), lengths)


class Grammar(LatentVariableModel):
    """Base class of grammars with A nonterminals and P preterminals over V symbols.

    A subclass has ``tables``. Data are (N, T) integers and ``lengths`` (N,), or text: a list of lists of words.

    Shapes:
        structure(x): a :class:`zoo.structures.Tree`. parse(x): a list of N trees.
    """

    fields = Fields(("x", "lengths"))
    takes_symbols = True
    takes_sentences = True
    default_data = "known_grammar"
    axes: ClassVar[Axes] = {
        "root_probs": ("nonterminal",),
        "rule_probs": ("nonterminal", "left child", "right child"),
        "emission_probs": ("preterminal", "symbol"),
    }

    def _set_up(self, num_nonterminals: int, num_preterminals: int, num_symbols: int) -> None:
        who = type(self).__name__
        self.num_nonterminals = positive(num_nonterminals, "num_nonterminals", who)
        self.num_preterminals = positive(num_preterminals, "num_preterminals", who)
        self.num_symbols = positive(num_symbols, "num_symbols", who)

    @classmethod
    def from_data(cls, x: Data, **arguments: Any) -> LatentVariableModel:
        data = coded_sentences(x, arguments)
        return super().from_data(data, **arguments)

    # The grammar ------------------------------------------------------------------------------------------------

    def tables(self) -> Tables:
        """Logarithms of the probabilities of the root (A,), of rules (A, S, S), of words (P, V), for all sentences."""
        raise NotImplementedError

    @property
    def root_probs(self) -> Tensor:
        """p(root), (A,)."""
        return self.tables()[0].exp()

    @property
    def rule_probs(self) -> Tensor:
        """p(A -> B C | A), (A, S, S), nonterminals before preterminals."""
        return self.tables()[1].exp()

    @property
    def emission_probs(self) -> Tensor:
        """p(w | P), (P, V)."""
        return self.tables()[2].exp()

    # Exact inference --------------------------------------------------------------------------------------------

    def structure(self, x: Data, lengths: Tensor | None = None) -> Tree:
        """p(tree | x) as a whole, without a graph."""
        data = prepared(self, x if lengths is None else {"x": x, "lengths": lengths})
        with torch.no_grad():
            return self.trees(data["x"], data["lengths"])

    def trees(self, x: Tensor, lengths: Tensor) -> Tree:
        """The trees of sentences, weighed by this grammar."""
        return trees_of(self.tables(), x, lengths)

    @torch.no_grad()
    def parse(self, x: Data, minimum_risk: bool = False) -> list[ParseTree | None]:
        """The most probable tree of each sentence; None for one that the grammar cannot make.

        Args:
            minimum_risk: rather the tree whose brackets are expected to be right most often (Goodman, 1996, "Parsing
                algorithms and metrics").
        """
        data = prepared(self, x)
        size = rows_at_once(self.datum_size(data))
        found: list[ParseTree | None] = []
        for words, lengths in zip(data["x"].split(size), data["lengths"].split(size), strict=True):
            tree = self.trees(words, lengths)
            parts = tree.minimum_risk() if minimum_risk else tree.argmax()[0]
            found += readable(parts, words, lengths, self.symbol_names(), self.words())
        return found

    def predict(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The most probable tree of each sentence, (N, T, T): at [i, j] the symbol of the phrase from word i to word j.

        -1 where there is none; see :class:`zoo.structures.Tree`, and :meth:`parse` for trees to read.
        """
        data = self.validate({"x": x, "lengths": lengths} if lengths is not None else x)
        with torch.no_grad():
            return self.trees(data["x"], data["lengths"]).argmax()[0]

    @torch.no_grad()
    def sample(self, num_data: int) -> dict[str, Tensor]:
        """New sentences, ``{"x": (N, T), "lengths": (N,)}``, by torch's generator."""
        root, rules, emissions = (t.exp() for t in self.tables())
        return drawn_sentences(root, rules, emissions, num_data)

    def sample_like(self, template: Data, num_data: int) -> dict[str, Tensor]:
        """``num_data`` new sentences, as long as they come."""
        return self.sample(num_data)

    def rules_out(self) -> bool:
        """There always are impossible sentences: those of one word."""
        return True

    def leaves_out(self, x: Data) -> tuple[Tensor, str]:
        """Which sentences no grammar of this form can make, (N,), and why."""
        return plain(x)["lengths"] < 2, "a sentence of one word: every rule makes two"

    def why_impossible(self, x: Data, which: Tensor) -> str:
        impossible, why = self.leaves_out(x)
        return why if bool(impossible[which].all()) else "no tree of the grammar has these words"

    # Printed ----------------------------------------------------------------------------------------------------

    def symbol_names(self) -> list[str]:
        """What the S symbols are called: N0, N1, ..., P0, P1, ..."""
        return [f"N{i}" for i in range(self.num_nonterminals)] + [f"P{i}" for i in range(self.num_preterminals)]

    def words(self) -> list[str]:
        """What the V codes stand for: the symbols of the data that it was fitted to, or numbers."""
        known = self.schema.symbols if self.schema is not None and self.schema.symbols is not None else ()
        return [known[i] if i < len(known) else str(i) for i in range(self.num_symbols)]

    @torch.no_grad()
    def grammar(self, least: float = 0.01) -> str:
        """The rules of probability ``least`` or more, the most probable first, a symbol a line."""
        names, words = self.symbol_names(), self.words()
        root, rules, emissions = (t.exp().cpu() for t in self.tables())
        lines = ["root: " + _listed([(names[i], float(p)) for i, p in enumerate(root)], least)]
        for i, table in enumerate(rules):
            kept = (table >= least).nonzero().tolist()
            lines.append(
                f"{names[i]} -> " + _listed([(f"{names[b]} {names[c]}", float(table[b, c])) for b, c in kept], least)
            )
        for i, row in enumerate(emissions):
            lines.append(
                f"{names[self.num_nonterminals + i]} -> "
                + _listed([(words[v], float(p)) for v, p in enumerate(row)], least)
            )
        return "\n".join(lines)

    # Data -------------------------------------------------------------------------------------------------------

    def validate(self, x: Data) -> dict[str, Tensor]:
        return checked_sentences(x, self.num_symbols, type(self).__name__)

    def num_units(self, x: Data) -> float:
        """Words in the data, each as often as its sentence counts."""
        return steps_in(x)

    def datum_size(self, x: Data) -> int:
        values = x["x"] if isinstance(x, dict) else x
        return values.shape[1] ** 2 * (self.num_nonterminals + self.num_preterminals)  # the chart

    def probe(self, x: Data) -> Data:
        """The first sentences that are possible at all, cut short.

        Raises:
            ZooError: there is none of two words or more.
        """
        long = (x["lengths"] > 1).nonzero().flatten()[:4]
        if not len(long):
            raise ZooError(f"{type(self).__name__}: expected a sentence of two words or more, got none. Add some.")
        return {"x": x["x"][long, :8], "lengths": x["lengths"][long].clamp_max(8)}


class OneGrammar(Grammar):
    """Base class of grammars that are the same for every sentence.

    Shapes:
        log_marginal(x, lengths): (N,), nats, over all trees; -inf for a sentence that the grammar cannot make.
    """

    in_pieces = ("log_marginal",)

    def model(self, x: Tensor, lengths: Tensor | None = None) -> None:
        with pyro.plate("data", x.shape[0]):
            pyro.sample("x", Sentences(self.tables(), lengths_of(x, lengths), x.shape[1]), obs=x)

    def log_marginal(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """ln p(x) of each sentence and its length, (N,), nats, over all trees; differentiable once."""
        lengths, tables = lengths_of(x, lengths), self.tables()
        if torch.is_grad_enabled():
            return trees_of(tables, x, lengths).log_partition()
        size = rows_at_once(self.datum_size({"x": x}))
        parts = zip(x.split(size), lengths.split(size), strict=True)
        return gathered((trees_of(tables, *part).log_partition() for part in parts), len(x))


def _listed(options: list[tuple[str, float]], least: float) -> str:
    kept = sorted((option for option in options if option[1] >= least), key=lambda option: -option[1])
    return ", ".join(f"{name} {probability:.2f}" for name, probability in kept)
