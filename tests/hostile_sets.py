"""Random small data sets of the kinds that cost digits, for every model that EM serves and for plain programs."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

import zoo
from zoo.core.contract import lacks
from zoo.core.data import map_tensors
from zoo.estimators import estimator_classes
from zoo.estimators.em import EM
from zoo.models import model_classes

KINDS = ("plain", "duplicates", "integers", "collinear", "offset", "constant", "scaled", "mixed scales", "few values")
DTYPES = (torch.float64, torch.float32)


def table(rng: np.random.Generator, kind: str, n: int, d: int) -> np.ndarray:
    """(n, d) real numbers of a kind."""
    x = rng.normal(size=(n, d))
    if rng.random() < 0.5:  # clusters
        x += 4 * rng.normal(size=(3, d))[rng.integers(3, size=n)]
    match kind:
        case "duplicates":
            x = x[rng.integers(max(1, n // 3), size=n)]
        case "integers":
            x = np.round(2 * x)
        case "collinear":
            x[:, -1] = x[:, 0] * rng.normal() + (x[:, d // 2] if d > 2 else 0.0)
        case "offset":
            x = x + 1e8 * rng.choice([1.0, -1.0, 1e-3], size=d)
        case "constant":
            x[:, rng.random(d) < 0.5] = rng.choice([0.0, 1.0, math.pi, 1e8 / 3])
        case "scaled":
            x = x * 10.0 ** rng.integers(-12, 13)
        case "mixed scales":
            x = x * 10.0 ** rng.uniform(-12, 12, size=d)
        case "few values":
            x = rng.choice([0.1, 0.7, 1e6 / 7], size=(n, d))
    return x


def suited(model: Any, x: np.ndarray) -> Any:
    """The table as the model takes it: as it is, as counts, as bits or as symbols."""
    size = np.abs(x - np.median(x, axis=0))
    unit = size / max(size.max(), 1e-300)
    for form in (x, np.floor(10 ** (6 * unit[:, :1].max() * unit) - 1), (unit > 0.2) * 1.0, np.floor(2.99 * unit)):
        shape = (*form.shape[:-1], 1) if "num_symbols" in model.config else form.shape
        try:
            return model.validate(torch.as_tensor(form[..., : shape[-1]], dtype=torch.float64))
        except zoo.ZooError:
            continue
    raise AssertionError(f"{type(model).__name__} takes none of the forms of data")


def sequences(rng: np.random.Generator, data: dict[str, Tensor]) -> dict[str, Tensor]:
    """One long sequence cut into several of unequal lengths, sometimes with missing entries."""
    x = data["x"][0]
    count = int(rng.integers(1, max(2, len(x) // 3)))
    steps = len(x) // count
    x = x[: count * steps].reshape(count, steps, -1).clone()
    lengths = torch.as_tensor(rng.integers(1, steps + 1, size=count))
    lengths[0] = steps
    if rng.random() < 0.2:
        x[torch.as_tensor(rng.random(x.shape) < 0.2)] = math.nan
    return {"x": x, "lengths": lengths}


def sentences(rng: np.random.Generator, x: np.ndarray) -> dict[str, Tensor]:
    """The table as sentences of three words, of unequal lengths; some have one word, which no grammar makes."""
    size = np.abs(x - np.median(x, axis=0))
    words = torch.as_tensor(np.floor(2.99 * size / max(size.max(), 1e-300))).long()
    return {"x": words, "lengths": torch.as_tensor(rng.integers(1, words.shape[1] + 1, size=len(words)))}


def normals(k: int, shared: bool) -> Callable[[Tensor], None]:
    """A mixture of Normals over (N,)."""

    def mixture(x: Tensor) -> None:
        centre, spread = x.mean(), x.std(correction=0)
        spread = spread.where(spread > 0, torch.ones_like(spread))
        w = pyro.param("w", torch.full((k,), 1.0 / k), constraint=constraints.simplex)
        loc = pyro.param("loc", centre + spread * torch.linspace(-1, 1, k) * (k > 1))
        scale = pyro.param("scale", spread.expand(() if shared else (k,)).clone(), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(w))
            pyro.sample("x", dist.Normal(loc[z], scale if shared else scale[z]), obs=x)

    return mixture


def vectors(k: int, whole: bool) -> Callable[[Tensor], None]:
    """A mixture over (N, D): Normals independent over features, or MultivariateNormals."""

    def mixture(x: Tensor) -> None:
        spread = x.std(0, correction=0)
        spread = spread.where(spread > 0, torch.ones_like(spread))
        w = pyro.param("w", torch.full((k,), 1.0 / k), constraint=constraints.simplex)
        loc = pyro.param("loc", x.mean(0) + spread * torch.linspace(-1, 1, k).unsqueeze(-1) * (k > 1))
        if whole:
            start = torch.diag(spread).expand(k, -1, -1).clone()
            scale = pyro.param("scale", start, constraint=constraints.lower_cholesky)
        else:
            scale = pyro.param("scale", spread.expand(k, -1).clone(), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(w))
            one = (
                dist.MultivariateNormal(loc[z], scale_tril=scale[z])
                if whole
                else dist.Normal(loc[z], scale[z]).to_event(1)
            )
            pyro.sample("x", one, obs=x)

    return mixture


@dataclass
class Case:
    """One fit to try: what it is called, and the arguments of ``zoo.fit``."""

    name: str
    model: Any
    data: Any
    estimator: str
    seed: int
    options: dict[str, Any]

    @property
    def cheap(self) -> bool:
        """Whether an iteration takes milliseconds: no numeric M step, no program of many steps."""
        return "stationary" not in self.name and not (self.estimator == "auto_em" and "hmm" in self.name)

    def fit(self, **options: Any) -> zoo.Fit:
        return zoo.fit(self.model, self.data, estimator=self.estimator, seed=self.seed, **{**self.options, **options})


def served() -> list[str]:
    """Every model of the zoo with an E and an M step."""
    tiny = {name: sys.modules[cls.__module__].tiny()[0] for name, cls in model_classes().items()}
    return sorted(name for name, model in tiny.items() if lacks(model, "e_step", "m_step") is None)


def climbers() -> list[str]:
    """Every estimator that climbs the objective by E and M steps."""
    return sorted(name for name, cls in estimator_classes().items() if issubclass(cls, EM))


def draw(seed: int) -> Case:
    """The case of a seed."""
    rng = np.random.default_rng(seed)
    kind, dtype = KINDS[rng.integers(len(KINDS))], DTYPES[rng.integers(2)]
    n, d, k = int(rng.integers(4, 61)), int(rng.integers(1, 9)), int(rng.integers(1, 6))
    if rng.random() < 0.25:
        n = int(rng.integers(max(2, k), d + 3)) if d + 3 > max(2, k) else n
    x = table(rng, kind, n, d)
    options: dict[str, Any] = {"max_iter": 300}
    name: str
    model: Any
    data: Any
    if rng.random() < 0.2:
        style = int(rng.integers(4))
        model = (normals(k, False), normals(k, True), vectors(k, False), vectors(k, True))[style]
        data = torch.as_tensor(x if style > 1 else x[:, 0], dtype=dtype)
        name, estimator = ("normals", "normals, one scale", "vectors", "matrices")[style], "auto_em"
    else:
        name = served()[rng.integers(len(served()))]
        cls = model_classes()[name]
        arguments: dict[str, Any] = {}
        for argument in inspect.signature(cls).parameters:
            match argument:
                case "num_components" | "num_states" | "num_nonterminals" | "num_preterminals":
                    arguments[argument] = k
                case "num_factors":
                    arguments[argument] = int(rng.integers(1, min(d, k) + 1))
                case "num_mixtures":
                    arguments[argument] = int(rng.integers(1, 3))
                case "num_symbols":
                    arguments[argument] = 3
                case "num_features":
                    arguments[argument] = d
                case "covariance_type":
                    arguments[argument] = str(rng.choice(["full", "tied", "diag", "spherical"]))
                case "initial":
                    arguments[argument] = str(rng.choice(["free", "stationary", "uniform"]))
                case "concentration":
                    arguments[argument] = float(rng.choice([1.0, 1.0, 1.5]))
                case "prior_strength":
                    arguments[argument] = float(rng.choice([0.0, 0.0, 0.5]))
        model = cls(**arguments)
        data = sentences(rng, x) if "num_nonterminals" in arguments else suited(model, x)
        if isinstance(data, dict) and "num_states" in arguments:
            data = sequences(rng, data)
        model = model.to(dtype)
        data = map_tensors(lambda t: t.to(dtype) if t.is_floating_point() else t, data)
        able = [e for e in climbers() if e != "auto_em" or rng.random() < 0.3]
        estimator = able[rng.integers(len(able))]
        if estimator == "em" and rng.random() < 0.2:
            options["accelerate"] = "squarem"
        name = f"{name} {arguments}"
    where = f"{seed}: {estimator} {name}, {kind}, {str(dtype)[6:]}, N {n} D {d} K {k}"
    return Case(where, model, data, estimator, seed, options)
