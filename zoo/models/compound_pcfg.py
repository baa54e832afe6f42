"""Compound probabilistic context-free grammar: each sentence has a grammar of its own, made of a Gaussian z.

    z ~ N(0, I)
    x | z ~ a grammar whose rules come from embeddings of their symbols beside z, summed over all trees
    q(z | x) = N(loc(x), diag(scale(x))^2)                  a bidirectional LSTM, its outputs' largest over the words

The bound is E_q ln p(x | z) - KL(q(z | x) || p(z)), the first term exact for each draw of z. Kim, Dyer & Rush (2019),
"Compound probabilistic context-free grammars for grammar induction", section 2.3.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from zoo.core.checks import positive
from zoo.core.offers import follows
from zoo.core.sequences import lengths_of
from zoo.models.shared.grammar import Sentences, Tables, trees_of
from zoo.models.shared.grammar_network import FromNetwork, GrammarNetwork
from zoo.models.shared.sentences import drawn_sentences
from zoo.structures.tree import Tree

__all__ = ["CompoundPCFG"]


class SentenceEncoder(nn.Module):
    """q(z | x): embeddings of words, a bidirectional LSTM, the largest of each output over the words, a linear layer.

    Shapes:
        forward(x, lengths): loc and scale, (N, L) each, of x (N, T) integers; beyond a length nothing is read.
    """

    def __init__(self, num_symbols: int, hidden_dim: int, latent_dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_symbols, hidden_dim)
        self.recurrent = nn.LSTM(hidden_dim, hidden_dim, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * hidden_dim, 2 * latent_dim)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        packed = nn.utils.rnn.pack_padded_sequence(
            self.embedding(x.long()), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        out, _ = nn.utils.rnn.pad_packed_sequence(self.recurrent(packed)[0], batch_first=True, padding_value=-torch.inf)
        loc, raw = self.head(out.amax(1)).chunk(2, -1)
        return loc, (0.5 * raw).exp()


class CompoundPCFG(FromNetwork):
    """A grammar of A nonterminals and P preterminals over V symbols that varies from sentence to sentence.

    Args:
        num_nonterminals: A. num_preterminals: P. num_symbols: V, symbols are 0 to V - 1.
        latent_dim: L, of z. embedding_dim: of each symbol's embedding, and width of the networks.
        hidden_dim: of the guide's embeddings and LSTM.

    Shapes:
        x: (N, T) with ``lengths`` (N,), or text as lists of words. z: (N, L).
        root_probs, rule_probs, emission_probs: of the grammar at z = 0, (A,), (A, S, S), (P, V).
        log_weights(x, lengths, num_particles=K): (K, N), nats. parse(x) takes the mean of q for z.

    Raises:
        ZooError: an empty sentence, a symbol outside 0 to V - 1.

    Example:
        >>> model, x = tiny()
        >>> model.log_weights(**x, num_particles=5).shape
        torch.Size([5, 4])
    """

    reference = "Kim, Dyer & Rush (2019), Compound probabilistic context-free grammars for grammar induction"

    def __init__(
        self,
        num_nonterminals: int,
        num_preterminals: int,
        num_symbols: int,
        latent_dim: int = 16,
        embedding_dim: int = 64,
        hidden_dim: int = 64,
    ) -> None:
        super().__init__()
        self._set_up(num_nonterminals, num_preterminals, num_symbols)
        who = type(self).__name__
        self.latent_dim = positive(latent_dim, "latent_dim", who)
        self.embedding_dim = positive(embedding_dim, "embedding_dim", who)
        self.network = GrammarNetwork(num_nonterminals, num_preterminals, num_symbols, embedding_dim, latent_dim)
        self.encoder = SentenceEncoder(num_symbols, positive(hidden_dim, "hidden_dim", who), latent_dim)

    def tables(self) -> Tables:
        found: Tables = self.network(next(self.parameters()).new_zeros(self.latent_dim))
        return found

    # Programs ---------------------------------------------------------------------------------------------------

    def model(self, x: Tensor, lengths: Tensor | None = None) -> None:
        like = next(self.parameters())
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(like.new_zeros(self.latent_dim), 1.0).to_event(1))
            pyro.sample("x", Sentences(self.network(z), lengths_of(x, lengths), x.shape[1]), obs=x)

    def guide(self, x: Tensor, lengths: Tensor | None = None) -> None:
        loc, scale = self.encoder(x, lengths_of(x, lengths))
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    # The same, as functions of tensors --------------------------------------------------------------------------

    def _given(self, x: Tensor, lengths: Tensor, z: Tensor) -> Tensor:
        """ln p(x | z) of draws z (K, N, L), (K, N)."""
        return Sentences(self.network(z), lengths, x.shape[1]).log_prob(x)

    def elbo_parts(
        self, x: Tensor, lengths: Tensor | None = None, num_particles: int = 1
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The bound, and ln p(x | z) and KL that it is made of, each (N,) nats, at draws of z; differentiable."""
        lengths = lengths_of(x, lengths)
        loc, scale = self.encoder(x, lengths)
        noise = torch.randn(num_particles, *loc.shape, dtype=loc.dtype, device=loc.device)
        reconstruction = self._given(x, lengths, loc + scale * noise).mean(0)
        kl = 0.5 * (loc.square() + scale.square() - 1).sum(-1) - scale.log().sum(-1)
        return reconstruction - kl, {"reconstruction": reconstruction, "kl": kl}

    def log_weights(self, x: Tensor, lengths: Tensor | None = None, num_particles: int = 1) -> Tensor:
        """ln p(x, z_k) - ln q(z_k | x) of K draws a sentence, (K, N) nats; differentiable."""
        lengths = lengths_of(x, lengths)
        loc, scale = self.encoder(x, lengths)
        noise = torch.randn(num_particles, *loc.shape, dtype=loc.dtype, device=loc.device)
        z = loc + scale * noise
        excess = 0.5 * (z.square() - noise.square()).sum(-1) - scale.log().sum(-1)
        return self._given(x, lengths, z) - excess

    @follows("guide")
    def posterior_means(self, x: Tensor, lengths: Tensor | None = None, num_samples: int = 1) -> Tensor:
        """E_q[z | x], (N, L)."""
        loc, _ = self.encoder(x, lengths_of(x, lengths))
        return loc

    def trees(self, x: Tensor, lengths: Tensor) -> Tree:
        """The trees of sentences, weighed by each one's grammar at the mean of q(z | x)."""
        loc, _ = self.encoder(x, lengths)
        return trees_of(self.network(loc), x, lengths)

    @torch.no_grad()
    def sample(self, num_data: int) -> dict[str, Tensor]:
        """New sentences, each of a grammar of its own, ``{"x": (N, T), "lengths": (N,)}``."""
        z = torch.randn(num_data, self.latent_dim, dtype=self.dtype).to(next(self.parameters()).device)
        root, rules, emissions = (t.exp() for t in self.network(z))
        return drawn_sentences(root, rules, emissions, num_data)


def tiny() -> tuple[CompoundPCFG, dict[str, Tensor]]:
    """The smallest honest instance, and data for it."""
    model = CompoundPCFG(2, 2, 3, latent_dim=2, embedding_dim=4, hidden_dim=3)
    x = torch.tensor([[0, 1, 2, 0], [2, 2, 0, 0], [0, 1, 0, 0], [1, 2, 2, 1]])
    return model, {"x": x, "lengths": torch.tensor([4, 3, 2, 4])}
