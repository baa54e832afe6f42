"""Neural probabilistic context-free grammar: the probabilities of rules come from embeddings of their symbols.

    root ~ softmax(u_A . f_root(w_root))                    f_root, f_word: residual networks of two layers each
    A -> B C ~ softmax(u_BC . w_A + b_BC)
    P -> v ~ softmax(u_v . f_word(w_P) + b_v)

Shared embeddings make the likelihood easier to climb than that of free probabilities. Kim, Dyer & Rush (2019),
"Compound probabilistic context-free grammars for grammar induction", section 2.2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.core.checks import positive
from zoo.models.shared.grammar import OneGrammar, Tables
from zoo.models.shared.grammar_network import FromNetwork, GrammarNetwork

__all__ = ["NeuralPCFG"]


class NeuralPCFG(FromNetwork, OneGrammar):
    """A grammar of A nonterminals and P preterminals over V symbols, its probabilities made by a network.

    Args:
        num_nonterminals: A. num_preterminals: P. num_symbols: V, symbols are 0 to V - 1.
        embedding_dim: of each symbol's embedding, and width of the networks.

    Shapes:
        x: (N, T) with ``lengths`` (N,), or text as lists of words. root_probs: (A,). emission_probs: (P, V).
        rule_probs: (A, S, S), S = A + P, nonterminals first.
        log_marginal(x, lengths): (N,), nats, exact; -inf for a sentence of one word, which fits leave out.

    Raises:
        ZooError: an empty sentence, a symbol outside 0 to V - 1.

    Example:
        >>> model, x = tiny()
        >>> model.log_marginal(**x).shape
        torch.Size([4])
    """

    reference = "Kim, Dyer & Rush (2019), Compound probabilistic context-free grammars for grammar induction"

    def __init__(self, num_nonterminals: int, num_preterminals: int, num_symbols: int, embedding_dim: int = 64) -> None:
        super().__init__()
        self._set_up(num_nonterminals, num_preterminals, num_symbols)
        self.embedding_dim = positive(embedding_dim, "embedding_dim", type(self).__name__)
        self.network = GrammarNetwork(num_nonterminals, num_preterminals, num_symbols, embedding_dim)

    def tables(self) -> Tables:
        found: Tables = self.network()
        return found


def tiny() -> tuple[NeuralPCFG, dict[str, Tensor]]:
    """The smallest honest instance, and data for it."""
    model = NeuralPCFG(num_nonterminals=2, num_preterminals=2, num_symbols=3, embedding_dim=4)
    x = torch.tensor([[0, 1, 2, 0], [2, 2, 0, 0], [0, 1, 0, 0], [1, 2, 2, 1]])
    return model, {"x": x, "lengths": torch.tensor([4, 3, 2, 4])}
