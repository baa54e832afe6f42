"""Restricted Boltzmann machine: visible and hidden units, coupled across and not among each other.

    p(x, z) ∝ exp(x' W z + b' x + c' z),   z binary,   x binary                       (Bernoulli)
    p(x, z) ∝ exp(u' W z + b' u + c' z - u' u / 2),   u = x / scale                   (Gaussian)

Smolensky (1986), "Information processing in dynamical systems"; Hinton (2002); Welling, Rosen-Zvi & Hinton (2005) for
real x. Written about offsets μ and λ, the data's mean and one half: x - μ and z - λ are coupled, which makes the
gradient that of a centred machine (Montavon & Müller 2012; Melchior, Fischer & Wiskott 2016) and no other distribution.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn.functional import logsigmoid, softplus
from torch.utils.checkpoint import checkpoint

from zoo.core.annealing import AnnealingPath
from zoo.core.checks import assigned, matrix, positive, rows
from zoo.core.contract import Axes, parameter
from zoo.core.data import Data, as_data
from zoo.densities.ising import MOST_UNITS, all_states, picked
from zoo.densities.two_sides import Sides, drawn_bits, free_energies
from zoo.errors import ZooError, unknown_name
from zoo.models.shared.energy import EnergyModel

__all__ = ["RestrictedBoltzmannMachine"]

#: States of the smaller side times units of the larger one, up to which ln Z is part of every score.
AFFORDABLE = 1 << 28
#: Numbers of a table of states beside units at a time.
TABLE = 1 << 23

#: The fewest columns that are taken for pixels.
FEW_PIXELS = 16


class RestrictedBoltzmannMachine(EnergyModel):
    """Restricted Boltzmann machine over D visible and H hidden units.

    Args:
        num_features: D. num_hidden: H.
        visible: "bernoulli", x is 0 or 1; "gaussian", x is real.
        centred: whether the offsets are the data's mean and one half, rather than zero.
        binarization: "threshold" cuts pixels between 0 and ``white`` at one half; None takes 0 and ``white`` alone.
        white: what a white pixel reads in the data: 1, 16, 255.

    Shapes:
        x: (N, D). weights: (D, H). visible_biases: (D,). hidden_biases: (H,). scale: (D,), of Gaussian units.
        log_marginal(x): (N,) nats, exact, where either side has at most 24 units and the sum is affordable.

    Raises:
        ZooError: x of another size, or grey where it should be 0 or 1; an exact ln Z of too many units.

    Example:
        >>> model, x = tiny()
        >>> model.log_marginal(x).shape
        torch.Size([5])
    """

    reference = "Hinton (2002), Training products of experts by minimizing contrastive divergence"
    default_data = "digits"
    dtype = torch.float32
    reads_as: ClassVar[dict[str, str]] = {"visible_biases": "visible_shift", "hidden_biases": "hidden_shift"}
    axes: ClassVar[Axes] = {
        "weights": ("feature", "hidden unit"),
        "visible_biases": ("feature",),
        "hidden_biases": ("hidden unit",),
        "scale": ("feature",),
    }

    def __init__(
        self,
        num_features: int,
        num_hidden: int = 64,
        visible: str = "bernoulli",
        centred: bool = True,
        binarization: str | None = None,
        white: float = 1.0,
    ) -> None:
        super().__init__()
        who = type(self).__name__
        if visible not in ("bernoulli", "gaussian"):
            raise unknown_name(f"{who}: visible", str(visible), ["bernoulli", "gaussian"])
        if binarization not in (None, "threshold"):
            raise unknown_name(f"{who}: binarization", str(binarization), ["threshold"])
        if not white > 0:
            raise ZooError(f"{who}: white expected a positive number, got {white}. It is 1, 16 or 255 as a rule.")
        self.num_features = positive(num_features, "num_features", who)
        self.num_hidden = positive(num_hidden, "num_hidden", who)
        self.visible, self.centred = visible, bool(centred)
        self.binarization, self.white = binarization, float(white)
        self.values = (0.0, 1.0) if visible == "bernoulli" else None
        self.weights = nn.Parameter(self._drawn())
        self.visible_shift = nn.Parameter(torch.zeros(num_features))
        self.hidden_shift = nn.Parameter(torch.zeros(num_hidden))
        if visible == "gaussian":
            self.scale = parameter(torch.ones(num_features), constraints.positive)
        self.register_buffer("visible_offset", torch.zeros(num_features))
        self.register_buffer("hidden_offset", torch.full((num_hidden,), 0.5 if centred else 0.0))
        self.register_buffer("base_biases", torch.zeros(num_features))

    def _drawn(self) -> Tensor:
        return torch.randn(self.num_features, self.num_hidden, dtype=self.dtype) * 0.1 / self.num_hidden**0.5

    # Parameters as users know them ------------------------------------------------------------------------------------

    @property
    def visible_biases(self) -> Tensor:
        """b (D,), of the energy without offsets."""
        return self.visible_shift - self.weights @ self.hidden_offset

    @visible_biases.setter
    def visible_biases(self, value: Any) -> None:
        value = self._vector("visible_biases", value, self.num_features)
        with torch.no_grad():
            self.visible_shift.copy_(value + self.weights @ self.hidden_offset)

    @property
    def hidden_biases(self) -> Tensor:
        """c (H,), of the energy without offsets."""
        return self.hidden_shift - self.visible_offset @ self.weights

    @hidden_biases.setter
    def hidden_biases(self, value: Any) -> None:
        value = self._vector("hidden_biases", value, self.num_hidden)
        with torch.no_grad():
            self.hidden_shift.copy_(value + self.visible_offset @ self.weights)

    def _vector(self, name: str, value: Any, size: int) -> Tensor:
        return assigned(value, self.weights, f"{self.name}.{name}", (size,))

    def __setattr__(self, name: str, value: Any) -> None:
        """Weights may be assigned as numbers; the biases stay what they read."""
        if name == "weights" and "weights" in self.__dict__.get("_parameters", {}):
            new = assigned(value, self.weights, f"{self.name}.weights")
            with torch.no_grad():
                b, c = self.visible_biases, self.hidden_biases
                self.weights.copy_(new)
                self.visible_biases, self.hidden_biases = b, c
            return
        super().__setattr__(name, value)

    # The energy -------------------------------------------------------------------------------------------------------

    def _seen(self, x: Tensor) -> Tensor:
        """Data as the machine's units see them."""
        if self.visible == "gaussian":
            return x / self.scale
        return x if self.white == 1 else x / self.white

    def _constant(self) -> Tensor:
        """What a change of units adds to the energy of data."""
        return self.scale.log().sum() if self.visible == "gaussian" else self.weights.new_zeros(())

    def _alone(self, u: Tensor, biases: Tensor) -> Tensor:
        """The exponent of visible units without hidden ones."""
        linear = u @ biases
        return linear - 0.5 * u.square().sum(-1) if self.visible == "gaussian" else linear

    def joint_energy(self, x: Tensor, hidden: Tensor) -> Tensor:
        u, hidden = self._seen(x), hidden.to(x.dtype)
        coupled = ((u @ self.weights) * hidden).sum(-1)
        return self._constant() - coupled - self._alone(u, self.visible_biases) - hidden @ self.hidden_biases

    def free_energy(self, x: Tensor) -> Tensor:
        u = self._seen(x)
        inputs = torch.addmm(self.hidden_biases, u, self.weights)
        return self._constant() - self._alone(u, self.visible_biases) - softplus(inputs).sum(-1)

    def log_partition(self) -> Tensor:
        """ln Z, nats, (), of the units that :meth:`annealing_path` moves; exact and differentiable, in float64.

        The sum over all states of the side with fewer units, the other side summed in closed form.

        Raises:
            ZooError: more than 24 units on both sides (of a Gaussian machine: hidden ones).
        """
        sides = [self.num_hidden] if self.visible == "gaussian" else [self.num_hidden, self.num_features]
        if min(sides) > MOST_UNITS:
            raise ZooError(
                f"{self.name}: an exact ln Z expected at most {MOST_UNITS} units on one side, got "
                f"{' and '.join(map(str, sides))}. Use annealed_log_partition()."
            )
        w, b, c = self.weights.double(), self.visible_biases.double(), self.hidden_biases.double()
        by_hidden = self.num_hidden == min(sides)
        if not by_hidden:
            w, b, c = w.mT, c, b
        states = all_states(w.shape[1], 0.0, 1.0, w)
        gaussian = self.visible == "gaussian"

        def some(part: Tensor, w: Tensor, b: Tensor, c: Tensor) -> Tensor:
            inputs = torch.addmm(b, part, w.mT)
            summed = 0.5 * inputs.square().sum(-1) if gaussian else softplus(inputs).sum(-1)
            return (part @ c + summed).logsumexp(0)

        parts = states.split(max(1, TABLE // w.shape[0]))
        if len(parts) == 1:
            total = some(states, w, b, c)
        else:
            total = torch.stack([checkpoint(some, part, w, b, c, use_reentrant=False) for part in parts]).logsumexp(0)
        if gaussian:
            total = total + 0.5 * self.num_features * torch.log(torch.tensor(2 * torch.pi, dtype=total.dtype))
        return total

    def log_marginal(self, x: Tensor) -> Tensor:
        """Exact ln p(x), (N,), nats."""
        return (-self.free_energy(x).double() - self.log_partition()).to(x.dtype)

    def too_many(self) -> str | None:
        sides = (self.num_hidden, self.num_features)
        few = self.num_hidden if self.visible == "gaussian" else min(sides)
        if few <= MOST_UNITS and 2**few * max(sides) <= AFFORDABLE:
            return None
        return f"its ln Z is a sum over 2^{few} states of {max(sides)} units"

    def annealing_path(self) -> AnnealingPath:
        return _Path(self)

    def contrast(self, x: Tensor, chains: Tensor, sweep: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Free energies of data (N,) and of chains (S,), nats, and the chains after one more sweep, (S, D).

        Three products of matrices in all, and one for the derivatives. Machines of binary units alone.

        Args:
            chains: (S, D), as :meth:`annealing_path` moves them. sweep: else nothing is moved, and (0, D) comes back.
        """
        sides = Sides(self.weights, self.visible_shift, self.hidden_shift, self.visible_offset, self.hidden_offset)
        return free_energies(self._seen(x), chains, sides, sweep)

    def withholds(self) -> dict[str, str]:
        real = {} if self.visible == "bernoulli" else {"contrast": "its visible units are real numbers"}
        return {**super().withholds(), **real}

    def exact_draws(self, num: int) -> Tensor | None:
        if self.too_many() is not None or self.visible == "gaussian" or self.num_hidden > self.num_features:
            return None
        with torch.no_grad():
            w, b, c = self.weights.double(), self.visible_biases.double(), self.hidden_biases.double()
            states = all_states(self.num_hidden, 0.0, 1.0, w)
            parts = states.split(max(1, TABLE // self.num_features))
            mass = torch.cat([part @ c + softplus(torch.addmm(b, part, w.mT)).sum(-1) for part in parts]).softmax(0)
            hidden = states[picked(mass, num)]
            return torch.bernoulli((b + hidden @ w.mT).sigmoid()).to(self.weights.dtype) * self.white

    def units_of(self, path: AnnealingPath, state: Tensor) -> Tensor:
        return state * self.scale if self.visible == "gaussian" else state * self.white

    def pseudo_log_likelihood(self, x: Tensor) -> Tensor:
        """Σ_d ln p(x_d | all other visible units), (N,), nats; what hidden units get changes by a unit at a time."""
        u = self._seen(x)
        inputs = torch.addmm(self.hidden_biases, u, self.weights)
        here, found, step = softplus(inputs).sum(-1), u.new_zeros(len(u)), (1 - 2 * u).mT
        for d, bias in enumerate(self.visible_biases):
            there = softplus(torch.addcmul(inputs, step[d].unsqueeze(-1), self.weights[d])).sum(-1)
            found = found + logsigmoid(here - there - step[d] * bias)
        return found

    # What a user sees -------------------------------------------------------------------------------------------------

    def posterior_means(self, x: Tensor, num_samples: int = 1) -> Tensor:
        """p(z_h = 1 | x), (N, H): the features that hidden units stand for. Exact."""
        return torch.addmm(self.hidden_biases, self._seen(x), self.weights).sigmoid()

    def filters(self) -> Tensor:
        """What each hidden unit looks at: its weights, (H, D)."""
        return self.weights.detach().mT

    # Data -------------------------------------------------------------------------------------------------------------

    def validate(self, x: Data) -> Tensor:
        if self.visible == "gaussian" or not isinstance(x, Tensor):
            return self.checked_states(x)
        x = matrix(x, self.num_features, self.name)
        top = float(x.max())
        if self.binarization == "threshold" and bool((x >= 0).all()) and top <= self.white:
            x = (x > self.white / 2).to(x.dtype) * self.white
        bad = (x != 0) & (x != self.white)
        if bad.any() and bool((x >= 0).all()):
            fixes = [f"white={top:g}"] * (top > self.white)
            fixes += ["binarization='threshold'"] * bool(((x > 0) & (x < max(top, self.white))).any())
            got = f"{float(x[bad][0]):g} in {rows(bad)}"
            raise ZooError(
                f"{self.name}: x expected 0 or {self.white:g}, got {got}. Pass {' and '.join(fixes)}, "
                "or visible='gaussian' for measurements."
            )
        return self.checked_states(x / self.white) * self.white

    @classmethod
    def from_data(cls, x: Data, **arguments: Any) -> Any:
        """Sizes read off the data; of so many columns as images have also what white is, and that greys are cut at one
        half."""
        x = as_data(x)
        if isinstance(x, Tensor) and arguments.get("visible", "bernoulli") == "bernoulli" and x.numel():
            top, whole = float(x.max()), bool((x == x.round()).all())
            pixels = x.dim() == 2 and x.shape[1] >= FEW_PIXELS
            likely = [w for w in (1.0, 16.0, 255.0) if top <= w and (whole or w == 1.0)]
            arguments.setdefault("white", likely[0] if likely and pixels else 1.0)
            if pixels and bool(((x > 0) & (x < arguments["white"])).any()):
                arguments.setdefault("binarization", "threshold")
        return super().from_data(x, **arguments)

    def initialize(self, x: Tensor, init: str, restart: int = 0) -> None:
        """Small weights, visible biases as if units were independent; there annealing starts, too."""
        if init == "current":
            return
        with torch.no_grad():
            if self.visible == "gaussian":
                self.scale = x.std(0, correction=0).clamp_min(1e-3 * float(x.std()) + 1e-30)
            u = self._seen(x)
            mean = u.mean(0)
            odds = mean if self.visible == "gaussian" else ((mean * len(u) + 0.5) / (len(u) + 1)).logit()
            self.base_biases = odds
            self.visible_offset = mean if self.centred else torch.zeros_like(mean)
            self.weights.copy_(self._drawn())
            self.visible_shift.copy_(odds)
            self.visible_biases = odds
            self.hidden_shift.zero_()


class _Path(AnnealingPath):
    """Weights and hidden biases grow with t, visible biases move from those of independent units; z is summed out."""

    def __init__(self, model: RestrictedBoltzmannMachine) -> None:
        self.model, self.gaussian = model, model.visible == "gaussian"
        self.w, self.b, self.c = model.weights, model.visible_biases, model.hidden_biases
        self.base, self.last = model.base_biases, None  # type: Tensor, tuple[Tensor, Tensor] | None
        each = 0.5 * self.base.square() + 0.9189385332046727 if self.gaussian else softplus(self.base)
        self.log_base = each.double().sum() + len(self.c) * torch.log(torch.tensor(2.0, dtype=torch.float64))

    def _inputs(self, state: Tensor) -> Tensor:
        """What hidden units get, (S, H); annealing asks for the same states twice, for a ratio and for a sweep."""
        if self.last is None or self.last[0] is not state:
            self.last = state, torch.addmm(self.c, state, self.w)
        return self.last[1]

    def start(self, num_chains: int) -> Tensor:
        base = self.base.expand(num_chains, -1)
        return base + torch.randn_like(base) if self.gaussian else drawn_bits(base)

    def at_data(self, x: Tensor) -> Tensor:
        return self.model._seen(x).detach()

    def move(self, state: Tensor, t: float = 1.0) -> Tensor:
        inputs = self._inputs(state)
        hidden = drawn_bits(inputs if t == 1 else t * inputs)
        field = torch.addmm(self.b, hidden, self.w.mT)
        field = field if t == 1 else (1 - t) * self.base + t * field
        return field + torch.randn_like(field) if self.gaussian else drawn_bits(field)

    def log_density(self, state: Tensor, t: float = 1.0) -> Tensor:
        inputs = torch.addmm(self.c, state, self.w)
        if t == 1:
            return self.model._alone(state, self.b) + softplus(inputs).sum(-1)
        return self.model._alone(state, (1 - t) * self.base + t * self.b) + softplus(t * inputs).sum(-1)

    def log_ratio(self, state: Tensor, new: float, old: float) -> Tensor:
        inputs = self._inputs(state)
        linear = (new - old) * (state @ (self.b - self.base))
        return linear + (softplus(new * inputs) - softplus(old * inputs)).sum(-1)


def tiny() -> tuple[RestrictedBoltzmannMachine, Tensor]:
    """The smallest honest instance, and data."""
    model = RestrictedBoltzmannMachine(num_features=4, num_hidden=2)
    model.weights = torch.tensor([[1.0, -0.5], [0.7, 0.3], [-0.9, 0.8], [0.2, -1.1]])  # type: ignore[assignment]
    model.visible_biases, model.hidden_biases = [0.2, -0.1, 0.0, 0.3], [-0.4, 0.1]
    x = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 0, 1], [1, 1, 1, 0], [0, 0, 1, 0]])
    return model, x.to(model.dtype)
