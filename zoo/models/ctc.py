"""Connectionist temporal classification: a string of symbols given a longer sequence of frames, alignment unknown.

    z_t | x ~ Categorical(softmax(W h_t)),   h = network(x)          a symbol or the blank, in each frame by itself
    y = what z_1..z_T spells: repetitions merged, then blanks removed

Graves, Fernández, Gomez & Schmidhuber (2006), "Connectionist temporal classification: labelling unsegmented sequence
data with recurrent neural networks". The latent is the alignment z. Summed over it ln p(y | x) is exact, and its
gradient is that of ln p(y, z | x) under the posterior of z: training CTC is expected gradient.

The guide has a network of its own in the place of the model's, q(z | x, y) = p_guide(z | x) where z spells y, and
normalised over these: a Markov chain over the 2U + 1 states of y's band. The posterior is of this form.
"""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from guides.recurrent import Recurrent
from zoo.core.checks import positive
from zoo.core.contract import LatentVariableModel
from zoo.core.data import Data, as_data
from zoo.densities.frames import Frames
from zoo.errors import ZooError
from zoo.models.shared.transcribed import FIELDS, frames, symbols
from zoo.structures import Alignment, Structured
from zoo.structures.decoding import best_path, padded, prefix_beam, spans, spelled

__all__ = ["CTC"]


class CTC(LatentVariableModel):
    """p(y | x) of strings of symbols given frames.

    Args:
        num_features: D of a frame. num_symbols: V; the symbols are 1..V, 0 is the blank, and the padding of y.
        hidden_dim: units of the default network and of the guide's, a two-way GRU, each way.
        network: another network in the place of the default one, from (N, T, D) to (N, T, H). One whose ``forward``
            takes ``lengths`` too is told them and must not read beyond; any other is run on sequences of one length at
            a time. It stays the caller's: the model has a copy.

    Shapes:
        data: a dict of x (N, T, D), lengths (N,), y (N, U) and target_lengths (N,); both lengths may be left out, T
            and what is not 0 then count. What lies beyond a length is never read.
        z: (N, T), -1 beyond a length. log_marginal: (N,) nats, ln p(y | x).
        predict(x, lengths): (N, U'), padded with 0.

    Raises:
        ZooError: data of other shapes, symbols out of range, a blank inside a target, a target that needs more frames
            than there are (which sequence); a network that gives something else than (N, T, H).

    Example:
        >>> model, data = tiny()
        >>> model.log_marginal(**data).shape
        torch.Size([3])
    """

    reference = "Graves, Fernández, Gomez & Schmidhuber (2006), Connectionist temporal classification"
    fields = FIELDS
    dtype = torch.float32
    inits = ("random", "current")
    default_data = "symbol_strings"
    batch_size = 32
    warmup = 0
    in_pieces = ("predict",)

    def __init__(
        self, num_features: int, num_symbols: int, hidden_dim: int = 64, network: nn.Module | None = None
    ) -> None:
        super().__init__()
        who = type(self).__name__
        self.num_features = positive(num_features, "num_features", who)
        self.num_symbols = positive(num_symbols, "num_symbols", who)
        self.hidden_dim = positive(hidden_dim, "hidden_dim", who)
        self.network = Recurrent(num_features, hidden_dim) if network is None else copy.deepcopy(network)
        self.told = "lengths" in inspect.signature(self.network.forward).parameters
        self.head = nn.Linear(self._width(), num_symbols + 1)
        self.guide_network = Recurrent(num_features, hidden_dim)
        self.guide_head = nn.Linear(2 * hidden_dim + num_features, num_symbols + 1)

    def _width(self) -> int:
        """H of the network, seen on frames of zeros."""
        parameter = next(self.network.parameters(), torch.zeros(()))
        x, mode = torch.zeros(1, 8, self.num_features, dtype=parameter.dtype), self.network.training
        with torch.no_grad():
            h = self.network.eval()(x, *([torch.tensor([8])] if self.told else []))
        self.network.train(mode)
        if not isinstance(h, Tensor) or h.dim() != 3 or h.shape[:2] != (1, 8):
            got = tuple(h.shape) if isinstance(h, Tensor) else type(h).__name__
            raise ZooError(
                f"{self.name}: network expected to give (N, T, H) of frames (N, T, {self.num_features}), gave {got} of "
                f"(1, 8, {self.num_features}). Keep one output a frame."
            )
        return h.shape[-1]

    # The programs ---------------------------------------------------------------------------------------------------

    def log_probs(self, x: Tensor, lengths: Tensor) -> Tensor:
        """ln p(z_t | x) of the blank and the symbols, (N, T, V + 1)."""
        if self.told:
            return self.head(self.network(x, lengths)).log_softmax(-1)
        pieces = {n: (lengths == n).nonzero().flatten() for n in lengths.unique().tolist()}
        room = self.head.weight.new_zeros(*x.shape[:2], self.num_symbols + 1)
        for n, rows in pieces.items():
            said = self.head(self.network(x[rows, :n])).log_softmax(-1)
            room = room.index_put((rows.unsqueeze(-1), torch.arange(n, device=x.device)), said)
        return room

    def alignment(self, x: Tensor, lengths: Tensor, y: Tensor, target_lengths: Tensor) -> Alignment:
        """ln p(y, z | x) of all alignments z of the targets; its log-partition is ln p(y | x)."""
        return Alignment(self.log_probs(x, lengths), y, lengths, target_lengths)

    def guide_alignment(self, x: Tensor, lengths: Tensor, y: Tensor, target_lengths: Tensor) -> Alignment:
        """q(z | x, y), not normalised."""
        log_probs = self.guide_head(self.guide_network(x, lengths)).log_softmax(-1)
        return Alignment(log_probs, y, lengths, target_lengths)

    def model(self, x: Tensor, lengths: Tensor, y: Tensor, target_lengths: Tensor) -> None:
        log_probs = self.log_probs(x, lengths)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", Frames(log_probs, lengths))
            string = nn.functional.pad(y, (0, x.shape[1] - y.shape[1])).to(x.dtype)
            pyro.sample("y", dist.Delta(spelled(z).to(x.dtype), event_dim=1), obs=string)

    def guide(self, x: Tensor, lengths: Tensor, y: Tensor, target_lengths: Tensor) -> None:
        q = self.guide_alignment(x, lengths, y, target_lengths)
        with pyro.plate("data", len(x)):
            pyro.sample("z", Structured(q))

    # Exact answers --------------------------------------------------------------------------------------------------

    def log_marginal(self, x: Tensor, lengths: Tensor, y: Tensor, target_lengths: Tensor) -> Tensor:
        """Exact ln p(y | x) of each string, (N,) nats."""
        return self.alignment(x, lengths, y, target_lengths).log_partition()

    def structure(self, x: Tensor, lengths: Tensor, y: Tensor, target_lengths: Tensor) -> Alignment:
        """The exact posterior of the alignments."""
        return self.alignment(x, lengths, y, target_lengths)

    def posterior(self, x: Tensor, lengths: Tensor, y: Tensor, target_lengths: Tensor) -> Structured:
        """Exact p(z | x, y), batch (N,), event (T,)."""
        return Structured(self.alignment(x, lengths, y, target_lengths))

    def elbo(self, x: Tensor, lengths: Tensor, y: Tensor, target_lengths: Tensor) -> Tensor:
        """The guide's bound on ln p(y | x), (N,) nats, summed over all alignments."""
        q = self.guide_alignment(x, lengths, y, target_lengths)
        return q.expect(self.alignment(x, lengths, y, target_lengths)) + q.entropy()

    def predict(self, x: Tensor, lengths: Tensor, width: int = 1) -> Tensor:
        """The string of the most probable path, (N, U') padded with 0; with a width above 1 that of a prefix beam."""
        strings: list[list[int]] = []
        for rows in torch.arange(len(x)).split(64):
            with torch.no_grad():
                log_probs = self.log_probs(x[rows], lengths[rows])
            if width == 1:
                found = spelled(best_path(log_probs, lengths[rows]))
                strings += [[s for s in row if s] for row in found.tolist()]
            else:
                strings += [string for string, _ in prefix_beam(log_probs, lengths[rows], width)]
        return padded(strings).to(x.device)

    def align(self, data: Any) -> Tensor:
        """First and last frame of each symbol on the most probable alignment, from 0, (N, U, 2); -1 beyond a target."""
        data = self.prepare(data)
        with torch.no_grad():
            paths, _ = self.alignment(**data).argmax()
        return spans(paths, data["y"].shape[1])

    # Data and training ----------------------------------------------------------------------------------------------

    @classmethod
    def from_data(cls, x: Data, **arguments: Any) -> LatentVariableModel:
        """Sizes read off the data: the largest symbol in y is V."""
        x = as_data(x)
        data = FIELDS.checked(x, cls.__name__)
        if isinstance(data.get("y"), Tensor) and data["y"].numel():
            arguments.setdefault("num_symbols", max(1, int(data["y"].max())))
        return super().from_data(x, **arguments)

    def validate(self, x: Data) -> dict[str, Tensor]:
        data = FIELDS.checked(x, self.name)
        given = frames(data, self.num_features, self.name)
        return {**given, **symbols(data, given["lengths"], self.num_symbols, self.name)}

    def validate_given(self, x: dict[str, Any]) -> dict[str, Tensor]:
        return frames(x, self.num_features, self.name)

    def initialize(self, x: Data, init: str, restart: int = 0) -> None:
        """Networks as drawn, frames standardised."""
        if init == "current":
            return
        inside = torch.arange(x["x"].shape[1], device=x["x"].device) < x["lengths"].unsqueeze(-1)
        for network in (self.network, self.guide_network):
            if isinstance(network, Recurrent):
                network.set_from(x["x"][inside])

    def parameter_scales(self, x: Data) -> dict[str, Tensor]:
        return {name: torch.tensor(0.1, dtype=p.dtype) for name, p in self.named_parameters()}

    def datum_size(self, x: Data) -> int:
        return int(x["x"].shape[1]) * 8 * max(self.hidden_dim, self.num_features)

    def saved_as(self) -> dict[str, Any]:
        """A fit of a network of the user's is loaded with ``model=``."""
        saved = super().saved_as()
        network = saved["config"]["network"]
        if network is None:
            return saved
        return {**saved, "own_program": True, "config": {**saved["config"], "network": type(network).__name__}}


def tiny() -> tuple[CTC, dict[str, Tensor]]:
    """The smallest honest instance, ragged and with a repeated symbol."""
    model = CTC(num_features=2, num_symbols=2, hidden_dim=3)
    with torch.no_grad():
        model.head.weight.mul_(3)  # as drawn every frame is all but uniform
    x = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([[1, 1], [2, 0], [2, 1]])
    data = {"x": x, "lengths": torch.tensor([4, 2, 3]), "y": y, "target_lengths": torch.tensor([2, 1, 2])}
    return model, model.validate(data)
