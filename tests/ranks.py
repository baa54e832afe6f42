"""What each process of tests/test_ranks.py does: the fit of each case alone, then that of all processes together."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch.distributions import constraints

import zoo


def mixture() -> tuple[Any, Any]:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(201, 3, generator=draw, dtype=torch.float64) + 2 * torch.randint(3, (201, 1), generator=draw)
    return zoo.GaussianMixture(3, 3), x


def chain() -> tuple[Any, Any]:
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(31, 9, 2, generator=draw, dtype=torch.float64) + 2 * torch.randint(2, (31, 9, 1), generator=draw)
    return zoo.GaussianHMM(2, 2), {"x": x, "lengths": torch.randint(3, 10, (31,), generator=draw)}


def factors() -> tuple[Any, Any]:
    draw = torch.Generator().manual_seed(2)
    z, loadings = (torch.randn(*shape, generator=draw, dtype=torch.float64) for shape in ((151, 2), (2, 5)))
    return zoo.FactorAnalysis(2, 5), z @ loadings + 0.3 * torch.randn(151, 5, generator=draw, dtype=torch.float64)


def pixels() -> tuple[Any, Any]:
    draw = torch.Generator().manual_seed(3)
    return zoo.VAE(6, 2, hidden_dims=(5,)).double(), (torch.rand(53, 6, generator=draw) < 0.4).double()


def two_poissons(x: torch.Tensor) -> None:
    """A program of the user's: counts of two kinds, the rates a line in what is given."""
    weights = pyro.param("weights", torch.tensor([0.6, 0.4], dtype=torch.float64), constraint=constraints.simplex)
    offset = pyro.param("offset", torch.tensor([0.1, 1.5], dtype=torch.float64))
    slope = pyro.param("slope", torch.tensor(0.2, dtype=torch.float64))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Poisson((offset[z] + slope * x[:, 0]).exp()), obs=x[:, 1])


def counts() -> tuple[Any, Any]:
    draw = torch.Generator().manual_seed(4)
    given = torch.rand(61, 1, generator=draw, dtype=torch.float64)
    rates = (1.0 + 6 * torch.randint(2, (61, 1), generator=draw)) * (0.4 * given).exp()
    return two_poissons, torch.cat([given, torch.poisson(rates, generator=draw)], 1)


#: Fifty steps.
STEPS = {"max_epochs": 50, "warmup": 5}
#: By name: model and data, and what the fit is asked for.
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "mixture, em": (mixture, {"estimator": "em"}),
    "mixture, hard_em": (mixture, {"estimator": "hard_em", "restarts": 2}),
    "mixture, squarem": (mixture, {"estimator": "em", "accelerate": "squarem", "validation": 0.2}),
    "mixture, online_em": (mixture, {"estimator": "online_em", "max_epochs": 3, "batch_size": 47}),
    "chain, em": (chain, {"estimator": "em", "max_iter": 20}),
    "factors, em": (factors, {"estimator": "em", "max_iter": 50}),
    "mixture, auto_em": (mixture, {"estimator": "auto_em", "max_iter": 40}),
    "chain, auto_em": (chain, {"estimator": "auto_em", "max_iter": 20}),
    "counts, auto_em": (counts, {"estimator": "auto_em", "max_iter": 10}),
    "mixture, svi": (mixture, {"estimator": "svi", **STEPS}),
    "mixture, adam": (mixture, {"estimator": "svi", "optimizer": "adam", **STEPS}),
    "chain, svi": (chain, {"estimator": "svi", **STEPS}),
    "factors, svi": (factors, {"estimator": "svi", **STEPS}),
    "pixels, svi": (pixels, {"estimator": "svi", "batch_size": 27, "max_epochs": 25, "warmup": 5}),
    "pixels, iwae": (pixels, {"estimator": "iwae", "num_particles": 3, "max_epochs": 10, "warmup": 5}),
    "mixture, eg": (mixture, {"estimator": "eg", "max_epochs": 50}),
    "mixture, gumbel": (mixture, {"estimator": "gumbel", **STEPS}),
    "mixture, reinforce": (mixture, {"estimator": "reinforce", **STEPS}),
    "mixture, rws": (mixture, {"estimator": "rws", **STEPS}),
}


def fitted(name: str) -> dict[str, Any]:
    """What came of a case: status, rows of the history, the score, all numbers of the model."""
    make, options = CASES[name]
    model, x = make()
    this = zoo.fit(model, x, **options)
    numbers = [value.double().flatten() for value in this.model.state_dict().values()]
    return {
        "status": this.status,
        "objective": this.history["objective"],
        "score": this.log_likelihood if this.log_likelihood is not None else this.elbo,
        "parameters": torch.cat(numbers).tolist(),
    }


def main(out: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    together = {name: fitted(name) for name in names}
    torch.distributed.destroy_process_group()
    alone = {name: fitted(name) for name in names} if rank == 0 else {}
    (out / f"{rank}.json").write_text(json.dumps({"together": together, "alone": alone}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
