"""A two-way recurrent network over sequences of unequal length."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from guides.networks import Standardize

__all__ = ["Recurrent"]


class Recurrent(nn.Module):
    """Standardised frames, a two-way GRU over them, and the frames again beside what it says.

    Args:
        num_features: D. hidden_dim: units of the GRU, each way.

    Shapes:
        x: (N, T, D); lengths: (N,), what lies beyond is never read. Returns (N, T, 2 hidden_dim + D).

    Example:
        >>> Recurrent(2, 8)(torch.zeros(5, 7, 2), torch.full((5,), 7)).shape
        torch.Size([5, 7, 18])
    """

    def __init__(self, num_features: int, hidden_dim: int) -> None:
        super().__init__()
        self.standardize = Standardize(num_features)
        self.gru = nn.GRU(num_features, hidden_dim, batch_first=True, bidirectional=True)

    def set_from(self, rows: Tensor) -> None:
        """Standardise by the mean and scale of rows (M, D)."""
        self.standardize.set_from(rows)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        inputs = self.standardize(x)
        packed = pack_padded_sequence(inputs, lengths.cpu(), batch_first=True, enforce_sorted=False)
        hidden, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=x.shape[1])
        return torch.cat([hidden, inputs], -1)
