"""What makes a chain of states and its tokens out of embeddings, and what a state sees of the tokens before its own.

    initial_probs = softmax(E_in f(start)),   transition_probs[i] = softmax(E_in f_out(e_i))
    p(v | z = k, c) = softmax_v(w_v . (g(e_k) + c) + b_v)           c: what the tokens before say; zero without context

f, f_out and g are residual networks of two layers. Without context these are the neural parametrisations of Chiu & Rush
(2020), "Scaling hidden Markov language models", section 3.3, without its blocks of states.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from zoo.core.sequences import inside
from zoo.densities.log_product import log_product

__all__ = ["Context", "EmbeddingContext", "RecurrentContext", "TokenNetwork"]


class Residual(nn.Module):
    """LayerNorm(y + relu(V relu(U y + p) + q)), as wide as what it takes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Linear(width, width), nn.Linear(width, width), nn.LayerNorm(width)

    def forward(self, y: Tensor) -> Tensor:
        found: Tensor = self.norm(y + torch.relu(self.second(torch.relu(self.first(y)))))
        return found


class Context(nn.Module):
    """c of each step from the tokens before it, (N, T, H)."""

    def forward(self, x: Tensor) -> Tensor:
        """Of whole sequences x (N, T)."""
        raise NotImplementedError

    def begin(self, num_data: int) -> tuple[Tensor, Tensor]:
        """c of the first step, (N, H), and the memory that :meth:`after` takes."""
        raise NotImplementedError

    def after(self, token: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """c of the next step, and the memory then, when a token (N,) has come."""
        raise NotImplementedError

    def after_all(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """c of the step after each of the sequences x (N, T), and the memory then."""
        raise NotImplementedError


class EmbeddingContext(Context):
    """What the last token says: an embedding of it, one of its own for the start, through a residual network."""

    def __init__(self, num_symbols: int, width: int) -> None:
        super().__init__()
        self.start = num_symbols
        self.embedding, self.network = nn.Embedding(num_symbols + 1, width), Residual(width)
        self.head = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        before = nn.functional.pad(x[:, :-1], (1, 0), value=self.start)
        found: Tensor = self.head(self.network(self.embedding(before)))
        return found

    def begin(self, num_data: int) -> tuple[Tensor, Tensor]:
        start = torch.full((num_data,), self.start, device=self.embedding.weight.device)
        return self.after(start, start)

    def after(self, token: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        return self.head(self.network(self.embedding(token))), memory

    def after_all(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        last = x[torch.arange(len(x), device=x.device), lengths - 1]
        return self.after(last, last)


class RecurrentContext(Context):
    """What all tokens before say: a GRU over their embeddings, begun by that of the start."""

    def __init__(self, num_symbols: int, width: int) -> None:
        super().__init__()
        self.start = num_symbols
        self.embedding, self.gru = nn.Embedding(num_symbols + 1, width), nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        before = nn.functional.pad(x[:, :-1], (1, 0), value=self.start)
        found: Tensor = self.head(self.gru(self.embedding(before))[0])
        return found

    def begin(self, num_data: int) -> tuple[Tensor, Tensor]:
        weight = self.embedding.weight
        start = torch.full((num_data,), self.start, device=weight.device)
        return self.after(start, weight.new_zeros(1, num_data, weight.shape[1]))

    def after(self, token: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        hidden, memory = self.gru(self.embedding(token).unsqueeze(1), memory)
        return self.head(hidden[:, 0]), memory

    def after_all(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.gru(self.embedding(nn.functional.pad(x, (1, 0), value=self.start)))[0]
        last = hidden[torch.arange(len(x), device=x.device), lengths]
        return self.head(last), last.unsqueeze(0)


class TokenNetwork(nn.Module):
    """The chain's and the tokens' probabilities.

    Args:
        num_states: K. num_symbols: V. width: H, of every embedding. context: "none", "embedding" or "recurrent".
    """

    def __init__(self, num_states: int, num_symbols: int, width: int, context: str) -> None:
        super().__init__()
        self.num_states, self.num_symbols = num_states, num_symbols
        self.start = nn.Parameter(torch.empty(width))
        self.states = nn.Parameter(torch.empty(num_states, width))
        self.into = nn.Parameter(torch.empty(num_states, width))
        self.words = nn.Parameter(torch.empty(num_symbols, width))
        self.bias = nn.Parameter(torch.empty(num_symbols))
        self.to_start, self.to_next, self.to_word = Residual(width), Residual(width), Residual(width)
        kinds = {"embedding": EmbeddingContext, "recurrent": RecurrentContext}
        self.context: Context | None = kinds[context](num_symbols, width) if context != "none" else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Embeddings of states of unit normal numbers; of what they are held against, so that logits are of size 1."""
        nn.init.normal_(self.start)
        nn.init.normal_(self.states)
        for weight in (self.into, self.words):
            nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
        nn.init.zeros_(self.bias)

    def chain(self) -> tuple[Tensor, Tensor]:
        """ln initial_probs (K,) and ln transition_probs (K, K)."""
        first = self.to_start(self.start) @ self.into.mT
        return first.log_softmax(-1), (self.to_next(self.states) @ self.into.mT).log_softmax(-1)

    def by_state(self) -> Tensor:
        """What each state says of each token, logits (V, K): with the bias where there is no context."""
        logits = self.words @ self.to_word(self.states).mT
        return logits + self.bias.unsqueeze(-1) if self.context is None else logits

    def by_context(self, seen: Tensor) -> Tensor:
        """What contexts (..., H) say of each token, logits (..., V), with the bias."""
        return seen @ self.words.mT + self.bias

    def emission(self, x: Tensor, lengths: Tensor) -> Tensor:
        """ln p(x_t | z_t = k, x_<t), (N, T, K), of x (N, T); 0 beyond a length.

        Logits of a state and of a context add up, so that all normalisers are one product of matrices of scaled
        exponentials, (M, V) x (V, K) for the M steps that are there: no (M, K, V) numbers are ever made.
        """
        by_state, there = self.by_state(), inside(x, lengths)
        tokens = x[there]
        said = embedding(tokens, by_state)  # (M, K)
        if self.context is None:
            packed = said - by_state.logsumexp(0)
        else:
            by_context = self.by_context(self.context(x)[there])
            own = by_context.gather(-1, tokens.unsqueeze(-1))
            packed = said + own - log_product(by_context, by_state.mT)
        if bool(there.all()):
            return packed.reshape(*x.shape, -1)
        return packed.new_zeros(*x.shape, self.num_states).index_put((there,), packed)

    def next_probs(self, states: Tensor, seen: Tensor | None) -> Tensor:
        """p(token), (N, V), of weights (N, K) of its state, which are summed out, and what it sees, (N, H)."""
        by_state = self.by_state()
        if seen is None:
            return states @ by_state.softmax(0).mT
        by_context = self.by_context(seen)
        weights = states.log() - log_product(by_context, by_state.mT)  # over what each state's logits add up to
        return (by_context + log_product(weights.clamp_min(-1e4), by_state)).exp()
