"""Sequences of tokens with a chain of discrete states behind them: a variational autoencoder whose z is a path.

    z_1 ~ Categorical(initial_probs);  z_t | z_{t-1} ~ Categorical(transition_probs[z_{t-1}])        t = 2..T
    x_t | z_t, x_<t ~ Categorical(softmax(W (g(z_t) + c(x_<t)) + b))                                 t = 1..T
    q(z | x): a chain of states too, its steps read off a recurrent network over all tokens

z_1 already emits x_1. What a token sees of those before it, c, is nothing (``context="none"``: the neural hidden Markov
language model), an embedding of the last one, or a recurrent network over all. Given x the states are a chain whatever
the context: the sum over paths is exact, ln p(x) and its gradient known, and every estimator that goes by the guide can
be held against them.

Chiu & Rush (2020), "Scaling hidden Markov language models", for the network behind the chain.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, cast

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn

from guides.chain import AmortizedChain
from zoo.core.checks import positive
from zoo.core.contract import Axes, LatentVariableModel, prepared
from zoo.core.data import Data, Fields, call, plain, split, total, weights_of
from zoo.core.memory import rows_at_once
from zoo.core.pieces import categorical, gathered
from zoo.core.schema import END
from zoo.core.sequences import inside, lengths_of
from zoo.core.statistics import weighted_sum
from zoo.densities.distributions import Selected
from zoo.errors import ZooError, unknown_name
from zoo.models.shared.markov import follow, sample_path
from zoo.models.shared.sentences import checked_sentences, coded_sentences
from zoo.models.shared.token_network import TokenNetwork
from zoo.structures import Chain

__all__ = ["DiscreteSequenceVAE"]

CONTEXTS = ("none", "embedding", "recurrent")
#: Tokens of a sequence that is drawn, at most, where nothing says how many.
MAX_TOKENS = 100


class DiscreteSequenceVAE(LatentVariableModel):
    """Tokens of V symbols, each by a state of a chain of K, and by the tokens before it.

    Args:
        num_states: K. num_symbols: V, tokens are 0 to V - 1.
        context: what a token sees of those before it: "none", "embedding" (the last one) or "recurrent" (all).
        hidden_dim: H, of every embedding and network, the guide's too.

    Shapes:
        x: (T,) one sequence, or (N, T) with ``lengths`` (N,); or text: lists of words. What lies beyond a length is
            never read.
        initial_probs: (K,). transition_probs: (K, K). emission_probs: (K, V), without a context alone.
        log_marginal(x, lengths): (N,), nats, exact. predict(x, lengths): the most probable path (N, T), -1 beyond a
            length. posterior: Categorical, batch (N, T), p(z_t | x_{1:T}).
        perplexity(x): a number, exp of minus ln p(x) a token; where sentences end by a token, that is predicted too.

    Raises:
        ZooError: an empty sequence, a token outside 0 to V - 1, lengths that do not fit.

    Example:
        >>> model, x = tiny()
        >>> model.log_marginal(**x).shape
        torch.Size([3])
    """

    reference = "Chiu & Rush (2020), Scaling hidden Markov language models"
    fields = Fields(("x", "lengths"))
    dtype = torch.float32
    inits = ("random", "current")
    default_data = "known_sentences"
    takes_symbols = True
    takes_sentences = True
    vocabulary = 10_000
    axes: ClassVar[Axes] = {
        "initial_probs": ("state",),
        "transition_probs": ("state", "next state"),
        "emission_probs": ("state", "symbol"),
    }
    batch_size = 32
    warmup = 0
    in_pieces = ("log_marginal", "posterior", "predict")
    #: One unit of learning rate for a weight: the default 0.02 is then Adam's 0.004.
    step: float = 0.2

    def __init__(self, num_states: int, num_symbols: int, context: str = "none", hidden_dim: int = 64) -> None:
        super().__init__()
        who = type(self).__name__
        self.num_states = positive(num_states, "num_states", who)
        self.num_symbols = positive(num_symbols, "num_symbols", who)
        self.hidden_dim = positive(hidden_dim, "hidden_dim", who)
        if context not in CONTEXTS:
            raise unknown_name(f"{who}: context", str(context), CONTEXTS)
        self.context = context
        self.network = TokenNetwork(num_states, num_symbols, hidden_dim, context)
        self.guide_embedding = nn.Embedding(num_symbols, hidden_dim)
        self.encoder = AmortizedChain(hidden_dim, num_states, hidden_dim)

    @classmethod
    def from_data(cls, x: Data, **arguments: Any) -> LatentVariableModel:
        """V read off the data, or off the symbols of a text."""
        data = coded_sentences(x, arguments, least=1)
        return super().from_data(data, **arguments)

    # The chain ------------------------------------------------------------------------------------------------------

    @property
    def initial_probs(self) -> Tensor:
        """p(z_1), (K,)."""
        return self.network.chain()[0].exp()

    @property
    def transition_probs(self) -> Tensor:
        """[i, j] = p(z_t = j | z_{t-1} = i), (K, K)."""
        return self.network.chain()[1].exp()

    @property
    def emission_probs(self) -> Tensor:
        """p(x_t = v | z_t = k), (K, V); with a context, of what the state says alone."""
        logits = self.network.by_state()
        return (logits if self.context == "none" else logits + self.network.bias.unsqueeze(-1)).softmax(0).mT

    # The programs ---------------------------------------------------------------------------------------------------

    def model(self, x: Tensor, lengths: Tensor | None = None) -> None:
        lengths = lengths_of(x, lengths)
        log_initial, log_transition = self.network.chain()
        by_state = self.network.by_state().mT  # (K, V)
        context = self.network.context
        seen = None if context is None else self.network.by_context(context(x)).unsqueeze(-2)  # (N, T, 1, V)
        with pyro.plate("data", x.shape[0]):
            z = None
            for t in pyro.markov(range(x.shape[1])):
                with poutine.mask(mask=cast(Any, t < lengths)):
                    logits = log_initial if z is None else follow(log_transition, z)
                    z = pyro.sample(f"z_{t}", dist.Categorical(logits=logits))
                    tokens = dist.Categorical(logits=by_state if seen is None else by_state + seen[:, t])
                    pyro.sample(f"x_{t}", Selected(tokens, z), obs=x[:, t])

    def guide(self, x: Tensor, lengths: Tensor | None = None) -> None:
        lengths = lengths_of(x, lengths)
        first, steps = self.encoder(self.guide_embedding(x), lengths)
        sample_path(first, steps, lengths)

    def elbo(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The guide's bound on ln p(x), (N,), nats, summed exactly over the guide's chain; differentiable."""
        x, lengths = _trimmed(x, lengths_of(x, lengths))
        first, steps = self.encoder(self.guide_embedding(x), lengths)
        p = self._chain(x, lengths)
        q = Chain(first, steps, torch.zeros_like(p.emission), lengths)
        return q.expect(p) + q.entropy()

    # Exact answers --------------------------------------------------------------------------------------------------

    def _chain(self, x: Tensor, lengths: Tensor) -> Chain:
        return Chain(*self.network.chain(), self.network.emission(x, lengths), lengths)

    def structure(self, x: Data, lengths: Tensor | None = None) -> Chain:
        """p(z_{1:T} | x) as a whole, without a graph: draws, scores and entropies of paths, not of steps alone."""
        data = prepared(self, x if lengths is None else {"x": x, "lengths": lengths})
        with torch.no_grad():
            return self._chain(data["x"], data["lengths"])

    def log_marginal(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Exact ln p(x) of each sequence, (N,), nats; differentiable once."""
        lengths = lengths_of(x, lengths)
        if torch.is_grad_enabled():
            return self._chain(*_trimmed(x, lengths)).log_partition()
        return self._by_sequences(lambda *part: self._chain(*_trimmed(*part)).log_partition(), x, lengths)

    def _by_sequences(self, answer: Callable[..., Tensor], x: Tensor, lengths: Tensor) -> Tensor:
        """``answer(x, lengths)``, (N, ...), by pieces of the sequences."""
        size = rows_at_once(self.datum_size(x))
        parts = zip(x.split(size), lengths.split(size), strict=True)
        return gathered((answer(*part) for part in parts), len(x))

    @torch.no_grad()
    def posterior(self, x: Tensor, lengths: Tensor | None = None) -> dist.Categorical:
        """p(z_t | x_{1:T}), batch (N, T); uniform beyond a sequence's length."""
        lengths = lengths_of(x, lengths)
        probs = self._by_sequences(lambda *part: self._chain(*part).marginals().emission, x, lengths)
        return categorical(probs=probs.masked_fill(~inside(x, lengths).unsqueeze(-1), 1 / self.num_states))

    def viterbi(self, x: Data) -> tuple[Tensor, Tensor]:
        """The most probable path (N, T), -1 beyond the length, and its ln p(x, z), (N,)."""
        return self.structure(x).argmax()

    def predict(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The most probable path, (N, T) integers, -1 beyond a sequence's length."""
        data = self.validate({"x": x, "lengths": lengths} if lengths is not None else x)
        with torch.no_grad():
            return self._by_sequences(lambda *part: self._chain(*part).argmax()[0], **data)

    def sample_posterior(self, x: Data, num_samples: int = 1) -> Tensor:
        """Exact draws of paths given x, (num_samples, N, T), by torch's generator."""
        return self.structure(x).sample(num_samples)

    def filter(self, x: Data) -> Tensor:
        """p(z_t | x_{1:t}), (N, T, K)."""
        return self.structure(x).filtered()

    @torch.no_grad()
    def perplexity(self, x: Data) -> float:
        """exp(-ln p(x) / tokens) of data as the model takes them: how many tokens are as good as possible, each time.

        A token that ends sentences is one of them where the data have it.
        """
        data = prepared(self, x)
        pieces = split(data, rows_at_once(self.datum_size(data)))
        nats = sum(float(total(call(self.log_marginal, piece), piece).double()) for piece in pieces)
        return math.exp(-nats / self.num_units(data))

    # Draws ----------------------------------------------------------------------------------------------------------

    @property
    def end(self) -> int | None:
        """The token that ends a sentence, if the data that it was fitted to have one."""
        symbols = self.schema.symbols if self.schema is not None else None
        return symbols.index(END) if symbols is not None and END in symbols else None

    @torch.no_grad()
    def sample(self, num_data: int, num_steps: int = MAX_TOKENS) -> dict[str, Tensor]:
        """New sequences, ``{"x": (N, T), "lengths": (N,)}``, by torch's generator.

        Args:
            num_steps: T, of all; where a token ends sentences each ends there, and at T at the latest.
        """
        end, context = self.end, self.network.context
        initial = self.initial_probs.expand(num_data, -1)
        seen, memory = (None, None) if context is None else context.begin(num_data)
        tokens, lengths = list[Tensor](), torch.full((num_data,), num_steps, device=initial.device)
        for t, token in enumerate(self._tokens(initial, seen, memory, num_steps)):
            tokens.append(token)
            if end is not None:
                lengths = torch.where(token == end, lengths.clamp_max(t + 1), lengths)
                if int(lengths.max()) <= t + 1:
                    break
        x = torch.stack(tokens, 1)
        return {"x": x.masked_fill(~inside(x, lengths), 0), "lengths": lengths}

    def _tokens(self, first: Tensor, seen: Tensor | None, memory: Tensor | None, num_steps: int) -> Iterator[Tensor]:
        """Drawn tokens (N,), one after the other, from p(z) of the first state (N, K) and what its token sees."""
        network, context = self.network, self.network.context
        transition, by_state = self.transition_probs, network.by_state().mT
        z = torch.multinomial(first, 1).flatten()
        for t in range(num_steps):
            if t:
                z = torch.multinomial(transition[z], 1).flatten()
            logits = by_state[z] if seen is None else by_state[z] + network.by_context(seen)
            token = torch.multinomial(logits.softmax(-1), 1).flatten()
            yield token
            if context is not None and memory is not None:
                seen, memory = context.after(token, memory)

    def _ahead(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
        """What is known after sequences: p(z_{T+1}) (N, K), what x_{T+1} sees, the memory, whether they have ended."""
        x, lengths = _trimmed(x, lengths)
        rows = torch.arange(len(x), device=x.device)
        states = self._chain(x, lengths).filtered()[rows, lengths - 1] @ self.transition_probs
        context = self.network.context
        seen, memory = (None, None) if context is None else context.after_all(x, lengths)
        return states, seen, memory, x[rows, lengths - 1] == (-1 if self.end is None else self.end)

    @torch.no_grad()
    def continuation(self, x: Tensor, lengths: Tensor | None = None, *, num_steps: int, num_samples: int = 1) -> Tensor:
        """Draws of the tokens that follow each sequence, (num_samples, N, num_steps), by torch's generator; after the
        token that ends a sentence come more of it."""
        lengths, parts = lengths_of(x, lengths), list[Tensor]()
        for piece in split({"x": x, "lengths": lengths}, rows_at_once(self.datum_size({"x": x}) * num_samples)):
            states, seen, memory, ended = self._ahead(**piece)
            first, over = states.repeat(num_samples, 1), ended.repeat(num_samples)
            seen = None if seen is None else seen.repeat(num_samples, 1)
            if memory is not None:  # (N,), or of a recurrent network (1, N, H)
                memory = memory.repeat(num_samples) if memory.dim() == 1 else memory.repeat(1, num_samples, 1)
            drawn = list[Tensor]()
            for token in self._tokens(first, seen, memory, num_steps):
                drawn.append(token if self.end is None else token.masked_fill(over, self.end))
                over = over | (drawn[-1] == self.end)
            parts.append(torch.stack(drawn, 1).unflatten(0, (num_samples, -1)))
        return torch.cat(parts, 1)

    @torch.no_grad()
    def continuation_probs(self, x: Tensor, lengths: Tensor | None = None, *, num_steps: int = 1) -> Tensor:
        """Exact p(x_{T+h} = v | x_1..x_T) for h = 1..num_steps, (N, num_steps, V); a sentence that has ended stays at
        the token that ends it.

        Raises:
            ZooError: more than one step with a context: the tokens between would have to be summed over.
        """
        if num_steps > 1 and self.context != "none":
            raise ZooError(
                f"{self.name}.continuation_probs: num_steps expected 1 with context={self.context!r}, got {num_steps}. "
                "Draw by continuation."
            )
        lengths, parts = lengths_of(x, lengths), list[Tensor]()
        for piece in split({"x": x, "lengths": lengths}, rows_at_once(self.datum_size({"x": x}) + self.num_symbols)):
            states, seen, _, ended = self._ahead(**piece)
            going = states.masked_fill(ended.unsqueeze(-1), 0.0)  # p(z_{T+h}, no end before)
            steps = list[Tensor]()
            for h in range(num_steps):
                if h:
                    going = (going * (1 - self._ends())) @ self.transition_probs
                probs = self.network.next_probs(going, seen)
                if self.end is not None:
                    probs[:, self.end] += 1 - going.sum(-1)
                steps.append(probs)
            parts.append(torch.stack(steps, 1))
        return torch.cat(parts)

    def _ends(self) -> Tensor:
        """How probable each state makes the token that ends a sentence, (K,); zero where there is none."""
        return torch.zeros_like(self.initial_probs) if self.end is None else self.emission_probs[:, self.end]

    def sample_like(self, template: Data, num_data: int) -> dict[str, Tensor]:
        """``num_data`` new sequences: sentences of their own lengths where a token ends them, or as long as the
        template's longest."""
        return self.sample(num_data, MAX_TOKENS if self.end is not None else template["x"].shape[1])

    # Data and training ----------------------------------------------------------------------------------------------

    def validate(self, x: Data) -> dict[str, Tensor]:
        return checked_sentences(x, self.num_symbols, type(self).__name__)

    def num_units(self, x: Data) -> float:
        """Tokens in the data, each as often as its sequence counts."""
        data, weights = plain(x), weights_of(x)
        lengths = lengths_of(data["x"], data.get("lengths"))
        return int(lengths.sum()) if weights is None else float(weighted_sum(lengths.to(weights), weights))

    def datum_size(self, x: Data) -> int:
        values = x["x"] if isinstance(x, dict) else x
        wide = 3 * self.num_states + (0 if self.context == "none" else 2 * self.num_symbols)
        return int(values.shape[1]) * wide

    def probe(self, x: Data) -> Data:
        return {"x": x["x"][:4, :6], "lengths": lengths_of(x["x"], x.get("lengths"))[:4].clamp_max(6)}

    def initialize(self, x: Data, init: str, restart: int = 0) -> None:
        """Networks as drawn, tokens as often as they are in the data, with one more of each."""
        if init == "current":
            return
        counts = torch.bincount(x["x"][inside(x["x"], x["lengths"])], minlength=self.num_symbols).to(self.dtype) + 1
        with torch.no_grad():
            self.network.bias.copy_((counts / counts.mean()).log())

    def parameter_scales(self, x: Data) -> dict[str, Tensor]:
        return {name: torch.tensor(self.step, dtype=p.dtype) for name, p in self.named_parameters()}


def _trimmed(x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Without the steps that no sequence has: batches of short ones are no wider than they are."""
    return x[:, : int(lengths.max())], lengths


def tiny() -> tuple[DiscreteSequenceVAE, dict[str, Tensor]]:
    """The smallest honest instance, and data for it."""
    model = DiscreteSequenceVAE(num_states=2, num_symbols=3, context="embedding", hidden_dim=4)
    return model, {"x": torch.tensor([[0, 2, 1], [1, 1, 0], [2, 0, 0]]), "lengths": torch.tensor([3, 2, 1])}
