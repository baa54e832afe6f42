"""Grammars whose probabilities a network makes from embeddings of symbols (Kim, Dyer & Rush, 2019, section 2.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.core.data import Data
from zoo.models.shared.grammar import Grammar, Tables

__all__ = ["FromNetwork", "GrammarNetwork"]


class Residual(nn.Module):
    """y + relu(V relu(U y + p) + q), as wide as what it takes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, y: Tensor) -> Tensor:
        return y + torch.relu(self.second(torch.relu(self.first(y))))


class GrammarNetwork(nn.Module):
    """Embeddings of symbols, and what makes a grammar of them.

    Args:
        num_nonterminals, num_preterminals, num_symbols: A, P, V. embedding_dim: of every symbol.
        latent_dim: L, of what each sentence's grammar depends on beside; 0 for one grammar.

    Shapes:
        forward(z): logarithms of probabilities, (A,), (A, S, S), (P, V); of z (..., L), with its dimensions before
        them.
    """

    def __init__(
        self, num_nonterminals: int, num_preterminals: int, num_symbols: int, embedding_dim: int, latent_dim: int = 0
    ) -> None:
        super().__init__()
        width, self.num_pairs = embedding_dim, (num_nonterminals + num_preterminals) ** 2
        self.root = nn.Parameter(torch.empty(width))
        self.nonterminals = nn.Parameter(torch.empty(num_nonterminals, width))
        self.preterminals = nn.Parameter(torch.empty(num_preterminals, width))
        inputs = width + latent_dim
        self.to_root = nn.Sequential(
            nn.Linear(inputs, width), Residual(width), Residual(width), nn.Linear(width, num_nonterminals)
        )
        self.to_rules = nn.Linear(inputs, self.num_pairs)
        self.to_words = nn.Sequential(
            nn.Linear(inputs, width), Residual(width), Residual(width), nn.Linear(width, num_symbols)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Embeddings of unit normal numbers, matrices by Glorot & Bengio's rule; biases reset themselves."""
        for embedding in (self.root, self.nonterminals, self.preterminals):
            nn.init.normal_(embedding)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)

    def forward(self, z: Tensor | None = None) -> Tables:
        rules = torch.log_softmax(self._read(self.to_rules, self.nonterminals, z), -1)
        symbols = round(self.num_pairs**0.5)
        return (
            torch.log_softmax(self._read(self.to_root, self.root, z), -1),
            rules.unflatten(-1, (symbols, symbols)),
            torch.log_softmax(self._read(self.to_words, self.preterminals, z), -1),
        )

    @staticmethod
    def _read(network: nn.Module, embedding: Tensor, z: Tensor | None) -> Tensor:
        if z is None:
            return network(embedding)
        beside = z.reshape(*z.shape[:-1], *[1] * (embedding.dim() - 1), z.shape[-1])
        shape = z.shape[:-1] + embedding.shape[:-1]
        both = torch.cat([embedding.expand(*shape, -1), beside.expand(*shape, -1)], -1)
        return network(both)


class FromNetwork(Grammar):
    """Base class of grammars whose probabilities a network makes."""

    #: One unit of learning rate for a weight: the default 0.02 is then Adam's 0.001.
    step: float = 0.05
    dtype = torch.float32
    batch_size: int | None = 16
    inits = ("random",)

    def reset_guide(self) -> None:
        """Draw all weights anew, a module's own rule after those of its parts."""
        for module in reversed(list(self.modules())):
            reset = getattr(module, "reset_parameters", None)
            if module is not self and callable(reset):
                reset()

    def parameter_scales(self, x: Data) -> dict[str, Tensor]:
        return {name: torch.tensor(self.step, dtype=p.dtype) for name, p in self.named_parameters()}
