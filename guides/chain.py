"""Chain-structured guide: q(z_{1:T} | x) is itself a Markov chain, its steps read off a recurrent network."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from guides import gated
from guides.networks import Standardize
from guides.packing import Packing
from guides.walks import recur_both_ways

__all__ = ["AmortizedChain"]

#: Sequences that go on at a step, on average, up to which torch's recurrent network spends its time on calls.
FEW_A_STEP = 128


class AmortizedChain(nn.Module):
    """q(z_1 | x) = softmax(start + u_1), q(z_t | z_{t-1} = i, x) = softmax(link[i] + u_t), u from a two-way GRU over x.

    The exact posterior of a hidden Markov model has this form, with link = ln transition_probs and u_t the log of what
    x_t..x_T say about z_t; so the family contains it.

    Args:
        num_features: D. num_states: K. hidden_dim: units of the GRU, each way.

    Shapes:
        x: (N, T, D), NaN where missing; lengths: (N,), what lies beyond is never read.
        Returns ln q(z_1), (N, K), and ln q(z_t | z_{t-1}), (N, T - 1, K, K).

    Example:
        >>> initial, steps = AmortizedChain(2, 3)(torch.zeros(5, 7, 2), torch.full((5,), 7))
        >>> initial.shape, steps.shape
        (torch.Size([5, 3]), torch.Size([5, 6, 3, 3]))
    """

    def __init__(self, num_features: int, num_states: int, hidden_dim: int = 32) -> None:
        super().__init__()
        self.standardize = Standardize(num_features)
        self.gru = nn.GRU(num_features, hidden_dim, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * hidden_dim + num_features, num_states)
        self.start = nn.Parameter(torch.zeros(num_states))
        self.link = nn.Parameter(torch.zeros(num_states, num_states))

    def reset_parameters(self) -> None:
        """No preference among paths; the networks reset themselves."""
        nn.init.zeros_(self.start)
        nn.init.zeros_(self.link)

    def set_from(self, rows: Tensor) -> None:
        """Standardise by the mean and scale of complete rows (M, D)."""
        self.standardize.set_from(rows)

    @torch.no_grad()
    def permute(self, order: Tensor) -> None:
        """State ``k`` becomes what ``order[k]`` was, ``order`` (K,)."""
        for value in (self.start, self.head.weight, self.head.bias):
            value.copy_(value[order].clone())
        self.link.copy_(self.link[order][:, order].clone())

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        inputs = self.standardize(x).nan_to_num(0.0)
        hidden = self._walk(inputs, lengths)
        u = self.head(torch.cat([hidden, inputs], -1))  # (N, T, K)
        first = torch.log_softmax(self.start + u[:, 0], -1)
        return first, torch.log_softmax(self.link + u[:, 1:].unsqueeze(-2), -1)

    def _walk(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        """What the recurrent network says of inputs (N, T, D), (N, T, 2 H)."""
        if inputs.device.type == "cpu" and inputs.dtype == torch.float64:
            packing = Packing(lengths)
            few = torch.is_grad_enabled() and len(packing.time) <= FEW_A_STEP * len(packing.sizes)
            if few or gated.suits(inputs, packing.edges):
                return packing.unpack(recur_both_ways(self.gru, packing.pack(inputs), packing), inputs.shape[1])
        packed = pack_padded_sequence(inputs, lengths.cpu(), batch_first=True, enforce_sorted=False)
        hidden: Tensor = pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=inputs.shape[1])[0]
        return hidden
