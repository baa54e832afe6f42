"""What models with neural networks share: decoders' likelihoods, pixels and how they are made binary, sizes of steps.

A likelihood turns what a network puts out ("logits") into p(x | z), independent over features:

    bernoulli             x_d ~ Bernoulli(sigmoid(l_d)), x_d 0 or 1
    continuous_bernoulli  p(x_d) = C(l_d) exp(l_d x_d) / (1 + exp(l_d)), x_d in [0, 1]; Loaiza-Ganem & Cunningham (2019)
    gaussian              x_d ~ N(l_d, scale_d^2), scale_d learned, the same for all data
    categorical           x_d ~ Categorical(softmax(l_d)), l_d of V numbers, x_d in 0..V-1
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Size, Tensor, nn
from torch.distributions import constraints
from torch.nn.functional import softplus

from guides.networks import ACTIVATIONS, MLP, ConvDecoder
from zoo.batch import Data, as_data, tensors
from zoo.checks import matrix, positive, rows
from zoo.errors import ZooError, unknown_name
from zoo.model import LatentVariableModel

__all__ = [
    "BINARIZATIONS",
    "LIKELIHOODS",
    "ContinuousBernoulli",
    "Likelihood",
    "NeuralModel",
    "PairedModel",
    "log_normalizer",
    "network",
]

#: The families of p(x | z).
LIKELIHOODS: tuple[str, ...] = ("bernoulli", "continuous_bernoulli", "gaussian", "categorical")
#: How grey pixels become 0 or 1. None: they must be so already.
BINARIZATIONS: tuple[str, ...] = ("dynamic", "static", "threshold")
#: A learned standard deviation stays above this share of the data's own: without it the likelihood has no maximum.
NOISE_FLOOR = 0.01

#: Rows that draw their fixed noise at a time: it takes several whole numbers a pixel.
NOISED_ROWS = 2048

_ONE = Size()


def log_normalizer(logits: Tensor) -> Tensor:
    """ln C(l) of the continuous Bernoulli, elementwise: C = l / tanh(l / 2), which is 2 at l = 0.

    Loaiza-Ganem & Cunningham (2019), "The continuous Bernoulli", equation 7, which reads 2 atanh(1 - 2λ) / (1 - 2λ) for
    the mean parameter λ = sigmoid(l) and is 0 / 0 at λ = 1/2. Near there a series in l stands for it.
    """
    half = logits.abs() / 2
    small = half < 0.05
    safe = half.where(~small, torch.ones_like(half))
    square = half.square()
    series = square * (1 / 3 - square * (7 / 90 - square * 62 / 2835))
    # tanh is 1 from about 9 on in float32: the logarithm of it is then exactly 0, as it should be.
    return math.log(2) + torch.where(small, series, safe.log() - safe.tanh().log())


class ContinuousBernoulli(dist.TorchDistribution):
    """Continuous Bernoulli by its logits, at any size of these; torch's own clamps its probs, and blurs near one half.

    Loaiza-Ganem & Cunningham (2019), section 3: the density (equation 6), its mean (equation 8) and inverse
    distribution function (appendix), all written in l rather than in sigmoid(l).

    Args:
        logits: l, any shape.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"logits": constraints.real}
    support = constraints.unit_interval
    has_rsample = True

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> ContinuousBernoulli:
        return ContinuousBernoulli(self.logits.expand(batch_shape), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        return value * self.logits - softplus(self.logits) + log_normalizer(self.logits)

    @property
    def mean(self) -> Tensor:
        """1 / (1 - exp(-l)) - 1 / l, and near 0 its series 1/2 + l/12 - l^3/720."""
        logits = self.logits
        small = logits.abs() < 0.1
        safe = logits.where(~small, torch.ones_like(logits))
        return torch.where(small, 0.5 + logits / 12 - logits**3 / 720, -1 / torch.expm1(-safe) - 1 / safe)

    def icdf(self, value: Tensor) -> Tensor:
        """ln(1 + u (exp(l) - 1)) / l, for positive l by 1 minus that of -l and 1 - u: nothing overflows then."""
        negative = torch.where(self.logits > 0, -self.logits, self.logits)  # abs has no slope at 0
        small = negative > -1e-3
        safe = negative.where(~small, -torch.ones_like(negative))
        u = torch.where(self.logits > 0, 1 - value, value)
        found = torch.where(small, u + negative * u * (1 - u) / 2, torch.log1p(u * torch.expm1(safe)) / safe)
        return torch.where(self.logits > 0, 1 - found, found)

    def rsample(self, sample_shape: Any = _ONE) -> Tensor:
        u = torch.rand(Size(sample_shape) + self.logits.shape, dtype=self.logits.dtype, device=self.logits.device)
        return self.icdf(u).clamp(0.0, 1.0)


class Likelihood(nn.Module):
    """p(x | z) from what a network puts out; features independent.

    Args:
        kind: one of :data:`LIKELIHOODS`. num_features: D. num_values: V, of the categorical.

    Shapes:
        outputs: (..., D), categorical (..., D V) with a feature's V logits side by side.
        forward(outputs): a distribution of batch shape (...) and event shape (D,).
        log_prob(outputs, x): (...), nats, x (N, D) and outputs (..., N, D): the same number without the distribution.
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, kind: str, num_features: int, num_values: int = 2) -> None:
        super().__init__()
        if kind not in LIKELIHOODS:
            raise unknown_name("likelihood", str(kind), LIKELIHOODS)
        self.kind, self.num_features, self.num_values = kind, num_features, num_values
        if kind == "gaussian":
            self.register_buffer("loc", torch.zeros(num_features))
            self.register_buffer("scale", torch.ones(num_features))
            self.raw_noise = nn.Parameter(torch.zeros(num_features))

    @property
    def of_pixels(self) -> bool:
        """Whether data are pixels, measured in units of white."""
        return self.kind in ("bernoulli", "continuous_bernoulli")

    @property
    def num_outputs(self) -> int:
        """Numbers that the network puts out a datum."""
        return self.num_features * (self.num_values if self.kind == "categorical" else 1)

    def reset_parameters(self) -> None:
        """Noise of about 0.7 of the data's standard deviation."""
        if self.kind == "gaussian":
            nn.init.zeros_(self.raw_noise)

    def set_from(self, x: Tensor) -> None:
        """Measure a Gaussian in units of the data (N, D): its mean and standard deviation, feature by feature."""
        if self.kind == "gaussian":
            loc, scale = x.mean(0), x.std(0, correction=0)
            constant = scale <= 4 * torch.finfo(x.dtype).eps * loc.abs()
            self.loc.copy_(loc)
            self.scale.copy_(scale.masked_fill(constant, 1.0))

    def start(self, x: Tensor) -> Tensor:
        """The outputs of a network without inputs that suit the data (N, D) best: a start for its last bias."""
        if self.kind == "gaussian":
            return torch.zeros_like(x[0])
        if self.kind == "categorical":
            counts = torch.nn.functional.one_hot(x.long(), self.num_values).sum(0) + 1.0
            return (counts / counts.sum(-1, keepdim=True)).log().flatten().to(x)
        return x.mean(0).clamp(0.01, 0.99).logit()

    def noise(self) -> Tensor:
        """Standard deviation of a Gaussian's features, (D,)."""
        return self.scale * (NOISE_FLOOR + softplus(self.raw_noise))

    def forward(self, outputs: Tensor) -> dist.TorchDistribution:
        if self.kind == "bernoulli":
            return dist.Bernoulli(logits=outputs).to_event(1)
        if self.kind == "continuous_bernoulli":
            return ContinuousBernoulli(logits=outputs).to_event(1)
        if self.kind == "gaussian":
            return dist.Normal(self.loc + self.scale * outputs, self.noise()).to_event(1)
        return dist.Categorical(logits=outputs.unflatten(-1, (self.num_features, self.num_values))).to_event(1)

    def log_prob(self, outputs: Tensor, x: Tensor) -> Tensor:
        if self.kind == "gaussian":
            noise = self.noise()
            scaled = (x - self.loc - self.scale * outputs) / noise
            constant = noise.log().sum() + 0.5 * self.num_features * math.log(2 * math.pi)
            return -0.5 * scaled.square().sum(-1) - constant
        if self.kind == "categorical":
            table = outputs.unflatten(-1, (self.num_features, self.num_values)).log_softmax(-1)
            shape = torch.broadcast_shapes(table.shape[:-1], x.shape)
            index = x.long().expand(shape).unsqueeze(-1)
            return table.expand(*shape, self.num_values).gather(-1, index).squeeze(-1).sum(-1)
        value = torch.linalg.vecdot(outputs, x) - softplus(outputs).sum(-1)
        return value + log_normalizer(outputs).sum(-1) if self.kind == "continuous_bernoulli" else value

    def mean(self, outputs: Tensor) -> Tensor:
        """E[x | z], (..., D); the most probable value for a categorical."""
        if self.kind == "gaussian":
            return self.loc + self.scale * outputs
        if self.kind == "categorical":
            return outputs.unflatten(-1, (self.num_features, self.num_values)).argmax(-1).to(outputs)
        if self.kind == "bernoulli":
            return outputs.sigmoid()
        return ContinuousBernoulli(logits=outputs).mean


def network(
    latent_dim: int,
    hidden_dims: Sequence[int],
    likelihood: Likelihood,
    activation: str = "relu",
    architecture: str = "mlp",
) -> nn.Module:
    """A decoder from (..., latent_dim) to the likelihood's outputs, ``hidden_dims`` in the order they are met."""
    if architecture == "conv":
        outputs = likelihood.num_outputs // likelihood.num_features
        return ConvDecoder(latent_dim, likelihood.num_features, hidden_dims[0], outputs=outputs, activation=activation)
    return MLP((latent_dim, *hidden_dims, likelihood.num_outputs), activation)


#: 2^64 over the golden ratio, and the two multipliers of SplitMix64, as signed numbers.
_GOLDEN, _FIRST, _SECOND = (c - 2**64 for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def noise_of(x: Tensor, seed: int = 0) -> Tensor:
    """Uniform numbers in [0, 1), of the shape (N, D) of x: each row's a fixed function of that row and the seed alone.

    A counter-based generator: SplitMix64 (Steele, Lea & Flood 2014, figure 14) at the row's hash plus the column. All
    of it in whole numbers of 64 bits that wrap around, so every device draws the same.
    """
    column = _GOLDEN * torch.arange(1, x.shape[-1] + 1, device=x.device)
    words = x.to(torch.float32).contiguous().view(torch.int32).long()
    row = _scrambled(words + _scrambled(column)).sum(-1, keepdim=True)
    start = torch.full_like(row, seed) * _GOLDEN
    bits = _scrambled(_scrambled(row + start) + column)
    return (_shifted(bits, 40)).to(torch.float32) / 2**24


def _shifted(bits: Tensor, by: int) -> Tensor:
    """A shift to the right that draws in zeros, whatever the sign."""
    return (bits >> by) & ((1 << (64 - by)) - 1)


def _scrambled(bits: Tensor) -> Tensor:
    bits = (bits ^ _shifted(bits, 30)) * _FIRST
    bits = (bits ^ _shifted(bits, 27)) * _SECOND
    return bits ^ _shifted(bits, 31)


class NeuralModel(LatentVariableModel):
    """Base class of models made of networks; float32, as they are trained by noisy gradients.

    The estimators' learning rate is in units of a step: one unit is ``step`` = 0.05 for a network's weight, so the
    default rate of 0.02 is Adam's usual 1e-3. For a published rate r pass ``learning_rate=20 * r``.

    Args of every subclass:
        likelihood: "bernoulli", "continuous_bernoulli", "gaussian" or "categorical".
        binarization: what becomes of grey pixels under a Bernoulli: "dynamic" draws 0 or 1 anew for every batch, a
            pixel's grey its probability (elsewhere, as in ``evaluate``, one fixed draw is used); "static" draws once;
            "threshold" cuts at one half. None refuses grey pixels.
        white: what a white pixel reads in the data: 1, 16 (``digits``), 255. Pixels are divided by it.
    """

    dtype = torch.float32
    inits = ("random", "current")
    default_data = "digits"
    #: What one unit of a learning rate is, for a network's weight.
    step: float = 0.05
    #: Rows a step, and guide-only steps before, where the estimator's options do not say: many noisy steps serve
    #: networks better than few exact ones, and a decoder as drawn is no start that a guide could destroy.
    batch_size: int = 128
    warmup: int = 0

    num_features: int
    likelihood: Likelihood
    decoder: nn.Module
    binarization: str | None
    white: float

    def _set_up(
        self,
        num_features: int,
        likelihood: str,
        num_values: int,
        binarization: str | None,
        white: float,
    ) -> None:
        """What every constructor begins with."""
        who = type(self).__name__
        self.num_features = positive(num_features, "num_features", who)
        if binarization is not None and binarization not in BINARIZATIONS:
            raise unknown_name(f"{who}: binarization", binarization, BINARIZATIONS)
        if binarization is not None and likelihood != "bernoulli":
            raise ZooError(f"{who}: binarization expected likelihood='bernoulli', got {likelihood!r}. Leave it out.")
        if not white > 0:
            raise ZooError(f"{who}: white expected a positive number, got {white}. It is 1, 16 or 255 as a rule.")
        self.binarization, self.white = binarization, float(white)
        self.likelihood = Likelihood(likelihood, num_features, positive(num_values, "num_values", who))

    def _choice(self, name: str, value: Any, choices: Sequence[Any]) -> Any:
        if value not in choices:
            raise unknown_name(f"{type(self).__name__}: {name}", str(value), [str(c) for c in choices])
        return value

    def _widths(self, hidden_dims: Sequence[int], activation: str) -> tuple[int, ...]:
        self._choice("activation", activation, list(ACTIVATIONS))
        return self._sizes("hidden_dims", hidden_dims)

    def _sizes(self, name: str, values: Sequence[int]) -> tuple[int, ...]:
        if isinstance(values, (str, int)):
            raise ZooError(f"{type(self).__name__}: {name} expected a list such as [200, 100], got {values!r}.")
        return tuple(positive(value, name, type(self).__name__) for value in values)

    @classmethod
    def from_data(cls, x: Data, **arguments: Any) -> LatentVariableModel:
        """Sizes read off the data; also what white is, and that grey pixels under a Bernoulli are drawn anew."""
        x = as_data(x)
        target = tensors(x)[-1:]
        if target and arguments.get("likelihood", "bernoulli") in ("bernoulli", "continuous_bernoulli"):
            top, whole = float(target[0].max()), bool((target[0] == target[0].round()).all())
            arguments.setdefault("white", next((w for w in (1.0, 16.0, 255.0) if top <= w and (whole or w == 1)), 1.0))
            grey = (target[0] > 0) & (target[0] < arguments["white"])
            if arguments.get("likelihood", "bernoulli") == "bernoulli" and bool(grey.any()):
                arguments.setdefault("binarization", "dynamic")
        return super().from_data(x, **arguments)

    # --- data -----------------------------------------------------------------------------------------------------

    def validate(self, x: Data) -> Any:
        return self.checked(x)

    def checked(self, x: Data) -> Tensor:
        """x as a finite (N, D) tensor of values the likelihood takes; binarised where that is done once and for all.

        Raises:
            ZooError: another size, or values outside the likelihood's support.
        """
        who, kind = type(self).__name__, self.likelihood.kind
        x = matrix(x, self.num_features, who)
        if kind == "categorical":
            bad = (x < 0) | (x >= self.likelihood.num_values) | (x != x.round())
            if bad.any():
                raise ZooError(
                    f"{who}: x expected whole numbers from 0 to {self.likelihood.num_values - 1}, got "
                    f"{float(x[bad][0]):g} in {rows(bad)}. Pass num_values to match."
                )
        elif kind != "gaussian":
            bad = (x < 0) | (x > self.white)
            if bad.any():
                top = float(x.max())
                fix = "Pass likelihood='gaussian'" if (x < 0).any() else f"Pass white={top:g}, or likelihood='gaussian'"
                raise ZooError(
                    f"{who}: pixels expected from 0 to white = {self.white:g}, got {float(x[bad][0]):g} in "
                    f"{rows(bad)}. {fix}."
                )
            grey = (x > 0) & (x < self.white)
            if kind == "bernoulli" and self.binarization is None and grey.any():
                raise ZooError(
                    f"{who}: a Bernoulli decoder expected pixels 0 or {self.white:g}, got {float(x[grey][0]):g} in "
                    f"{rows(grey)}. Pass binarization='dynamic', or likelihood='continuous_bernoulli'."
                )
            if self.binarization in ("static", "threshold"):
                return self.binary(x) * self.white
        return x

    def binary(self, x: Tensor, seed: int = 0) -> Tensor:
        """Pixels as 0 or 1, (N, D): by one fixed draw, or at the threshold. What is binary already stays as it is.

        An image has the same draw wherever and with whatever others it comes, see :func:`noise_of`.
        """
        level = x / self.white
        if self.binarization == "threshold":
            return (level > 0.5).to(x.dtype)
        return torch.cat([(noise_of(piece, seed) < piece).to(x.dtype) for piece in level.split(NOISED_ROWS)])

    def pixels(self, x: Tensor, seed: int = 0) -> Tensor:
        """The data as the programs score them: in units of white, and binary if the model is one of binary pixels.

        A grey x here is one that no estimator has drawn from; the same fixed draw then serves model and guide.
        """
        x = x.to(next(self.decoder.parameters()).dtype)
        if not self.likelihood.of_pixels:
            return x
        if self._is_grey(x):
            return self.binary(x, seed)
        return x if self.white == 1.0 else x / self.white

    def resample(self, x: Tensor) -> Data:
        """A new draw of binary pixels from grey ones, by torch's generator; estimators ask for one every batch."""
        if self.binarization != "dynamic":
            return x
        return torch.bernoulli(x if self.white == 1.0 else x / self.white) * self.white

    def from_pixels(self, x: Tensor) -> Tensor:
        """What the programs draw, in the data's units: :meth:`pixels` undone."""
        return x * self.white if self.likelihood.of_pixels else x

    def _is_grey(self, x: Tensor) -> bool:
        """Whether pixels are still to be drawn."""
        return self.binarization == "dynamic" and not bool(((x == 0) | (x == self.white)).all())

    def settle(self, x: Tensor, seed: int = 0) -> Data:
        """Grey pixels as the fixed draw of this seed: what scores of data are taken of."""
        return self.binary(x, seed) * self.white if self._is_grey(x) else x

    # --- training -------------------------------------------------------------------------------------------------

    def parameter_scales(self, x: Data) -> dict[str, Tensor]:
        return {name: torch.tensor(self.step, dtype=p.dtype) for name, p in self.named_parameters()}

    def start_from(self, x: Tensor, *readers: Any) -> None:
        """Measure the likelihood, and of a Gaussian the networks that read x, by the data (N, D); start the decoder."""
        if self.likelihood.kind == "gaussian":
            for reader in readers:
                reader.set_from(x)
        self.likelihood.set_from(x)
        self.start_bias(self.decoder, x / self.white if self.likelihood.of_pixels else x)

    def start_bias(self, decoder: nn.Module, x: Tensor) -> None:
        """Set the last bias of a decoder to what suits the data without any z; a convolution's is one for all."""
        last = [m for m in decoder.modules() if isinstance(m, (nn.Linear, nn.ConvTranspose2d))][-1]
        if isinstance(last, nn.Linear) and last.bias is not None:
            with torch.no_grad():
                last.bias.copy_(self.likelihood.start(x))


class PairedModel(NeuralModel):
    """Base class of models of y given x: data are a tuple (x, y), x (N, D_x) and y (N, D)."""

    takes_pairs = True
    num_inputs: int

    def checked_pair(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """x and y as finite (N, D_x) and (N, D) tensors, binarised where that is done once and for all.

        Raises:
            ZooError: other sizes, y outside the likelihood's support, or different numbers of rows.
        """
        who = type(self).__name__
        given, target = matrix(x, self.num_inputs, f"{who} (x)"), self.checked(y)
        if len(given) != len(target):
            raise ZooError(f"{who}: x and y expected as many rows, got {len(given)} and {len(target)}. Match them.")
        if self.binarization is not None:
            bad = (given < 0) | (given > self.white)
            if bad.any():
                raise ZooError(
                    f"{who}: x expected pixels from 0 to white = {self.white:g}, as y has, got "
                    f"{float(given[bad][0]):g} in {rows(bad)}. Leave binarization out where x is no image."
                )
        if self.binarization in ("static", "threshold"):
            given = self.binary(given, seed=1) * self.white  # draws of its own: not those of y
        return given, target

    @classmethod
    def cut(cls, images: Tensor, num_inputs: int | None) -> tuple[Tensor, Tensor]:
        """The x and y that images are cut into where they come whole, x of ``num_inputs`` pixels or the usual number.

        Raises:
            ZooError: images that cannot be cut so.
        """
        raise NotImplementedError

    @classmethod
    def paired(cls, x: Data, num_inputs: int | None = None) -> tuple[Tensor, Tensor]:
        """(x, y) of a tuple, of a dict with these keys, or of images to be cut.

        Raises:
            ZooError: none of these.
        """
        if isinstance(x, dict) and set(x) == {"x", "y"}:
            x = (x["x"], x["y"])
        got = f"{len(x)} of them" if isinstance(x, (tuple, dict)) else type(x).__name__
        if isinstance(x, Tensor):
            try:
                x = cls.cut(x, num_inputs)
            except ZooError:
                got = f"one array {tuple(x.shape)}"
        if not isinstance(x, tuple) or len(x) != 2:
            raise ZooError(
                f"{cls.__name__}: data expected a tuple (x, y), or whole images to cut, got {got}. "
                "Say which columns are y: --targets, or load_data(targets=...)."
            )
        return x

    @classmethod
    def from_data(cls, x: Data, **arguments: Any) -> LatentVariableModel:
        """Sizes of x and y read off the data; of an array of images one part is given, and the rest is y."""
        x = as_data(x)
        given, target = cls.paired(x, arguments.get("num_inputs"))
        return super().from_data(x, **{"num_inputs": given.shape[-1], "num_features": target.shape[-1], **arguments})

    def validate(self, x: Data) -> tuple[Tensor, Tensor]:
        return self.checked_pair(*self.paired(x, self.num_inputs))

    def resample(self, x: Tensor, y: Tensor) -> Data:  # type: ignore[override]
        return super().resample(x), super().resample(y)

    def settle(self, x: Tensor, y: Tensor, seed: int = 0) -> Data:  # type: ignore[override]
        # Another draw for x than for y: grey pixels of equal images would otherwise flip together.
        return super().settle(x, 2 * seed + 1), super().settle(y, 2 * seed)

    def inputs(self, x: Tensor) -> Tensor:
        """x as the networks take it: under a Bernoulli pixels like y's, with a draw of their own."""
        if self.likelihood.kind == "bernoulli":
            return self.pixels(x, seed=1)
        return x.to(next(self.decoder.parameters()).dtype) / self.white

    def pair(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """x and y as the programs take them."""
        return self.inputs(x), self.pixels(y)

    def measure(self, x: Tensor, y: Tensor) -> None:
        """Standardise the networks that read x, or x and y, by these; each as :meth:`pair` gives them."""
        raise NotImplementedError

    def initialize(self, x: Data, init: str, restart: int = 0) -> None:
        """Networks as drawn, inputs that are no pixels standardised; the decoder's last bias is what suits y alone."""
        if init == "current":
            return
        given, target = x
        self.start_from(target)
        if self.likelihood.kind == "gaussian" or bool(((given < 0) | (given > self.white)).any()):
            self.measure(*self.pair(given, target))
