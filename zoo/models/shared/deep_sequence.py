"""What models of sequences made of networks share: data, the likelihood of a frame, units, lengths of draws."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from zoo.core.checks import number_from, positive, rows
from zoo.core.data import Data, Fields, plain
from zoo.core.places import sequence_name
from zoo.core.sequences import checked, inside, lengths_of, steps_in
from zoo.errors import ZooError
from zoo.models.shared.likelihood import Likelihood
from zoo.models.shared.network_model import NetworkModel

__all__ = ["DeepSequenceModel"]

#: What a frame may be.
FRAMES: tuple[str, ...] = ("bernoulli", "gaussian", "gaussian_mixture")


class DeepSequenceModel(NetworkModel):
    """Base class of models of sequences (N, T, D) that are made of networks.

    Data are one sequence (T, D), a batch (N, T, D), or a dict (or tuple) of ``x`` and ``lengths`` (N,): what lies
    beyond a length is never read. With lengths that add up to the rows, x may also be the sequences one below the
    other, (sum of lengths, D). A subclass has ``decoder``, which puts out what ``likelihood`` reads, and ``sample``.

    Args of every subclass:
        likelihood: of a frame given what the decoder puts out: "bernoulli" of features 0 or 1, "gaussian" with one
            learned variance a feature, or "gaussian_mixture", whose weights, means and variances all come from the
            decoder; with one component it is a Gaussian of variances that depend on the past.
        num_components: of the mixture. noise: of the Gaussian, where it is given, in units of each feature's own.
        weight_decay: where it is taken, precision of a normal prior on every weight of the networks, the guide's too.

    Raises:
        ZooError: x of another shape, lengths that do not fit, values outside the likelihood's support.
    """

    fields = Fields(("x", "lengths"))
    #: Sequences a step: each has many frames, and there are fewer of them than of vectors.
    batch_size: int = 20

    def _set_up(
        self,
        num_features: int,
        likelihood: str,
        num_components: int = 1,
        noise: float | None = None,
        weight_decay: float = 0.0,
    ) -> None:
        """What every constructor begins with."""
        who = type(self).__name__
        self.num_features = positive(num_features, "num_features", who)
        self._choice("likelihood", likelihood, FRAMES)
        if likelihood != "gaussian_mixture" and num_components != 1:
            raise ZooError(
                f"{who}: num_components expected likelihood='gaussian_mixture', got {likelihood!r}. Leave it out."
            )
        number = positive(num_components, "num_components", who)
        self.weight_decay = number_from(0, weight_decay, "weight_decay", who)
        self.likelihood = Likelihood(likelihood, num_features, num_components=number, noise=noise)

    # Data -----------------------------------------------------------------------------------------------------------

    def validate(self, x: Data) -> dict[str, Tensor]:
        data = checked(x, self.num_features, self._check_rows, type(self).__name__)
        if not data["x"].isfinite().all():  # infinite entries were refused by row
            which = int((~data["x"].isfinite()).flatten(1).any(-1).nonzero()[0])
            raise ZooError(
                f"{type(self).__name__}: x expected finite numbers, got NaN in {sequence_name(which)}. "
                "Fill what is missing, or drop that sequence."
            )
        return data

    def _check_rows(self, x: Tensor) -> Tensor:
        who = type(self).__name__
        if not x.isfinite().all():
            raise ZooError(f"{who}: x expected finite numbers, got infinite entries in {rows(~x.isfinite())}. Fix it.")
        bad = (x != 0) & (x != 1)
        if self.likelihood.kind == "bernoulli" and bad.any():
            raise ZooError(
                f"{who}: x expected 0 or 1 under a Bernoulli, got {float(x[bad][0]):g} in {rows(bad)}. "
                "Cut it at a threshold, or pass likelihood='gaussian'."
            )
        return x

    def frames(self, x: dict[str, Tensor]) -> Tensor:
        """All frames that are there, (M, D)."""
        return x["x"][inside(x["x"], lengths_of(x["x"], x.get("lengths")))]

    def num_units(self, x: Data) -> float:
        """Frames in the data, each as often as its sequence counts."""
        return steps_in(x)

    def num_rows(self, x: Data) -> int:
        """Frames that are there."""
        data = plain(x)
        return int(lengths_of(data["x"], data.get("lengths")).sum())

    def datum_size(self, x: Data) -> int:
        layers = [max(m.in_features, m.out_features) for m in self.modules() if isinstance(m, nn.Linear)]
        values = x["x"] if isinstance(x, dict) else x
        return int(values.shape[1]) * max([self.num_features, *layers])

    def probe(self, x: Data) -> Data:
        return {"x": x["x"][:4, :6], "lengths": lengths_of(x["x"], x.get("lengths"))[:4].clamp_max(6)}

    # Draws ----------------------------------------------------------------------------------------------------------

    def sample(self, num_data: int, num_steps: int) -> Tensor:
        """New sequences, (num_data, num_steps, D), by torch's generator."""
        raise NotImplementedError

    def sample_like(self, template: Data, num_data: int) -> Any:
        """``num_data`` new sequences as long as the template's."""
        return self.sample(num_data, template["x"].shape[1])
