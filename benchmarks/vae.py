"""A training step of a variational autoencoder: ours beside plain PyTorch, Pyro and pythae.

The 784-400-20 network of Kingma & Welling (2014) with ReLU, Bernoulli pixels, batches of 200 drawn anew by index every
epoch, Adam, float32, on the processor. All start from the same weights on the same data (seeded binary images: what a
step costs does not depend on what is drawn). Each system's turn is an epoch, and the systems take turns, so that a busy
machine slows them alike; ratios are medians of the ratios within a round. That all reach the same bound is the check
that all do the same work.
"""

from __future__ import annotations

import contextlib
import io
import logging
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pyro
import torch
from pyro import distributions as dist
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from zoo.core.isolation import isolated, threads
from zoo.core.problem import Problem
from zoo.estimators import find_estimator
from zoo.estimators.base import Estimator, Run
from zoo.models.vae import VAE

FEATURES, HIDDEN, LATENT, BATCH = 784, 400, 20, 200
ROWS, QUICK_ROWS = 10_000, 600
ROUNDS = 9
HAND, OURS, PYRO, PYTHAE = "hand-written PyTorch", "zoo svi", "pyro.infer.SVI", "pythae's trainer"

Epoch = Callable[[], float]
"""Trains for an epoch; the bound over it, nats a datum."""


def make_data(rows: int, seed: int = 0) -> Tensor:
    """Binary images (rows, 784): strokes of about a fifth of the pixels."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(rows, 1, 7, 7, generator=generator)
    return (nn.functional.interpolate(coarse, 28, mode="bilinear").flatten(1) > 0.65).float()


class Network(nn.Module):
    """The autoencoder as one writes it by hand.

    Shapes:
        x: (N, 784). forward(x): (), the bound's mean, nats.
    """

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(FEATURES, HIDDEN)
        self.loc, self.raw_scale = nn.Linear(HIDDEN, LATENT), nn.Linear(HIDDEN, LATENT)
        self.hidden, self.out = nn.Linear(LATENT, HIDDEN), nn.Linear(HIDDEN, FEATURES)

    def take(self, model: VAE) -> Network:
        """The weights of a model of the zoo."""
        mine = [self.body, self.loc, self.raw_scale, self.hidden, self.out]
        body, loc, raw_scale = (m for m in model.encoder.modules() if isinstance(m, nn.Linear))
        hidden, out = (m for m in model.decoder.modules() if isinstance(m, nn.Linear))
        for own, theirs in zip(mine, (body, loc, raw_scale, hidden, out), strict=True):
            own.load_state_dict(theirs.state_dict())
        return self

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of q(z | x), (N, 20)."""
        h = self.body(x).relu()
        return self.loc(h), softplus(self.raw_scale(h)) + 1e-5

    def decode(self, z: Tensor) -> Tensor:
        """Logits of the pixels, (N, 784)."""
        logits: Tensor = self.out(self.hidden(z).relu())
        return logits

    def forward(self, x: Tensor) -> Tensor:
        loc, scale = self.encode(x)
        logits = self.decode(loc + scale * torch.randn_like(loc))
        reconstruction = -binary_cross_entropy_with_logits(logits, x, reduction="sum")
        kl = 0.5 * (loc.square() + scale.square() - 1 - 2 * scale.log()).sum()
        return (reconstruction - kl) / len(x)


def _epoch(x: Tensor, step: Callable[[Tensor], float]) -> Epoch:
    def run() -> float:
        total = sum(step(x[index]) * len(index) for index in torch.randperm(len(x)).split(BATCH))
        return total / len(x)

    return run


def hand_written(model: VAE, x: Tensor) -> Epoch:
    """Plain PyTorch, with torch's fused Adam."""
    net = Network().take(model)
    adam = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)

    def step(batch: Tensor) -> float:
        adam.zero_grad()
        bound = net(batch)
        (-bound).backward()
        adam.step()
        return bound.item()

    return _epoch(x, step)


def ours(model: VAE, x: Tensor, epochs: int, others: Callable[[], None]) -> tuple[list[float], float]:
    """What ``zoo.fit`` does with the estimator ``svi``, checks, history and all; after each epoch come the others.

    Returns:
        Seconds of each epoch, and the bound over the last one, nats a datum.
    """
    estimator = svi(max_epochs=epochs, decay="constant")
    run = Run(callback=lambda row, fraction: others())  # callbacks are off its clock
    estimator.run(Problem(model.train(), x), run)
    clock = [0.0, *run.history["seconds"]]
    return [end - begin for begin, end in pairwise(clock)], float(run.history["elbo"][-1]) / len(x)


def svi(**options: Any) -> Estimator:
    """The estimator, at Adam's usual rate of 1e-3."""
    return find_estimator("svi")(warmup=0, batch_size=BATCH, learning_rate=1e-3 / VAE.step, **options)  # type: ignore[call-arg]


def programs(net: Network, name: str) -> tuple[Callable[[Tensor], None], Callable[[Tensor], None]]:
    """Model and guide as in Pyro's own example; the name must be new, or Pyro's store would train another network."""

    def model(x: Tensor) -> None:
        pyro.module(name, net)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), LATENT), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=net.decode(z)).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module(name, net)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(*net.encode(x)).to_event(1))

    return model, guide


def pyro_svi(model: VAE, x: Tensor) -> Epoch:
    """``pyro.infer.SVI`` with ``pyro.optim.Adam`` and ``Trace_ELBO``, Pyro's checks on, as it comes."""
    inference = SVI(*programs(Network().take(model), "plain"), pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
    return _epoch(x, lambda batch: -inference.step(batch) / len(batch))


def pyro_svi_lean(model: VAE, x: Tensor) -> Epoch:
    """The same with the KL in closed form, torch's fused Adam through Pyro, and the checks off."""
    adam = pyro.optim.Adam({"lr": 1e-3, "fused": True})
    inference = SVI(*programs(Network().take(model), "lean"), adam, TraceMeanField_ELBO())

    def step(batch: Tensor) -> float:
        with pyro.validation_enabled(False):
            return -inference.step(batch) / len(batch)

    return _epoch(x, step)


def pyro_module(model: VAE, x: Tensor) -> Epoch:
    """The least Pyro can do: its ELBO as a module, torch's fused Adam, a PyroModule, the checks off."""
    import pyro.nn

    class Program(pyro.nn.PyroModule):  # type: ignore[misc]  # untyped
        def __init__(self, net: Network, which: int) -> None:
            super().__init__()
            self.which, self.net = which, net

        def forward(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                if self.which:
                    pyro.sample("z", dist.Normal(*self.net.encode(x)).to_event(1))
                else:
                    z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), LATENT), 1.0).to_event(1))
                    pyro.sample("x", dist.Bernoulli(logits=self.net.decode(z)).to_event(1), obs=x)

    pyro.nn.module.to_pyro_module_(net := Network().take(model))
    loss = TraceMeanField_ELBO()(Program(net, 0), Program(net, 1))
    adam = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)

    def step(batch: Tensor) -> float:
        with pyro.validation_enabled(False):
            adam.zero_grad()
            value = loss(batch)
            (value / len(batch)).backward()
            adam.step()
            return -value.item() / len(batch)

    return _epoch(x, step)


@contextlib.contextmanager
def _pythae(model: VAE, x: Tensor) -> Iterator[Epoch | None]:
    """An epoch of pythae's trainer on the same network, its progress bar left out; None where it is not installed."""
    try:
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from pythae.data.datasets import BaseDataset
            from pythae.models import VAE as TheirVAE
            from pythae.models import VAEConfig
            from pythae.models.base.base_utils import ModelOutput
            from pythae.models.nn import BaseDecoder, BaseEncoder
            from pythae.trainers import BaseTrainer, BaseTrainerConfig
            from pythae.trainers.training_callbacks import CallbackHandler, TrainingCallback
    except ImportError:
        yield None
        return
    logging.getLogger("pythae").setLevel(logging.ERROR)
    net = Network().take(model)

    class Encoder(BaseEncoder):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.ModuleList([net.body, net.loc, net.raw_scale])

        def forward(self, x: Tensor) -> Any:
            h = self.net[0](x).relu()
            return ModelOutput(embedding=self.net[1](h), log_covariance=self.net[2](h))

    class Decoder(BaseDecoder):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.ModuleList([net.hidden, net.out])

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=self.net[1](self.net[0](z).relu()).sigmoid())

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = VAEConfig(input_dim=(FEATURES,), latent_dim=LATENT, reconstruction_loss="bce")
        trainer = BaseTrainer(
            model=TheirVAE(config, encoder=Encoder(), decoder=Decoder()),
            train_dataset=BaseDataset(x, torch.zeros(len(x))),
            training_config=BaseTrainerConfig(
                output_dir=folder,
                per_device_train_batch_size=BATCH,
                num_epochs=10_000,
                learning_rate=1e-3,
                no_cuda=True,
            ),
        )
        trainer.prepare_training()
        trainer.callback_handler = CallbackHandler([TrainingCallback()], trainer.model)
        count = 0

        def run() -> float:
            nonlocal count
            count += 1
            return -float(trainer.train_step(count))

        yield run


SYSTEMS: dict[str, Callable[[VAE, Tensor], Epoch]] = {
    HAND: hand_written,
    PYRO: pyro_svi,
    f"{PYRO}, lean": pyro_svi_lean,
    "Pyro's ELBO module": pyro_module,
}
"""The others; "lean" has the KL in closed form, fused Adam and no checks."""


def run(quick: bool = False) -> dict[str, Any]:
    """Measures, prints a table and returns its numbers.

    Args:
        quick: 3 steps an epoch and two rounds, rather than 50 and nine.

    Returns:
        The sizes; for each system the seconds a step (all, median, quartiles), its ratios to the hand-written step
        and to ours (medians over rounds) and the bound it reached; whether pythae took part; and the two targets.
    """
    x = make_data(QUICK_ROWS if quick else ROWS)
    rounds, steps = (2 if quick else ROUNDS), -(-len(x) // BATCH)
    model = VAE(FEATURES, LATENT, (HIDDEN,))
    seconds: dict[str, list[float]] = {}
    bounds: dict[str, float] = {}
    with contextlib.ExitStack() as stack:
        stack.enter_context(isolated(0))
        stack.enter_context(threads(svi().elements(Problem(model, x))))  # as ``fit`` decides
        used = torch.get_num_threads()
        epochs: dict[str, Epoch] = {name: make(model, x) for name, make in SYSTEMS.items()}
        theirs = stack.enter_context(_pythae(model, x))
        if theirs is not None:
            epochs[PYTHAE] = theirs

        def others() -> None:
            for name, epoch in epochs.items():
                begin = time.perf_counter()
                bounds[name] = epoch()
                seconds.setdefault(name, []).append(time.perf_counter() - begin)

        seconds[OURS], bounds[OURS] = ours(model, x, rounds + 1, others)
        seconds = {
            name: [value / steps for value in seconds[name][1:]] for name in (HAND, OURS, *epochs)
        }  # warm by then
    result = {
        "rows": len(x),
        "batch_size": BATCH,
        "layers": [FEATURES, HIDDEN, LATENT],
        "rounds": rounds,
        "threads": used,
        "pythae": theirs is not None,
        "systems": {name: _summary(name, seconds, bounds) for name in seconds},
    }
    over_hand = result["systems"][OURS]["ratio_to_hand"]  # type: ignore[index]
    over_pyro = result["systems"][PYRO]["ratio_to_ours"]  # type: ignore[index]
    result["targets"] = {
        "at most 1.10 times the hand-written step": {"found": over_hand, "met": over_hand <= 1.10},
        "at least 1.3 times as fast as pyro.infer.SVI": {"found": over_pyro, "met": over_pyro >= 1.3},
    }
    _print(result)
    return result


def _summary(name: str, seconds: dict[str, list[float]], bounds: dict[str, float]) -> dict[str, Any]:
    def ratio(other: str) -> float:
        return statistics.median(a / b for a, b in zip(seconds[name], seconds[other], strict=True))

    low, _, high = statistics.quantiles(seconds[name], n=4, method="inclusive")
    return {
        "seconds": seconds[name],
        "median": statistics.median(seconds[name]),
        "quartiles": [low, high],
        "ratio_to_hand": ratio(HAND),
        "ratio_to_ours": ratio(OURS),
        "bound": bounds[name],
    }


def _print(result: dict[str, Any]) -> None:
    wide, hidden, latent = result["layers"]
    title = (
        f"A step of a VAE {wide}-{hidden}-{latent}, batch {result['batch_size']}, {result['threads']} threads, "
        f"{result['rounds']} rounds"
    )
    table = Table(title=title)
    table.add_column("")
    for column in ("ms a step", "quartiles", "x hand-written", "x ours", "bound, nats a datum"):
        table.add_column(column, justify="right")
    for name, system in result["systems"].items():
        low, high = system["quartiles"]
        table.add_row(
            name,
            f"{1e3 * system['median']:.2f}",
            f"{1e3 * low:.2f}-{1e3 * high:.2f}",
            f"{system['ratio_to_hand']:.2f}",
            f"{system['ratio_to_ours']:.2f}",
            f"{system['bound']:.1f}",
        )
    console = Console(width=110)
    console.print(table)
    for target, found in result["targets"].items():
        console.print(f"{target}: {found['found']:.2f}, {'met' if found['met'] else 'missed'}")
    if not result["pythae"]:
        console.print("pythae is not installed, and was left out: pip install pythae")


if __name__ == "__main__":
    run("--quick" in sys.argv)
