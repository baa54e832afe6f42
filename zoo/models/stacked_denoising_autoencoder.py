"""Stacked denoising autoencoder: layers learned one by one from below, then all together, with labels or without.

    layer l:  h = code of the layers below, h̃ = corrupt(h, noise),  h | h̃ ~ decoder_l(sigmoid(W_l h̃ + b_l))
    then  y | x ~ Categorical(softmax(V z + c)),  z the code of the last layer,
    or, without labels, x | x̃ as in a denoising autoencoder of all layers.

Vincent, Larochelle, Lajoie, Bengio & Manzagol (2010), "Stacked denoising autoencoders: learning useful representations
in a deep network with a local denoising criterion". The decoder of a layer that is done is a scaffolding: with labels
it is left behind. With no noise the layers are plain autoencoders; without pretraining the net is an ordinary one.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from zoo.core.checks import positive, rows
from zoo.core.contract import LatentVariableModel
from zoo.core.data import Data, Fields, as_data, mass, num_data, plain, total
from zoo.core.hooks import Computed
from zoo.core.objective import Step
from zoo.core.problem import Problem
from zoo.core.schedule import Schedule
from zoo.core.stage import Stage
from zoo.errors import ZooError
from zoo.models.denoising_autoencoder import DenoisingAutoencoder
from zoo.models.shared.layers import set_layers

__all__ = ["StackedDenoisingAutoencoder"]


class StackedDenoisingAutoencoder(DenoisingAutoencoder):
    """Stacked denoising autoencoder, or the classifier that it is the start of.

    With ``num_classes`` it is a model of y given x whose ln p(y | x) is exact (``eg``); without, one of x given spoilt
    x (``svi``). Either climb begins with a stage a layer.

    Args:
        num_features: D. hidden_dims: widths of the layers, from x on.
        corruption, tied, likelihood, white: see :class:`~zoo.DenoisingAutoencoder`; codes of lower layers are
            scored by their cross-entropy.
        noise: one amount for all layers, or one a layer.
        num_classes: C; None: no labels.
        pretraining_epochs: passes over the data a layer; 0: none, layers stay as drawn; None: enough for 3000 steps.
        pretraining_rate: of Adam, in units of the estimators' ``learning_rate``; it falls along a cosine.

    Shapes:
        data: x (N, D); with labels (x, y), or a dict of them, y (N,) of whole numbers from 0 to C - 1.
        log_marginal(x, y): (N,) nats, ln p(y | x). predict(x): (N,). class_probs(x): (N, C).

    Raises:
        ZooError: as the plain one; amounts of noise in another number than layers; labels out of range, or none where
            there are classes, or some where there are none.

    Example:
        >>> model, (x, y) = tiny()
        >>> model.log_marginal(x, y).shape
        torch.Size([6])
    """

    reference = "Vincent, Larochelle, Lajoie, Bengio & Manzagol (2010), Stacked denoising autoencoders"

    pretrained: Tensor

    def __init__(
        self,
        num_features: int,
        hidden_dims: Sequence[int] = (200, 200, 200),
        corruption: str = "masking",
        noise: float | Sequence[float] = 0.25,
        tied: bool = True,
        likelihood: str = "bernoulli",
        num_classes: int | None = None,
        pretraining_epochs: int | None = None,
        pretraining_rate: float = 0.02,
        white: float = 1.0,
    ) -> None:
        super(DenoisingAutoencoder, self).__init__()
        who, depth = self.name, len(self._sizes("hidden_dims", hidden_dims))
        amounts = [noise] * depth if isinstance(noise, (int, float)) else list(noise)
        if len(amounts) != depth:
            raise ZooError(f"{who}: noise expected one amount, or {depth}, a layer each, got {len(amounts)}. Match it.")
        self._build(num_features, hidden_dims, corruption, amounts, "data", tied, likelihood, white)
        if pretraining_epochs is not None and (isinstance(pretraining_epochs, bool) or pretraining_epochs != 0):
            positive(pretraining_epochs, "pretraining_epochs", who)
        if not pretraining_rate > 0:
            raise ZooError(f"{who}: pretraining_rate expected a number above 0, got {pretraining_rate}. Take 0.02.")
        self.pretraining_epochs, self.pretraining_rate = pretraining_epochs, float(pretraining_rate)
        self.register_buffer("pretrained", torch.tensor(False))
        self.num_classes = num_classes
        if num_classes is not None:
            if positive(num_classes, "num_classes", who) < 2:
                raise ZooError(f"{who}: num_classes expected at least 2, got {num_classes}. None: no labels.")
            self.head = nn.Linear(int(hidden_dims[-1]), num_classes)
            self.fields = Fields(observed=("y",), given=("x",))

    @property
    def normalized(self) -> bool:  # type: ignore[override]
        """Whether labels are what is scored."""
        return self.num_classes is not None

    def withholds(self) -> dict[str, str]:
        if self.num_classes is None:
            none = "it has no num_classes, and knows of no labels"
            return {**super().withholds(), "predict": none}
        exact = "given x it has no latent: ln p(y | x) is exact"
        left = "its layers were fitted to labels, and have left their decoders behind"
        names = dict.fromkeys(("guide", "denoising", "resample", "settle", "from_pixels"), exact)
        return {**names, "reconstruct": left}

    # --- the programs -----------------------------------------------------------------------------------------------

    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        if self.num_classes is None:
            return super().model(x)
        logits = self.logits(x)
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Categorical(logits=logits), obs=y)

    def guide(self, x: Tensor) -> None:
        super().guide(x)

    def denoising(self, x: Tensor, num_particles: int = 1) -> Tensor:
        """E ln p(x | x̃) of all layers together by so many draws of the noise a datum, (N,) nats."""
        return super().denoising(x, num_particles)

    def logits(self, x: Tensor) -> Tensor:
        """Of the classes, (N, C)."""
        scores: Tensor = self.head(self.codes(self.units(self.pixels(x))))
        return scores

    def log_marginal(self, x: Tensor, y: Tensor) -> Tensor:
        """ln p(y | x), (N,) nats; exact."""
        table = self.logits(x).log_softmax(-1)
        return table.gather(-1, y.long().unsqueeze(-1)).squeeze(-1)

    def predict(self, x: Tensor) -> Tensor:
        """The most probable class, (N,)."""
        return self.logits(x).argmax(-1)

    @torch.no_grad()
    def class_probs(self, x: Data) -> Tensor:
        """p(y | x), (N, C)."""
        return self.head(self.codes(self.units(self._rows(x)))).softmax(-1)

    @torch.no_grad()
    def reconstruct(self, x: Data) -> Tensor:
        """As a denoising autoencoder's; not of a model of labels.

        Raises:
            ZooError: the model was made for labels.
        """
        if (reason := self.withholds().get("reconstruct")) is not None:
            raise ZooError(f"{self.name}: reconstruct: {reason}. Leave out num_classes.")
        return super().reconstruct(x)

    # --- layer by layer ---------------------------------------------------------------------------------------------

    def pretraining(self, problem: Problem) -> Iterator[Stage]:
        """A stage a layer, from below: the denoising criterion of its own, on the clean code of those beneath. A model
        that has been through them, and is fitted on from where it is, is spared them."""
        if self.pretraining_epochs == 0 or self.pretrained:
            return
        batch = min(self.batch_size, num_data(problem.data))
        for layer in range(len(self.encoder)):
            names = [n for n, _ in self.named_parameters() if n.startswith((f"encoder.{layer}.", f"decoder.{layer}."))]
            objective = Computed(functools.partial(self._layer_step, layer))
            schedule = Schedule(self.pretraining_epochs, batch, self.pretraining_rate)
            yield Stage(f"layer {layer + 1}", objective, schedule, names, recorded=False)
        self.pretrained.fill_(True)

    def _layer_step(self, layer: int, batch: Data) -> Step:
        data = plain(batch)
        value = total(self.layer_denoising(layer, data["x"] if isinstance(data, dict) else data), batch) / mass(batch)
        return Step(-value, value.detach())

    def layer_denoising(self, layer: int, x: Tensor) -> Tensor:
        """E ln p(h | h̃) of a layer, counted from 0, h the code of those below it, by one draw of the noise; (N,)."""
        x, corrupted = self.pixels(x), self.corruptions[layer]
        with torch.no_grad():
            below = self.codes(self.units(x), layer)
            ends = (self.low, self.high) if layer == 0 else (0.0, 1.0)
            spoilt = corrupted(below, corrupted.draw(below, len(below)), *ends)
        outputs = self.back(layer, self.encoder[layer](spoilt).sigmoid())
        if layer == 0:
            return self.likelihood.log_prob(outputs, x)
        return torch.linalg.vecdot(outputs, below) - softplus(outputs).sum(-1)

    def initialize(self, x: Data, init: str, restart: int = 0) -> None:
        """As a denoising autoencoder; its layers are to be learned one by one."""
        super().initialize(x, init, restart)
        if init != "current":
            self.pretrained.fill_(False)

    def take_layers(self, layers: Sequence[tuple[Tensor, Tensor, Tensor]], x: Tensor) -> None:
        """Start from layers of sigmoid units that were learned from below; ``pretraining_epochs=0`` keeps them."""
        set_layers(self.encoder, [(weights.mT, bias) for weights, bias, _ in layers])

    # --- data -------------------------------------------------------------------------------------------------------

    @classmethod
    def from_data(cls, x: Data, **arguments: Any) -> LatentVariableModel:
        """Sizes read off the data; where there are labels, the largest of them is C - 1."""
        x = as_data(x)
        if not isinstance(x, (tuple, dict)):
            return super().from_data(x, **arguments)
        named = Fields(observed=("y",), given=("x",)).checked(x, cls.__name__)
        if isinstance(named.get("y"), Tensor) and named["y"].numel():
            arguments.setdefault("num_classes", max(2, int(named["y"].max()) + 1))
        return super().from_data(named.get("x"), **arguments)

    def validate(self, x: Data) -> Any:
        if self.num_classes is None:
            if isinstance(x, (tuple, dict)):
                raise ZooError(
                    f"{self.name}: x expected one array, got a {type(x).__name__}. Pass num_classes for labels, or x."
                )
            return self.checked(x)
        named = self.fields.checked(x, self.name)
        y = named.get("y")
        if len(named) != 2 or not isinstance(y, Tensor):
            raise ZooError(f"{self.name}: data expected x and y, got {', '.join(named)}. Pass (x, y).")
        x, y = self.checked(named["x"]), y.reshape(-1) if y.dim() == 2 and y.shape[1] == 1 else y
        if y.shape != (len(x),):
            raise ZooError(f"{self.name}: y expected shape ({len(x)},), a label a row, got {tuple(y.shape)}. Match x.")
        bad = ~((y >= 0) & (y < self.num_classes) & (y == y.round()))
        if bad.any():
            raise ZooError(
                f"{self.name}: y expected whole numbers from 0 to {self.num_classes - 1}, got {float(y[bad][0]):g} in "
                f"{rows(bad)}. Number the classes from 0, or pass num_classes to match."
            )
        return {"x": x, "y": y.long()}

    def validate_given(self, x: dict[str, Any]) -> dict[str, Tensor]:
        return {"x": self.checked(x["x"])}


def tiny() -> tuple[StackedDenoisingAutoencoder, tuple[Tensor, Tensor]]:
    """The smallest honest instance, and labelled data: two patterns, one label wrong."""
    model = StackedDenoisingAutoencoder(4, (3, 3), noise=(0.25, 0.34), num_classes=2, pretraining_epochs=2)
    x = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1]]).repeat(3, 1).to(model.dtype)
    return model, (x, torch.tensor([0, 1, 0, 1, 1, 1]))
