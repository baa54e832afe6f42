"""Six models that the zoo does not have, each a plain Pyro function, fitted by an EM that nobody derived.

`auto_em` sums over the discrete latents of a program exactly and reads the M step off it: nothing but the function is
needed. The six, with the paper each goes back to:

- zero_inflated_poisson: counts with more zeros than a Poisson has. Each row is silent with probability gate, else a
  Poisson (Lambert 1992). Both parameters have closed-form updates.
- markov_mixture: sequences of symbols, each from one of two Markov chains, as users of a web site who click their way
  through it in different manners (Cadez et al. 2003).
- appliances: a factorial hidden Markov model (Ghahramani & Jordan 1997). Three appliances go on and off, each a chain
  of its own; one meter shows the sum of their loads. The loads enter x only through a sum: they take numeric steps.
- latent_class: one latent class behind answers of several kinds, three yes or no, one of four choices, two numbers
  (Lazarsfeld & Henry 1968).
- dawid_skene: annotators label items, each with an error matrix of his own; nobody knows the true labels
  (Dawid & Skene 1979). A negative label is a missing one.
- switching_autoregression: x_t is a line in x_{t-1} plus noise, and which line depends on a hidden chain
  (Hamilton 1989). Slopes and intercepts take numeric steps, the rest is closed form.

    python examples/define_your_own_model.py [--out define_your_own_model.png]

prints, in about 30 seconds of processor time (totals in nats; seed 0; the best of three starts):

    program                    at truth   fitted     iterations   parameter   recovered          true value
    zero_inflated_poisson      -1637.95   -1637.64   11           rate        2.55               2.50
    markov_mixture             -3104.96   -3091.94   5            weights     0.63, 0.37         0.60, 0.40
    appliances                 -737.59    -732.06    27           load        0.98, 2.22, 4.54   1.00, 2.20, 4.50
    latent_class               -4593.75   -4571.02   19           weights     0.52, 0.25, 0.22   0.50, 0.30, 0.20
    dawid_skene                -1399.85   -1373.70   67           weights     0.46, 0.29, 0.24   0.50, 0.30, 0.20
    switching_autoregression   -1482.40   -1476.49   14           slope       -0.37, 0.89        -0.40, 0.90

    program                 estimator   log-likelihood   iterations   seconds
    zero_inflated_poisson   auto_em     -1637.6412       13           0.1
    zero_inflated_poisson   eg          -1637.6412       500          5.8
    markov_mixture          auto_em     -3091.9359       5            0.1
    markov_mixture          eg          -3091.9359       500          2.8

Each fit ends a little above the truth, as a maximum must. The seconds were taken on a busy machine.

Any of them runs from the command line too:

    zoo compare examples/define_your_own_model.py:zero_inflated_poisson --data counts.csv --estimators auto_em,eg
"""

from __future__ import annotations

import argparse
import copy
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.distributions import constraints, transform_to

import zoo


def zero_inflated_poisson(x: Tensor) -> None:
    """Counts x (N,) or (N, 1)."""
    x = x.flatten()
    gate = pyro.param("gate", torch.tensor(0.3), constraint=constraints.unit_interval)
    rate = pyro.param("rate", torch.tensor(1.0), constraint=constraints.positive)
    with pyro.plate("data", len(x)):
        silent = pyro.sample("silent", dist.Bernoulli(gate))
        pyro.sample("x", dist.Poisson(torch.where(silent == 1, torch.zeros(()), rate)), obs=x)


def markov_mixture(x: Tensor, num_components: int = 2, num_symbols: int = 3) -> None:
    """Sequences x (N, T) of symbols 0, 1, ..."""
    x, k, v = x.long(), num_components, num_symbols
    weights = pyro.param("weights", torch.ones(k) / k, constraint=constraints.simplex)
    first = pyro.param("first", torch.ones(k, v) / v, constraint=constraints.simplex)
    transition = pyro.param("transition", lambda: random_rows(k, v, v), constraint=constraints.simplex)
    with pyro.plate("data", len(x), dim=-2):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x_first", dist.Categorical(first[z]), obs=x[:, :1])
        with pyro.plate("steps", x.shape[1] - 1, dim=-1):
            pyro.sample("x", dist.Categorical(transition[z, x[:, :-1]]), obs=x[:, 1:])


def appliances(x: Tensor, num_appliances: int = 3) -> None:
    """Loads x (N, T): days and hours."""
    d = num_appliances
    start = pyro.param("start", torch.full((d,), 0.5), constraint=constraints.unit_interval)
    # on[i, s] = p(on now given s before)
    on = pyro.param("on", torch.tensor([0.2, 0.8]).expand(d, 2).clone(), constraint=constraints.unit_interval)
    load = pyro.param("load", lambda: (x.max() - x.min()) * 2.0 ** torch.arange(d) / 2**d)
    base = pyro.param("base", lambda: x.min().clone())
    scale = pyro.param("scale", lambda: x.std() / 3, constraint=constraints.positive)
    before: list[Any] = [None] * d
    with pyro.plate("data", len(x)):
        for t in pyro.markov(range(x.shape[1])):
            total = base
            for i in range(d):
                probs = start[i] if before[i] is None else on[i, before[i].long()]
                before[i] = pyro.sample(f"z_{i}_{t}", dist.Bernoulli(probs))
                total = total + load[i] * before[i]
            pyro.sample(f"x_{t}", dist.Normal(total, scale), obs=x[:, t])


def latent_class(x: Tensor, num_classes: int = 3) -> None:
    """Answers x (N, 6): three of 0 and 1, one of 0 to 3, two numbers."""
    k = num_classes
    weights = pyro.param("weights", torch.ones(k) / k, constraint=constraints.simplex)
    yes = pyro.param("yes", lambda: 0.2 + 0.6 * torch.rand(k, 3), constraint=constraints.unit_interval)
    choice = pyro.param("choice", lambda: random_rows(k, 4), constraint=constraints.simplex)
    loc = pyro.param("loc", lambda: x[torch.randperm(len(x))[:k], 4:])
    scale = pyro.param("scale", lambda: x[:, 4:].std(0).expand(k, 2).clone(), constraint=constraints.positive)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x_yes", dist.Bernoulli(yes[z]).to_event(1), obs=x[:, :3])
        pyro.sample("x_choice", dist.Categorical(choice[z]), obs=x[:, 3].long())
        pyro.sample("x_number", dist.Normal(loc[z], scale[z]).to_event(1), obs=x[:, 4:])


def dawid_skene(x: Tensor, num_classes: int = 3) -> None:
    """Labels x (N, J) of N items by J annotators; negative where there is none."""
    k, j = num_classes, x.shape[1]
    weights = pyro.param("weights", torch.ones(k) / k, constraint=constraints.simplex)
    # error[j, z, l] = p(annotator j says l given the true label z)
    error = pyro.param(
        "error", lambda: (0.6 * torch.eye(k) + 0.4 / k).expand(j, k, k).clone(), constraint=constraints.simplex
    )
    with pyro.plate("data", len(x), dim=-2):
        z = pyro.sample("z", dist.Categorical(weights))
        with pyro.plate("annotators", j, dim=-1):
            pyro.sample("x", dist.Categorical(error[torch.arange(j), z]).mask(x >= 0), obs=x.clamp_min(0).long())


def switching_autoregression(x: Tensor, num_states: int = 2) -> None:
    """Series x (N, T); the first value of each is given."""
    k = num_states
    start = pyro.param("start", torch.ones(k) / k, constraint=constraints.simplex)
    transition = pyro.param("transition", 0.8 * torch.eye(k) + 0.2 / k, constraint=constraints.simplex)
    slope = pyro.param("slope", torch.linspace(-0.5, 0.5, k))
    intercept = pyro.param("intercept", torch.zeros(k))
    scale = pyro.param("scale", lambda: x.std().expand(k).clone(), constraint=constraints.positive)
    z: Any = None
    with pyro.plate("data", len(x)):
        for t in pyro.markov(range(1, x.shape[1])):
            z = pyro.sample(f"z_{t}", dist.Categorical(start if z is None else transition[z]))
            pyro.sample(f"x_{t}", dist.Normal(slope[z] * x[:, t - 1] + intercept[z], scale[z]), obs=x[:, t])


def random_rows(*shape: int) -> Tensor:
    """Rows of probabilities, a little off uniform."""
    return torch.softmax(0.5 * torch.randn(shape), -1)


class Question(NamedTuple):
    """A program with data drawn at known parameters.

    Attributes:
        program: model(x).
        truth: its parameters.
        draw: data from the truth and the number of rows.
        rows: how many.
        labels: by parameter, the axes that run over the values of latents, which have no order.
        shown: the parameter for the table.
    """

    program: Callable[..., None]
    truth: dict[str, Any]
    draw: Callable[..., Tensor]
    rows: int
    labels: dict[str, tuple[int, ...]]
    shown: str

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The truth as tensors."""
        return {name: torch.as_tensor(value, dtype=torch.float64) for name, value in self.truth.items()}


def choose(probs: Tensor) -> Tensor:
    """One draw for each row of probabilities (..., K)."""
    return torch.distributions.Categorical(probs).sample()


def draw_counts(n: int, gate: Tensor, rate: Tensor) -> Tensor:
    return torch.poisson(rate.expand(n)) * (torch.rand(n) >= gate)


def draw_sequences(n: int, weights: Tensor, first: Tensor, transition: Tensor) -> Tensor:
    z = choose(weights.expand(n, -1))
    steps = [choose(first[z])]
    for _ in range(19):
        steps.append(choose(transition[z, steps[-1]]))
    return torch.stack(steps, -1).double()


def draw_loads(n: int, start: Tensor, on: Tensor, load: Tensor, base: Tensor, scale: Tensor) -> Tensor:
    states = [(torch.rand(n, len(load)) < start).long()]
    for _ in range(11):
        states.append((torch.rand(n, len(load)) < on[torch.arange(len(load)), states[-1]]).long())
    mean = base + torch.stack(states, 1).double() @ load
    return mean + scale * torch.randn_like(mean)


def draw_answers(n: int, weights: Tensor, yes: Tensor, choice: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    z = choose(weights.expand(n, -1))
    said = torch.bernoulli(yes[z])
    return torch.cat([said, choose(choice[z])[:, None].double(), torch.normal(loc[z], scale[z])], -1)


def draw_labels(n: int, weights: Tensor, error: Tensor) -> Tensor:
    z = choose(weights.expand(n, -1))
    labels = choose(error[:, z]).T.double()
    return torch.where(torch.rand(labels.shape) < 0.2, -torch.ones(()).double(), labels)  # a fifth is missing


def draw_series(n: int, start: Tensor, transition: Tensor, slope: Tensor, intercept: Tensor, scale: Tensor) -> Tensor:
    z, steps = choose(start.expand(n, -1)), [torch.zeros(n).double()]
    for _ in range(49):
        steps.append(torch.normal(slope[z] * steps[-1] + intercept[z], scale[z]))
        z = choose(transition[z])
    return torch.stack(steps, -1)


QUESTIONS = (
    Question(zero_inflated_poisson, {"gate": 0.4, "rate": 2.5}, draw_counts, 1000, {}, "rate"),
    Question(
        markov_mixture,
        {
            "weights": [0.6, 0.4],
            "first": [[0.8, 0.1, 0.1], [0.2, 0.2, 0.6]],
            "transition": [
                [[0.7, 0.2, 0.1], [0.1, 0.7, 0.2], [0.2, 0.1, 0.7]],
                [[0.1, 0.8, 0.1], [0.1, 0.1, 0.8], [0.8, 0.1, 0.1]],
            ],
        },
        draw_sequences,
        200,
        {"weights": (0,), "first": (0,), "transition": (0,)},
        "weights",
    ),
    Question(
        appliances,
        {
            "start": [0.5, 0.2, 0.7],
            "on": [[0.2, 0.7], [0.1, 0.9], [0.3, 0.8]],
            "load": [1.0, 2.2, 4.5],
            "base": 0.5,
            "scale": 0.3,
        },
        draw_loads,
        40,
        {"start": (0,), "on": (0,), "load": (0,)},
        "load",
    ),
    Question(
        latent_class,
        {
            "weights": [0.5, 0.3, 0.2],
            "yes": [[0.9, 0.8, 0.1], [0.2, 0.7, 0.6], [0.1, 0.1, 0.9]],
            "choice": [[0.7, 0.1, 0.1, 0.1], [0.1, 0.4, 0.4, 0.1], [0.1, 0.1, 0.1, 0.7]],
            "loc": [[0.0, 1.0], [3.0, 0.0], [-3.0, -2.0]],
            "scale": [[1.0, 0.5], [1.0, 1.0], [0.5, 1.5]],
        },
        draw_answers,
        800,
        dict.fromkeys(("weights", "yes", "choice", "loc", "scale"), (0,)),
        "weights",
    ),
    Question(
        dawid_skene,
        {
            "weights": [0.5, 0.3, 0.2],
            "error": [(a * torch.eye(3) + (1 - a) / 3).tolist() for a in (0.9, 0.8, 0.7, 0.5, 0.3)],
        },
        draw_labels,
        400,
        {"weights": (0,), "error": (1,)},
        "weights",
    ),
    Question(
        switching_autoregression,
        {
            "start": [0.5, 0.5],
            "transition": [[0.95, 0.05], [0.1, 0.9]],
            "slope": [-0.4, 0.9],
            "intercept": [1.0, 0.5],
            "scale": [0.5, 0.3],
        },
        draw_series,
        40,
        {"start": (0,), "transition": (0, 1), "slope": (0,), "intercept": (0,), "scale": (0,)},
        "slope",
    ),
)


def parameters(fit: zoo.Fit) -> dict[str, Tensor]:
    """By name, the program's parameters inside their constraints."""
    return {
        name.removeprefix("param/"): transform_to(fit.model.constraint_of(name))(value.detach())
        for name, value in fit.model.named_parameters()
    }


def matched(found: dict[str, Tensor], question: Question) -> dict[str, Tensor]:
    """What was found, the latents' values in the order that suits the truth best."""
    truth, axes = question.parameters, question.labels
    if not axes:
        return found
    name = next(iter(axes))
    best, least = found, float("inf")
    for order in itertools.permutations(range(truth[name].shape[axes[name][0]])):
        tried = dict(found)
        for key, along in axes.items():
            for axis in along:
                tried[key] = tried[key].index_select(axis, torch.tensor(order))
        away = sum(float((tried[key] - truth[key]).abs().sum()) for key in axes)
        if away < least:
            best, least = tried, away
    return best


def at_truth(fit: zoo.Fit, question: Question, x: Tensor) -> float:
    """ln p(x) at the parameters that the data were drawn from, nats."""
    model = copy.deepcopy(fit.model)
    with torch.no_grad():
        for name, value in question.parameters.items():
            key = f"param/{name}"
            model.get_parameter(key).copy_(transform_to(model.constraint_of(key)).inv(value))
    score = zoo.evaluate(model, x).log_likelihood
    assert score is not None
    return score


def main(args: Sequence[str] | None = None) -> dict[str, float]:
    """Fit, print two tables, return the figures in them; ``error_*`` is the largest error of any parameter."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--restarts", type=int, default=3, help="starts of each; the best is kept")
    parser.add_argument("--out", help="draw who is of which chain here, a .png")
    parser.add_argument("--smoke", action="store_true", help="an eighth of the data, a few iterations")
    options = parser.parse_args(args)
    console = Console(width=130)
    metrics: dict[str, float] = {}
    fits: dict[str, tuple[Tensor, zoo.Fit]] = {}

    table = Table("program", "at truth", "fitted", "iterations", "seconds", "parameter", "recovered", "true value")
    for question in QUESTIONS:
        name = question.program.__name__
        torch.manual_seed(options.seed)
        x = question.draw(question.rows // 8 if options.smoke else question.rows, **question.parameters)
        limits: dict[str, Any] = {"max_iter": 3, "restarts": 1} if options.smoke else {"restarts": options.restarts}
        fit = zoo.fit(question.program, x, estimator="auto_em", seed=options.seed, tol=1e-7, progress=None, **limits)
        found = matched(parameters(fit), question)
        true = at_truth(fit, question, x)
        shown = (
            ", ".join(f"{v:.2f}" for v in values[question.shown].flatten().tolist())
            for values in (found, question.parameters)
        )
        table.add_row(
            name, f"{true:.2f}", f"{fit.log_likelihood:.2f}", str(fit.iterations), f"{fit.seconds:.2f}",
            question.shown, *shown,
        )  # fmt: skip
        fits[name] = x, fit
        metrics[f"log_likelihood_{name}"] = float(fit.log_likelihood or 0.0)
        metrics[f"true_{name}"] = true
        metrics[f"error_{name}"] = max(float((found[k] - v).abs().max()) for k, v in question.parameters.items())
    console.print(table)

    table = Table(
        "program", "estimator", "log-likelihood", "iterations", "seconds", title="the same start, by gradient"
    )
    for question in QUESTIONS[:2]:
        name = question.program.__name__
        x, _ = fits[name]
        for estimator in ("auto_em", "eg"):
            steps: dict[str, Any] = {
                "max_iter" if estimator == "auto_em" else "max_epochs": 3 if options.smoke else 500
            }
            fit = zoo.fit(question.program, x, estimator=estimator, seed=options.seed, progress=None, **steps)
            table.add_row(name, estimator, f"{fit.log_likelihood:.4f}", str(fit.iterations), f"{fit.seconds:.2f}")
            metrics[f"{estimator}_{name}"] = float(fit.log_likelihood or 0.0)
    console.print(table)
    if options.out:
        fit.plot(path=options.out)
    return metrics


if __name__ == "__main__":
    main()
