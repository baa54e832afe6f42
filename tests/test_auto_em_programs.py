"""auto_em on programs that the zoo does not have, against EM written by hand.

The references here enumerate every latent configuration one by one and update by textbook formulas, or by scipy on the
expected complete-data log-likelihood; they share nothing with ``zoo.automatic``.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from scipy import optimize, stats
from torch.distributions import constraints, transform_to

import zoo

PATH = Path(__file__).parent.parent / "examples" / "define_your_own_model.py"
SPEC = importlib.util.spec_from_file_location("example_define_your_own_model", PATH)
programs = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(programs)


class Start(Messenger):
    """Replaces the starting values that a program gives its parameters."""

    def __init__(self, values):
        super().__init__()
        self.values = values

    def _pyro_param(self, msg):
        name, _, *rest = msg["args"]
        if name in self.values:
            msg["args"] = (name, torch.as_tensor(self.values[name]).clone(), *rest)


def started(program, values, **sizes):
    def model(x):
        with Start(values):
            program(x, **sizes)

    return model


def fitted(model, x, iterations):
    """(parameters inside their constraints, the log-likelihood before each M step) of so many EM iterations."""
    fit = zoo.fit(model, torch.as_tensor(x), estimator="auto_em", max_iter=iterations, tol=0)
    found = {
        name.removeprefix("param/"): transform_to(fit.model.constraint_of(name))(value.detach()).numpy()
        for name, value in fit.model.named_parameters()
    }
    return found, [*fit.history["log_likelihood"], fit.log_likelihood]


def posterior(joint):
    """(ln p(x), weights (N, C)) from ln p(x_n, configuration c)."""
    evidence = np.logaddexp.reduce(joint, axis=1)
    return evidence.sum(), np.exp(joint - evidence[:, None])


def normal(x, loc, scale):
    return -0.5 * ((x - loc) / scale) ** 2 - np.log(scale) - 0.5 * np.log(2 * np.pi)


# EM for each program of the example, one iteration: (ln p(x) before it, parameters after it).


def em_zero_inflated_poisson(p, x):
    silent = np.where(x == 0, 0.0, -np.inf)
    counts = x * np.log(p["rate"]) - p["rate"] - np.array([math.lgamma(v + 1) for v in x])
    evidence, r = posterior(np.stack([np.log(p["gate"]) + silent, np.log(1 - p["gate"]) + counts], 1))
    return evidence, {"gate": r[:, 0].mean(), "rate": (r[:, 1] * x).sum() / r[:, 1].sum()}


def em_markov_mixture(p, x):
    x, (k, v) = x.astype(int), p["first"].shape
    joint = np.zeros((len(x), k))
    for n, c in np.ndindex(joint.shape):
        joint[n, c] = np.log(p["weights"][c]) + np.log(p["first"][c, x[n, 0]])
        joint[n, c] += sum(np.log(p["transition"][c, a, b]) for a, b in itertools.pairwise(x[n]))
    evidence, r = posterior(joint)
    first, moves = np.zeros((k, v)), np.zeros((k, v, v))
    for n, c in np.ndindex(joint.shape):
        first[c, x[n, 0]] += r[n, c]
        for a, b in itertools.pairwise(x[n]):
            moves[c, a, b] += r[n, c]
    total = moves.sum(-1, keepdims=True)
    moves = np.where(total > 0, moves / np.where(total > 0, total, 1), p["transition"])
    return evidence, {"weights": r.mean(0), "first": first / first.sum(-1, keepdims=True), "transition": moves}


def em_appliances(p, x):
    (n, steps), d = x.shape, len(p["load"])
    paths = np.array(list(itertools.product([0, 1], repeat=steps * d))).reshape(-1, steps, d)
    joint = np.zeros((n, len(paths)))
    for c, path in enumerate(paths):
        for t, i in np.ndindex(steps, d):
            on = p["start"][i] if t == 0 else p["on"][i, path[t - 1, i]]
            joint[:, c] += np.log(on if path[t, i] else 1 - on)
        joint[:, c] += normal(x, p["base"] + path @ p["load"], p["scale"]).sum(1)
    evidence, r = posterior(joint)
    c = r.sum(0)
    new = {"start": (c[:, None] * paths[:, 0]).sum(0) / n, "on": np.zeros((d, 2))}
    for i, s in np.ndindex(d, 2):
        before = c[:, None] * (paths[:, :-1, i] == s)
        new["on"][i, s] = (before * paths[:, 1:, i]).sum() / before.sum()
    # Weighted least squares of x on (states, 1), a row for every datum, configuration and step.
    rows = np.concatenate([paths, np.ones((*paths.shape[:2], 1))], -1).reshape(-1, d + 1)
    gram = (rows * np.repeat(c, steps)[:, None]).T @ rows
    moment = np.einsum("nc,nt,cti->i", r, x, rows.reshape(len(paths), steps, d + 1))
    solution = np.linalg.solve(gram, moment)
    away = x[:, None] - (rows @ solution).reshape(1, len(paths), steps)
    scale = np.sqrt((r[..., None] * away**2).sum() / (n * steps))
    return evidence, {**new, "load": solution[:d], "base": solution[d], "scale": scale}


def em_latent_class(p, x):
    said, choice, number = x[:, :3], x[:, 3].astype(int), x[:, 4:]
    joint = np.log(p["weights"]) + np.log(p["choice"]).T[choice]
    joint = joint + said @ np.log(p["yes"]).T + (1 - said) @ np.log(1 - p["yes"]).T
    joint = joint + normal(number[:, None], p["loc"], p["scale"]).sum(-1)
    evidence, r = posterior(joint)
    count = r.sum(0)[:, None]
    loc = r.T @ number / count
    spread = (r[..., None] * (number[:, None] - loc) ** 2).sum(0) / count
    chosen = np.stack([r[choice == v].sum(0) for v in range(4)], 1) / count
    new = {"weights": r.mean(0), "yes": r.T @ said / count, "choice": chosen, "loc": loc, "scale": np.sqrt(spread)}
    return evidence, new


def em_dawid_skene(p, x):
    x, (annotators, k, _) = x.astype(int), p["error"].shape
    joint = np.tile(np.log(p["weights"]), (len(x), 1))
    with np.errstate(divide="ignore"):
        for n, j in np.ndindex(x.shape):
            if x[n, j] >= 0:
                joint[n] += np.log(p["error"][j, :, x[n, j]])
    evidence, r = posterior(joint)
    error = np.zeros((annotators, k, k))
    for n, j in np.ndindex(x.shape):
        if x[n, j] >= 0:
            error[j, :, x[n, j]] += r[n]
    total = error.sum(-1, keepdims=True)
    error = np.where(total > 0, error / np.where(total > 0, total, 1), p["error"])
    return evidence, {"weights": r.mean(0), "error": error}


def em_switching_autoregression(p, x):
    n, steps, k = len(x), x.shape[1] - 1, len(p["slope"])
    paths = np.array(list(itertools.product(range(k), repeat=steps)))
    joint = np.zeros((n, len(paths)))
    for c, path in enumerate(paths):
        joint[:, c] = np.log(p["start"][path[0]])
        joint[:, c] += sum(np.log(p["transition"][a, b]) for a, b in itertools.pairwise(path))
        joint[:, c] += normal(x[:, 1:], p["slope"][path] * x[:, :-1] + p["intercept"][path], p["scale"][path]).sum(1)
    evidence, r = posterior(joint)
    start, moves = np.zeros(k), np.zeros((k, k))
    for c, path in enumerate(paths):
        start[path[0]] += r[:, c].sum()
        for a, b in itertools.pairwise(path):
            moves[a, b] += r[:, c].sum()
    new = {"start": start / n, "transition": moves / moves.sum(1, keepdims=True)}
    new |= {name: np.zeros(k) for name in ("slope", "intercept", "scale")}
    for s in range(k):
        w = np.stack([r[:, paths[:, t] == s].sum(1) for t in range(steps)], 1).ravel()
        rows = np.stack([x[:, :-1].ravel(), np.ones(n * steps)], 1)
        line = np.linalg.solve((w[:, None] * rows).T @ rows, rows.T @ (w * x[:, 1:].ravel()))
        new["slope"][s], new["intercept"][s] = line
        new["scale"][s] = np.sqrt((w * (x[:, 1:].ravel() - rows @ line) ** 2).sum() / w.sum())
    return evidence, new


def random_case(name, seed):
    """(program, sizes, random data, random start, reference)."""
    draw = np.random.default_rng(seed)

    def rows(*shape):
        return draw.dirichlet(2 * np.ones(shape[-1]), shape[:-1])

    n = int(draw.integers(6, 30))
    sizes = {}
    if name == "zero_inflated_poisson":
        x = draw.poisson(draw.uniform(0.5, 4), n) * (draw.random(n) < draw.uniform(0.3, 0.9)) * 1.0
        start = {"gate": draw.uniform(0.1, 0.9), "rate": draw.uniform(0.3, 5)}
    elif name == "markov_mixture":
        k, v = (int(a) for a in draw.integers(2, 5, 2))
        sizes = {"num_components": k, "num_symbols": v}
        x = draw.integers(0, v, (n, int(draw.integers(2, 7)))) * 1.0
        start = {"weights": rows(k), "first": rows(k, v), "transition": rows(k, v, v)}
    elif name == "appliances":
        d = sizes["num_appliances"] = int(draw.integers(1, 3))
        steps = int(draw.integers(2, 4))
        load = draw.uniform(0.5, 4, d)
        x = draw.integers(0, 2, (n, steps, d)) @ load + 0.4 * draw.standard_normal((n, steps))
        start = {
            "start": draw.uniform(0.2, 0.8, d),
            "on": draw.uniform(0.2, 0.8, (d, 2)),
            "load": load + 0.3 * draw.standard_normal(d),
            "base": 0.3 * draw.standard_normal(),
            "scale": draw.uniform(0.3, 1),
        }
    elif name == "latent_class":
        k = sizes["num_classes"] = int(draw.integers(2, 4))
        x = np.concatenate([draw.integers(0, 2, (n, 3)), draw.integers(0, 4, (n, 1)), draw.normal(0, 2, (n, 2))], 1)
        start = {
            "weights": rows(k),
            "yes": draw.uniform(0.2, 0.8, (k, 3)),
            "choice": rows(k, 4),
            "loc": draw.normal(0, 1, (k, 2)),
            "scale": draw.uniform(1, 3, (k, 2)),
        }
    elif name == "dawid_skene":
        k, j = int(draw.integers(2, 4)), int(draw.integers(2, 5))
        sizes = {"num_classes": k}
        x = draw.integers(-1, k, (n, j)) * 1.0
        start = {"weights": rows(k), "error": rows(j, k, k)}
    else:
        k = sizes["num_states"] = int(draw.integers(2, 4))
        x = draw.standard_normal((n, int(draw.integers(4, 6)))).cumsum(1)
        start = {
            "start": rows(k),
            "transition": rows(k, k),
            "slope": draw.uniform(-1, 1, k),
            "intercept": draw.uniform(-1, 1, k),
            "scale": draw.uniform(0.5, 1.5, k),
        }
    reference = globals()[f"em_{name}"]
    return SimpleNamespace(program=getattr(programs, name), sizes=sizes, x=x, start=start, reference=reference)


NAMES = [question.program.__name__ for question in programs.QUESTIONS]
NUMERIC = {"appliances", "switching_autoregression"}


@pytest.mark.parametrize("name", NAMES)
def test_each_program_takes_the_steps_of_em_written_by_hand(name):
    case = random_case(name, 3)
    model = started(case.program, case.start, **case.sizes)
    tolerance = 1e-6 if name in NUMERIC else 1e-8
    expected, history = case.start, []
    for iteration in range(1, 6):
        evidence, expected = case.reference(expected, case.x)
        history.append(evidence)
        found, reached = fitted(model, case.x, iteration)
        assert reached[:-1] == pytest.approx(history, rel=1e-9, abs=tolerance)
        assert set(found) == set(expected)
        for key, value in expected.items():
            np.testing.assert_allclose(found[key], value, rtol=tolerance, atol=tolerance, err_msg=key)


@pytest.mark.parametrize("part", range(10))
def test_the_objective_never_falls(part):
    for seed in range(1000 + 10 * part, 1010 + 10 * part):
        name = NAMES[seed % len(NAMES)]
        case = random_case(name, seed)
        found, history = fitted(started(case.program, case.start, **case.sizes), case.x, 4)
        assert all(math.isfinite(value) for value in history), (name, seed)
        assert history[0] == pytest.approx(case.reference(case.start, case.x)[0], rel=1e-9, abs=1e-9), (name, seed)
        assert all(b >= a - 1e-9 * (1 + abs(a)) for a, b in itertools.pairwise(history)), (name, seed, history)
        assert all(np.isfinite(value).all() for value in found.values()), (name, seed)


#: Dawid & Skene (1979), table 1: 45 patients; three ratings by the first anaesthetist, then one by each of four others.
RATINGS = """
1111111 3334334 1122122 2223121 2223222 2223322 1222111 3333433 2222223 2322223 4444444 2223343 1111111 2223212 1211111
1112111 1111111 1111111 2222221 2221322 2222222 2222221 2223222 2212222 1111111 1111111 2322222 1111111 1111111 1121121
1111111 3333233 1111111 2222222 2223232 4334343 2212232 2323233 3333432 1111111 1111111 1212111 2322222 1211111 2222222
"""


def test_dawid_and_skene_s_anaesthetists():
    x = torch.tensor([[int(c) - 1.0 for c in row] for row in RATINGS.split()], dtype=torch.float64)
    observer = torch.tensor([0, 0, 0, 1, 2, 3, 4])
    # Dawid & Skene start from the share of each patient's ratings; one M step from there gives parameters.
    share = torch.stack([(x == v).double().mean(1) for v in range(4)], 1)
    error = torch.zeros(5, 4, 4, dtype=torch.float64)
    for column, j in enumerate(observer.tolist()):
        for label in range(4):
            error[j, :, label] += share[x[:, column] == label].sum(0)
    start = {"weights": share.mean(0), "error": error / error.sum(-1, keepdim=True)}

    def model(x):
        weights = pyro.param("weights", start["weights"], constraint=constraints.simplex)
        error = pyro.param("error", start["error"], constraint=constraints.simplex)
        with pyro.plate("patients", len(x), dim=-2):
            z = pyro.sample("z", dist.Categorical(weights))
            with pyro.plate("ratings", x.shape[1], dim=-1):
                pyro.sample("x", dist.Categorical(error[observer, z]), obs=x.long())

    found, _ = fitted(model, x, 200)
    assert found["weights"] == pytest.approx([0.40, 0.42, 0.11, 0.07], abs=0.005)  # table 2
    expected = [[0.89, 0.11, 0, 0], [0.07, 0.88, 0.05, 0], [0, 0.34, 0.66, 0], [0, 0, 0.56, 0.44]]  # table 3
    np.testing.assert_allclose(found["error"][0], expected, atol=0.0051)


# One family at a time, in a mixture of two.

GENERATOR = np.random.default_rng(7)
N = 40
HALF = np.arange(N) < N // 2
WEIGHTS = np.array([0.4, 0.6])


def either(first, second):
    return np.where(HALF.reshape(-1, *[1] * (np.ndim(first) - 1)), first, second)


def mixture(emit, values, bounds):
    def model(x):
        weights = pyro.param("weights", torch.as_tensor(WEIGHTS), constraint=constraints.simplex)
        p = {
            name: pyro.param(name, torch.as_tensor(value), constraint=bounds.get(name, constraints.real))
            for name, value in values.items()
        }
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", emit(p, z), obs=x)

    return model


def per_component(density, values, x):
    """ln p(x_n | component) (N, 2): ``density(x, k)`` gives a column."""
    return np.stack([density({n: np.asarray(v)[k] for n, v in values.items()}, x) for k in range(2)], 1)


def counted(name):
    return lambda r, x: {name: (r.T @ x) / (r.T @ x).sum(-1, keepdims=True)}


def ratio(name, top, bottom, through=lambda v: v):
    def update(r, x):
        t = np.broadcast_to(top(x), x.shape)
        b = np.broadcast_to(bottom(x), x.shape)
        return {name: through((r.T @ t) / (r.T @ b))}

    return update


def moments_of(r, x):
    count = r.sum(0)
    loc = (r.T @ x) / count.reshape(-1, *[1] * (x.ndim - 1))
    away = x[:, None] - loc
    return count, loc, away


def gaussian(transform=lambda x: x):
    def update(r, x):
        x = transform(x)
        count, loc, away = moments_of(r, x)
        return {"loc": loc, "scale": np.sqrt((r * away**2).sum(0) / count)}

    return update


def matrices(name):
    def update(r, x):
        count, loc, away = moments_of(r, x)
        cov = np.einsum("nk,nki,nkj->kij", r, away, away) / count[:, None, None]
        return {"loc": loc, name: cov if name == "covariance" else np.linalg.cholesky(cov)}

    return update


def climbed(density, start):
    """Each component's parameters by scipy on its weighted log-likelihood, in logarithms."""

    def update(r, x):
        new = {name: np.array(value, dtype=float) for name, value in start.items()}
        for k in range(2):
            flat = np.concatenate([np.log(np.ravel(v[k])) for v in new.values()])

            def loss(u, k=k):
                return -(r[:, k] * density(unflat(u, k), x)).sum()

            def unflat(u, k):
                found, at = {}, 0
                for name, value in new.items():
                    size = np.size(value[k])
                    found[name] = np.exp(u[at : at + size]).reshape(np.shape(value[k]))
                    at += size
                return found

            for _ in range(3):
                flat = optimize.minimize(
                    loss, flat, method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-13, "maxiter": 10_000}
                ).x
            for name, value in unflat(flat, k).items():
                new[name][k] = value
        return new

    return update


def softmax(v):
    e = np.exp(v - v.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def sigmoid(v):
    return 1 / (1 + np.exp(-v))


PROBS = np.array([[0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]])
SYMBOLS = either(GENERATOR.choice(4, N, p=[0.6, 0.2, 0.1, 0.1]), GENERATOR.choice(4, N, p=[0.1, 0.1, 0.2, 0.6]))
ONE_HOT = np.eye(4)[SYMBOLS]
BITS = (GENERATOR.random((N, 3)) < either(np.full((N, 3), 0.2), np.full((N, 3), 0.7))) * 1.0
COUNTS = either(GENERATOR.poisson(2, N), GENERATOR.poisson(7, N)) * 1.0
TRIALS = either(GENERATOR.binomial(10, 0.3, N), GENERATOR.binomial(10, 0.7, N)) * 1.0
WORDS = np.stack([GENERATOR.multinomial(6, [0.6, 0.2, 0.2] if h else [0.1, 0.3, 0.6]) for h in HALF]) * 1.0
WAITS = either(GENERATOR.exponential(1, N), GENERATOR.exponential(5, N))
GAMMAS = either(GENERATOR.gamma(2, 1, N), GENERATOR.gamma(6, 1, N))
SHARES = either(GENERATOR.beta(2, 5, N), GENERATOR.beta(5, 2, N))
NUMBERS = either(GENERATOR.normal(-1, 1, N), GENERATOR.normal(2, 0.5, N))
VECTORS = either(GENERATOR.normal(-1, 1, (N, 2)), GENERATOR.normal(1.5, 0.7, (N, 2)) @ np.array([[1, 0.5], [0, 1]]))
OVER = either(GENERATOR.negative_binomial(3, 0.5, N), GENERATOR.negative_binomial(6, 0.3, N)) * 1.0
PROPORTIONS = either(GENERATOR.dirichlet([4, 1, 1], N), GENERATOR.dirichlet([1, 2, 4], N))
POLYA = np.stack([GENERATOR.multinomial(8, p) for p in PROPORTIONS]) * 1.0
SIMPLEX, POSITIVE, UNIT = constraints.simplex, constraints.positive, constraints.unit_interval
LOC2 = np.array([[-1.0, -0.5], [1.0, 1.5]])
COV2 = np.array([[[1.0, 0.2], [0.2, 1.5]], [[1.2, -0.3], [-0.3, 0.8]]])
TRIL2 = np.linalg.cholesky(COV2)


def gamma_density(p, x):
    return stats.gamma.logpdf(x, p["concentration"], scale=1 / p["rate"])


def beta_density(p, x):
    return stats.beta.logpdf(x, p["a"], p["b"])


def polya_density(p, x):
    return stats.dirichlet_multinomial.logpmf(x, p["concentration"], 8)


def negative_binomial_density(p, x):
    return stats.nbinom.logpmf(x, p["total"], 1 - sigmoid(np.log(p["odds"])))


GAMMA = {"concentration": np.array([2.0, 5.0]), "rate": np.array([1.2, 0.9])}
BETA = {"a": np.array([2.0, 4.0]), "b": np.array([4.0, 2.0])}
CONCENTRATION = {"concentration": np.array([[3.0, 1.5, 1.0], [1.0, 1.5, 3.0]])}

# name: (distribution, start, constraints, data, ln density of a component, update, tolerance)
FAMILIES = {
    "Categorical.probs": (
        lambda p, z: dist.Categorical(p["probs"][z]),
        {"probs": PROBS}, {"probs": SIMPLEX}, SYMBOLS * 1.0,
        lambda p, x: np.log(p["probs"])[x.astype(int)], lambda r, x: counted("probs")(r, ONE_HOT), 1e-8,
    ),
    "Categorical.logits": (
        lambda p, z: dist.Categorical(logits=p["logits"][z]),
        {"logits": np.log(PROBS) + 0.3}, {}, SYMBOLS * 1.0,
        lambda p, x: np.log(softmax(p["logits"]))[x.astype(int)],
        lambda r, x: {"logits": np.log(counted("p")(r, ONE_HOT)["p"])}, 1e-8,
    ),
    "OneHotCategorical": (
        lambda p, z: dist.OneHotCategorical(p["probs"][z]),
        {"probs": PROBS}, {"probs": SIMPLEX}, ONE_HOT, lambda p, x: x @ np.log(p["probs"]), counted("probs"), 1e-8,
    ),
    "Bernoulli.probs": (
        lambda p, z: dist.Bernoulli(p["probs"][z]).to_event(1),
        {"probs": np.array([[0.3, 0.4, 0.2], [0.6, 0.7, 0.8]])}, {"probs": UNIT}, BITS,
        lambda p, x: x @ np.log(p["probs"]) + (1 - x) @ np.log(1 - p["probs"]),
        lambda r, x: {"probs": r.T @ x / r.sum(0)[:, None]}, 1e-8,
    ),
    "Bernoulli.logits": (
        lambda p, z: dist.Bernoulli(logits=p["logits"][z]).to_event(1),
        {"logits": np.array([[-1.0, -0.5, -1.2], [0.5, 0.8, 1.2]])}, {}, BITS,
        lambda p, x: x @ np.log(sigmoid(p["logits"])) + (1 - x) @ np.log(sigmoid(-p["logits"])),
        lambda r, x: {"logits": np.log(r.T @ x) - np.log(r.T @ (1 - x))}, 1e-8,
    ),
    "Binomial": (
        lambda p, z: dist.Binomial(10, p["probs"][z]),
        {"probs": np.array([0.4, 0.6])}, {"probs": UNIT}, TRIALS,
        lambda p, x: stats.binom.logpmf(x, 10, p["probs"]), ratio("probs", lambda x: x, lambda x: 10.0), 1e-8,
    ),
    "Multinomial": (
        lambda p, z: dist.Multinomial(6, p["probs"][z]),
        {"probs": np.array([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5]])}, {"probs": SIMPLEX}, WORDS,
        lambda p, x: stats.multinomial.logpmf(x, 6, p["probs"]), counted("probs"), 1e-8,
    ),
    "Poisson": (
        lambda p, z: dist.Poisson(p["rate"][z]),
        {"rate": np.array([3.0, 6.0])}, {"rate": POSITIVE}, COUNTS,
        lambda p, x: stats.poisson.logpmf(x, p["rate"]), ratio("rate", lambda x: x, lambda x: 1.0), 1e-8,
    ),
    "Exponential": (
        lambda p, z: dist.Exponential(p["rate"][z]),
        {"rate": np.array([1.5, 0.3])}, {"rate": POSITIVE}, WAITS,
        lambda p, x: stats.expon.logpdf(x, scale=1 / p["rate"]), ratio("rate", lambda x: 1.0, lambda x: x), 1e-8,
    ),
    "Geometric": (
        lambda p, z: dist.Geometric(p["probs"][z]),
        {"probs": np.array([0.5, 0.2])}, {"probs": UNIT}, COUNTS,
        lambda p, x: stats.geom.logpmf(x + 1, p["probs"]), ratio("probs", lambda x: 1.0, lambda x: x + 1), 1e-8,
    ),
    "Gamma.rate": (
        lambda p, z: dist.Gamma(3.0, p["rate"][z]),
        {"rate": np.array([1.5, 0.5])}, {"rate": POSITIVE}, GAMMAS,
        lambda p, x: stats.gamma.logpdf(x, 3.0, scale=1 / p["rate"]),
        ratio("rate", lambda x: 3.0, lambda x: x), 1e-8,
    ),
    "Gamma": (
        lambda p, z: dist.Gamma(p["concentration"][z], p["rate"][z]),
        GAMMA, dict.fromkeys(GAMMA, POSITIVE), GAMMAS, gamma_density, climbed(gamma_density, GAMMA), 1e-5,
    ),
    "Beta": (
        lambda p, z: dist.Beta(p["a"][z], p["b"][z]),
        BETA, dict.fromkeys(BETA, POSITIVE), SHARES, beta_density, climbed(beta_density, BETA), 1e-5,
    ),
    "NegativeBinomial.probs": (
        lambda p, z: dist.NegativeBinomial(4.0, p["probs"][z]),
        {"probs": np.array([0.4, 0.7])}, {"probs": UNIT}, OVER,
        lambda p, x: stats.nbinom.logpmf(x, 4.0, 1 - p["probs"]),
        ratio("probs", lambda x: x, lambda x: x + 4), 1e-8,
    ),
    "NegativeBinomial": (
        lambda p, z: dist.NegativeBinomial(p["total"][z], logits=p["odds"][z].log()),
        {"total": np.array([3.0, 5.0]), "odds": np.array([1.0, 2.0])}, {"total": POSITIVE, "odds": POSITIVE}, OVER,
        negative_binomial_density,
        climbed(negative_binomial_density, {"total": np.array([3.0, 5.0]), "odds": np.array([1.0, 2.0])}), 1e-5,
    ),
    "Normal": (
        lambda p, z: dist.Normal(p["loc"][z], p["scale"][z]),
        {"loc": np.array([-0.5, 1.0]), "scale": np.array([1.0, 0.8])}, {"scale": POSITIVE}, NUMBERS,
        lambda p, x: normal(x, p["loc"], p["scale"]), gaussian(), 1e-8,
    ),
    "LogNormal": (
        lambda p, z: dist.LogNormal(p["loc"][z], p["scale"][z]),
        {"loc": np.array([-0.5, 1.0]), "scale": np.array([1.0, 0.8])}, {"scale": POSITIVE}, np.exp(NUMBERS),
        lambda p, x: normal(np.log(x), p["loc"], p["scale"]) - np.log(x), gaussian(np.log), 1e-8,
    ),
    "MultivariateNormal.covariance_matrix": (
        lambda p, z: dist.MultivariateNormal(p["loc"][z], covariance_matrix=p["covariance"][z]),
        {"loc": LOC2, "covariance": COV2}, {"covariance": constraints.positive_definite}, VECTORS,
        lambda p, x: stats.multivariate_normal.logpdf(x, p["loc"], p["covariance"]), matrices("covariance"), 1e-8,
    ),
    "MultivariateNormal.scale_tril": (
        lambda p, z: dist.MultivariateNormal(p["loc"][z], scale_tril=p["factor"][z]),
        {"loc": LOC2, "factor": TRIL2}, {"factor": constraints.lower_cholesky}, VECTORS,
        lambda p, x: stats.multivariate_normal.logpdf(x, p["loc"], p["factor"] @ p["factor"].T),
        matrices("factor"), 1e-8,
    ),
    "DirichletMultinomial": (
        lambda p, z: dist.DirichletMultinomial(p["concentration"][z], 8),
        CONCENTRATION, {"concentration": POSITIVE}, POLYA, polya_density, climbed(polya_density, CONCENTRATION), 1e-5,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_one_iteration_of_a_mixture_is_weighted_maximum_likelihood(name):
    emit, start, bounds, x, density, update, tolerance = FAMILIES[name]
    evidence, r = posterior(np.log(WEIGHTS) + per_component(density, start, x))
    found, history = fitted(mixture(emit, start, bounds), x, 1)
    assert history[0] == pytest.approx(evidence, abs=1e-9)
    assert history[1] > history[0]
    np.testing.assert_allclose(found["weights"], r.mean(0), atol=1e-8)
    for key, value in update(r, x).items():
        np.testing.assert_allclose(found[key], value, rtol=tolerance, atol=tolerance, err_msg=key)


# What a program may put around its distributions.


def poisson_mixture(sample):
    def model(x):
        weights = pyro.param("weights", torch.as_tensor(WEIGHTS), constraint=SIMPLEX)
        rate = pyro.param("rate", torch.tensor([3.0, 6.0]), constraint=POSITIVE)
        sample(x, weights, rate)

    return model


def responsibilities(*columns):
    """Of Poissons of rates 3 and 6, from columns of (counts, whether they are seen)."""
    joint = np.log(WEIGHTS) + sum(
        seen[:, None] * stats.poisson.logpmf(x[:, None], np.array([3.0, 6.0])) for x, seen in columns
    )
    return posterior(joint)


SEEN = GENERATOR.random((N, 2)) < 0.7
PAIRS = np.stack([COUNTS, COUNTS[::-1]], 1)


@pytest.mark.parametrize("how", ["dist.mask", "poutine.mask"])
def test_masked_entries_do_not_count(how):
    seen = torch.as_tensor(SEEN)

    def sample(x, weights, rate):
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Categorical(weights))
            with pyro.plate("columns", 2, dim=-1):
                if how == "dist.mask":
                    pyro.sample("x", dist.Poisson(rate[z]).mask(seen), obs=x)
                else:
                    with poutine.mask(mask=seen):
                        pyro.sample("x", dist.Poisson(rate[z]), obs=x)

    evidence, r = responsibilities(*((PAIRS[:, i], SEEN[:, i]) for i in range(2)))
    found, history = fitted(poisson_mixture(sample), PAIRS, 1)
    assert history[0] == pytest.approx(evidence, abs=1e-9)
    np.testing.assert_allclose(found["weights"], r.mean(0), atol=1e-8)
    top, bottom = r.T @ (PAIRS * SEEN).sum(1), r.T @ SEEN.sum(1)
    np.testing.assert_allclose(found["rate"], top / bottom, atol=1e-8)


def test_scaled_data_count_so_many_times():
    known = torch.as_tensor(HALF[:15].astype(int))

    def sample(x, weights, rate):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Poisson(rate[z]), obs=x)
        with poutine.scale(scale=3.0), pyro.plate("labelled", 15):
            pyro.sample("z_known", dist.Categorical(weights), obs=known)
            pyro.sample("x_known", dist.Poisson(rate[known]), obs=x[:15])

    _, r = responsibilities((COUNTS, np.ones(N)))
    r = np.concatenate([r, 3 * np.eye(2)[known.numpy()]])
    x = np.concatenate([COUNTS, COUNTS[:15]])
    found, _ = fitted(poisson_mixture(sample), COUNTS, 1)
    np.testing.assert_allclose(found["weights"], r.sum(0) / r.sum(), atol=1e-8)
    np.testing.assert_allclose(found["rate"], r.T @ x / r.sum(0), atol=1e-8)


def test_a_common_scale_scales_the_likelihood_and_moves_no_maximum():
    def sample(x, weights, rate):
        with poutine.scale(scale=0.5), pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Poisson(rate[z]), obs=x)

    evidence, r = responsibilities((COUNTS, np.ones(N)))
    found, history = fitted(poisson_mixture(sample), COUNTS, 1)
    assert history[0] == pytest.approx(0.5 * evidence, abs=1e-9)
    np.testing.assert_allclose(found["weights"], r.mean(0), atol=1e-8)
    np.testing.assert_allclose(found["rate"], r.T @ COUNTS / r.sum(0), atol=1e-8)


def test_a_parameter_shared_by_two_sites_of_two_families_takes_the_sums_of_both():
    waits = torch.as_tensor(WAITS)

    def sample(x, weights, rate):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Poisson(rate[z]), obs=x)
            pyro.sample("wait", dist.Exponential(rate[z]), obs=waits)

    rate = np.array([3.0, 6.0])
    joint = np.log(WEIGHTS) + stats.poisson.logpmf(COUNTS[:, None], rate)
    evidence, r = posterior(joint + stats.expon.logpdf(WAITS[:, None], scale=1 / rate))
    found, history = fitted(poisson_mixture(sample), COUNTS, 1)
    assert history[0] == pytest.approx(evidence, abs=1e-9)
    np.testing.assert_allclose(found["rate"], r.T @ (COUNTS + 1) / (r.T @ (1 + WAITS)), atol=1e-8)


def test_rates_times_exposures_take_newton_steps_to_the_same_maximum():
    exposure = GENERATOR.uniform(0.5, 2, N)

    def sample(x, weights, rate):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Poisson(rate[z] * torch.as_tensor(exposure)), obs=x)

    joint = np.log(WEIGHTS) + stats.poisson.logpmf(COUNTS[:, None], np.array([3.0, 6.0]) * exposure[:, None])
    evidence, r = posterior(joint)
    found, history = fitted(poisson_mixture(sample), COUNTS, 1)
    assert history[0] == pytest.approx(evidence, abs=1e-9)
    np.testing.assert_allclose(found["rate"], r.T @ COUNTS / (r.T @ exposure), rtol=1e-6)


@pytest.mark.parametrize("tied", ["scale", "loc"])
def test_a_location_or_a_scale_shared_by_the_components(tied):
    start = {"loc": np.array([-0.5, 1.0]), "scale": np.array([1.0, 0.8])}
    start[tied] = start[tied][0]

    def emit(p, z):
        return dist.Normal(*(p[name] if name == tied else p[name][z] for name in ("loc", "scale")))

    both = {name: np.broadcast_to(value, 2) for name, value in start.items()}
    evidence, r = posterior(np.log(WEIGHTS) + normal(NUMBERS[:, None], both["loc"], both["scale"]))
    found, history = fitted(mixture(emit, start, {"scale": POSITIVE}), NUMBERS, 1)
    assert history[0] == pytest.approx(evidence, abs=1e-9)
    x = NUMBERS[:, None]
    if tied == "scale":
        loc = (r * x).sum(0) / r.sum(0)
        scale = np.sqrt((r * (x - loc) ** 2).sum() / N)
    else:  # conditional maximisation: the location at the old scales, then the scales about the new location
        weight = r / both["scale"] ** 2
        loc = (weight * x).sum() / weight.sum()
        scale = np.sqrt((r * (x - loc) ** 2).sum(0) / r.sum(0))
    np.testing.assert_allclose(found["loc"], loc, atol=1e-8)
    np.testing.assert_allclose(found["scale"], scale, atol=1e-8)


# What cannot be served is told in one line.


def continuous(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("height", dist.Normal(pyro.param("m", torch.zeros(())), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def unbounded(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("litters", dist.Poisson(pyro.param("r", torch.ones(()), constraint=POSITIVE)))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def two_plates_in_one_dimension(x):
    rate = pyro.param("rate", torch.tensor([1.0, 5.0]), constraint=POSITIVE)
    with pyro.plate("fields", len(x)):
        z = pyro.sample("kind", dist.Categorical(torch.ones(2)))
    with pyro.plate("years", len(x)):
        pyro.sample("yield", dist.Poisson(rate[z]), obs=x)


def branching(x):
    rate = pyro.param("rate", torch.tensor([1.0, 5.0]), constraint=POSITIVE)
    z = pyro.sample("switch", dist.Bernoulli(0.5))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Poisson(rate[1] if z == 1 else rate[0]), obs=x)


def too_many_causes(x):
    rate = pyro.param("rate", torch.ones(()), constraint=POSITIVE)
    with pyro.plate("data", len(x)):
        total = rate
        for i in range(30):
            total = total + rate * pyro.sample(f"cause_{i}", dist.Bernoulli(0.1))
        pyro.sample("effect", dist.Poisson(total), obs=x)


def idle_parameter(x):
    rate = pyro.param("rate", torch.tensor([1.0, 5.0]), constraint=POSITIVE)
    pyro.param("idle", torch.ones(()))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.ones(2)))
        pyro.sample("x", dist.Poisson(rate[z]), obs=x)


def moving_edge(x):
    edge = pyro.param("edge", torch.tensor([20.0, 30.0]), constraint=POSITIVE)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.ones(2)))
        pyro.sample("width", dist.Uniform(torch.zeros(()), edge[z]), obs=x)


def subsampled(x):
    rate = pyro.param("rate", torch.tensor([1.0, 5.0]), constraint=POSITIVE)
    with pyro.plate("rows", len(x), subsample_size=5) as index:
        z = pyro.sample("z", dist.Categorical(torch.ones(2)))
        pyro.sample("x", dist.Poisson(rate[z]), obs=x[index])


def two_scales(x):
    rate = pyro.param("rate", torch.tensor([1.0, 5.0]), constraint=POSITIVE)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.ones(2)))
        with poutine.scale(scale=0.5):
            pyro.sample("x", dist.Poisson(rate[z]), obs=x)


BAD = [
    (continuous, "'height'.*continuous"),
    (unbounded, "'litters'.*without finite support"),
    (two_plates_in_one_dimension, "'yield'.*'years'.*'kind'.*'fields'"),
    (branching, "'switch'.*control flow"),
    (too_many_causes, "'effect'.*at most"),
    (idle_parameter, "'idle'.*used by none"),
    (moving_edge, "'edge'.*'width'.*Uniform"),
    (subsampled, "'rows'.*random part of the data"),
    (two_scales, "scale"),
]


@pytest.mark.parametrize(("model", "match"), BAD, ids=lambda v: getattr(v, "__name__", ""))
def test_what_cannot_be_served_is_refused_in_one_line(model, match):
    with pytest.raises(zoo.ZooError, match=match) as caught:
        zoo.fit(model, torch.as_tensor(COUNTS), estimator="auto_em")
    assert "\n" not in str(caught.value)


def test_a_plate_inside_a_larger_one_is_no_part_of_the_data():
    def model(x):
        rate = pyro.param("rate", torch.tensor([3.0, 6.0]), constraint=POSITIVE)
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Categorical(torch.ones(2)))
            with pyro.plate("columns", 2, dim=-1):
                pyro.sample("x", dist.Poisson(rate[z]), obs=x)

    found, _ = fitted(model, PAIRS, 2)
    assert np.isfinite(found["rate"]).all()


def test_the_instances_cover_every_program():
    drawn = Counter(NAMES[seed % len(NAMES)] for seed in range(1000, 1100))
    assert len(NAMES) == 6
    assert min(drawn.values()) >= 15
