"""Restricted Boltzmann machines on MNIST: exact test likelihoods of sixteen hidden units, brackets of five hundred.

Melchior, Fischer & Wiskott (2016), "How to center deep Boltzmann machines", compare machines written about offsets with
plain ones; Salakhutdinov & Murray (2008), "On the quantitative analysis of deep belief networks", estimate ln Z by
annealed importance sampling. Pixels are cut at one half, where the second draw them by their greys: the levels compare
roughly. Chains go on from step to step (``pcd``, one sweep), batches of 100; the rate, Adam's, falls along a cosine.

Quick: 16 hidden units for 50 epochs, 500 for 20. Full: 500 for 200.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.core.data import call
from zoo.data import load_data
from zoo.models.restricted_boltzmann_machine import RestrictedBoltzmannMachine
from zoo.reproduce._rows import fit

ABOUT = "Restricted Boltzmann machines on MNIST, pixels cut at one half: test ln p(x), nats"

_CENTRED = "Melchior, Fischer & Wiskott (2016)"
PUBLISHED: list[dict[str, Any]] = [
    {"name": "16 hidden, plain", "value": -149.05, "source": f"exact, {_CENTRED}, read"},
    {"name": "16 hidden, centred", "value": -142.56, "source": f"exact, {_CENTRED}, read"},
    {"name": "500 hidden, annealed", "value": -84.86, "source": f"after 200 epochs, {_CENTRED}, read"},
]


@dataclass(frozen=True)
class Setting:
    """What a budget is.

    Attributes:
        epochs: of the small machines. large_epochs: of the large one; 0 leaves it out.
        small, large: hidden units. rate: of :class:`~zoo.estimators.pcd.PCD`.
        num_chains, num_temperatures: of annealed importance sampling, in either direction.
        rows: images to train on and to test; None takes all.
    """

    epochs: int = 50
    large_epochs: int = 20
    small: int = 16
    large: int = 500
    rate: float = 0.05
    num_chains: int = 100
    num_temperatures: int = 5000
    rows: int | None = None


SETTINGS: dict[str, Setting] = {"quick": Setting(), "full": Setting(large_epochs=200, num_temperatures=20_000)}


def images(rows: int | None) -> tuple[Tensor, Tensor]:
    """Binary images to train on and to test, (N, 784)."""
    train, test = (torch.as_tensor(load_data("mnist", split=split)) for split in ("train", "test"))
    return (train[:rows] > 0.5).float(), (test[:rows] > 0.5).float()


def run(budget: str, seed: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Train and score; see :mod:`zoo.reproduce`."""
    setting = SETTINGS[budget]
    train, test = images(setting.rows)
    rows: list[dict[str, Any]] = []

    def row(name: str, value: float, note: str) -> None:
        rows.append({"name": name, "value": value, "note": note})
        say(f"{name}: {value:.2f} ({note})")

    for centred in (False, True):
        name = f"{setting.small} hidden, {'centred' if centred else 'plain'}"
        model, took = trained(setting, train, setting.small, centred, setting.epochs, seed)
        with torch.no_grad():
            log_z = float(model.log_partition())
        row(name, -energies(model, test) - log_z, f"exact; {took}")
        for reverse in (False, True):
            found = model.annealed_log_partition(setting.num_chains, setting.num_temperatures, seed, reverse)
            way = "backwards" if reverse else "forwards"
            note = f"standard error {found.standard_error:.2g}; from exact draws" if reverse else None
            row(
                f"{name}: ln Z annealed {way} less exact",
                found.value - log_z,
                note or f"standard error {found.standard_error:.2g}; ln Z {log_z:.2f}",
            )
    if setting.large_epochs:
        model, took = trained(setting, train, setting.large, True, setting.large_epochs, seed)
        free = energies(model, test)
        for reverse in (False, True):
            found = model.annealed_log_partition(setting.num_chains, setting.num_temperatures, seed, reverse)
            way = "annealed backwards, from long chains" if reverse else "annealed"
            row(f"{setting.large} hidden, {way}", -free - found.value, f"± {found.standard_error:.2g} by ln Z; {took}")
    return {"setting": vars(setting), "rows": rows}


def trained(
    setting: Setting, train: Tensor, hidden: int, centred: bool, epochs: int, seed: int
) -> tuple[RestrictedBoltzmannMachine, str]:
    """A fitted machine, and how long it took."""
    found = fit(
        RestrictedBoltzmannMachine(train.shape[1], hidden, centred=centred),
        train,
        estimator="pcd",
        seed=seed,
        max_epochs=epochs,
        batch_size=100,
        learning_rate=setting.rate,
    )
    model: Any = found.model
    return model, f"{epochs} epochs of pcd, {found.seconds:.0f} s"


def energies(model: RestrictedBoltzmannMachine, x: Tensor) -> float:
    """The mean free energy of data, nats."""
    with torch.no_grad():
        return float(call(model.free_energy, x).double().mean())
