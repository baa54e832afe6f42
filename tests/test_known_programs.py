"""Programs that others have written about, in our own words, against published figures, EM by hand, or Pyro's ELBO."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from torch.distributions import constraints, transform_to

import zoo

# --- capture and recapture --------------------------------------------------------------------------------------------

#: European dippers, 1981-1987: of the birds released in a year, how many were next seen one, two, ... years later, and
#: how many were released. Lebreton, Burnham, Clobert & Anderson (1992), Ecological Monographs 62, table 10.
SEEN_AGAIN = [[11, 2, 0, 0, 0, 0], [24, 1, 0, 0, 0], [34, 2, 0, 0], [45, 1, 2], [51, 0], [52]]
RELEASED = [22, 60, 78, 80, 88, 98]


def dippers():
    """Capture histories (birds, years) with these counts: who is seen again is chained to a later release in turn."""
    years = len(RELEASED) + 1
    waiting: list[list[list[int]]] = [[] for _ in range(years)]  # by year, the histories that end in it
    done: list[list[int]] = []
    for year in range(years - 1):
        here = waiting[year] + [[year] for _ in range(RELEASED[year] - len(waiting[year]))]
        assert len(here) == RELEASED[year]
        for ahead, number in enumerate(SEEN_AGAIN[year], 1):
            for _ in range(number):
                history = here.pop()
                waiting[year + ahead].append([*history, year + ahead])
        done += here
    done += waiting[years - 1]
    histories = torch.zeros(len(done), years, dtype=torch.float64)
    for row, history in zip(histories, done, strict=True):
        row[history] = 1.0
    return histories


def cormack_jolly_seber(captures, in_place=False):
    """A bird once caught survives each year with probability phi, and if alive is caught with probability p."""
    birds, years = captures.shape
    phi = pyro.param("phi", torch.tensor(0.7), constraint=constraints.unit_interval)
    p = pyro.param("p", torch.tensor(0.5), constraint=constraints.unit_interval)
    with pyro.plate("birds", birds):
        alive, marked = torch.ones(birds), torch.zeros(birds, dtype=torch.bool)
        for t in pyro.markov(range(years)):
            with poutine.mask(mask=marked):
                survives = torch.where(marked, phi * alive, torch.ones(()))
                alive = pyro.sample(f"alive_{t}", dist.Bernoulli(survives))
                pyro.sample(f"caught_{t}", dist.Bernoulli(p * alive), obs=captures[:, t])
            if in_place:
                marked |= captures[:, t].bool()
            else:
                marked = marked | captures[:, t].bool()


def by_counts(phi, p):
    """The log-likelihood from the table of counts alone, nats."""
    total, years = 0.0, len(RELEASED) + 1
    for year, row in enumerate(SEEN_AGAIN):
        terms = [phi**ahead * (1 - p) ** (ahead - 1) * p for ahead in range(1, years - year)]
        total += sum(n * math.log(q) for n, q in zip(row, terms, strict=True) if n)
        total += (RELEASED[year] - sum(row)) * math.log(1 - sum(terms))
    return total


def test_capture_and_recapture_has_its_published_estimates():
    """Program MARK's model phi(.) p(.): deviance 666.8377, phi 0.5602, p 0.9026."""
    captures = dippers()
    start = zoo.evaluate(cormack_jolly_seber, captures).log_likelihood
    assert start == pytest.approx(by_counts(0.7, 0.5), abs=1e-8)
    fit = zoo.fit(cormack_jolly_seber, captures, estimator="auto_em")
    phi, p = (float(fit.model.get_parameter(f"param/{name}").detach().sigmoid()) for name in ("phi", "p"))
    assert fit.status in ("converged", "stalled")
    assert fit.log_likelihood == pytest.approx(-333.4188, abs=1e-4)
    assert fit.log_likelihood == pytest.approx(by_counts(phi, p), abs=1e-8)
    assert (phi, p) == (pytest.approx(0.5602, abs=1e-4), pytest.approx(0.9026, abs=1e-4))


def test_a_mask_changed_in_place_is_named_and_not_fitted():
    """Written so, every site has the mask of the last year: birds are then alive and missed before they were marked."""

    def in_place(captures):
        cormack_jolly_seber(captures, in_place=True)

    captures = dippers()
    for call in (zoo.explain, zoo.evaluate, zoo.fit):
        with pytest.raises(zoo.ZooError, match=r"the mask of site 'alive_0' .* changed in place .*mask = mask \| ..."):
            call(in_place, captures)


# --- the toy mixture of Pyro's tutorial on enumeration ----------------------------------------------------------------


def toy_mixture(x, y):
    """Two discrete causes of one datum, of which the second chooses the scale too."""
    probs = pyro.param("probs", torch.tensor([[0.6, 0.4], [0.2, 0.8]]), constraint=constraints.simplex)
    loc = pyro.param("loc", torch.tensor([[0.0, 1.0], [3.0, -2.0]]))
    scale = pyro.param("scale", torch.tensor([1.0, 0.5]), constraint=constraints.positive)
    first = pyro.param("first", torch.tensor([0.5, 0.5]), constraint=constraints.simplex)
    with pyro.plate("data", len(x)):
        a = pyro.sample("a", dist.Categorical(first))
        b = pyro.sample("b", dist.Categorical(probs[a]))
        pyro.sample("x", dist.Normal(loc[a, b], scale[b]), obs=x)
        pyro.sample("y", dist.Bernoulli(torch.tensor([0.2, 0.7])[a]), obs=y)


def toy_by_hand(x, y, steps):
    """EM for it in numpy: the log-likelihood before each step."""
    first, probs = np.array([0.5, 0.5]), np.array([[0.6, 0.4], [0.2, 0.8]])
    loc, scale, hit = np.array([[0.0, 1.0], [3.0, -2.0]]), np.array([1.0, 0.5]), np.array([0.2, 0.7])
    path = []
    for _ in range(steps):
        normal = np.exp(-0.5 * ((x[:, None, None] - loc) / scale) ** 2) / (scale * math.sqrt(2 * math.pi))
        bit = np.where(y[:, None] == 1, hit, 1 - hit)[:, :, None]
        joint = first[:, None] * probs * normal * bit  # (N, a, b)
        evidence = joint.sum((1, 2))
        path.append(np.log(evidence).sum())
        q = joint / evidence[:, None, None]
        first, probs = q.sum((0, 2)) / len(x), q.sum(0) / q.sum((0, 2))[:, None]
        loc = (q * x[:, None, None]).sum(0) / q.sum(0)
        scale = np.sqrt((q * (x[:, None, None] - loc) ** 2).sum((0, 1)) / q.sum((0, 1)))
    return path


def test_the_toy_mixture_takes_the_steps_of_em_by_hand():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(0, 1, 30), rng.normal(4, 0.5, 40), rng.normal(-2, 0.7, 30)])
    y = (rng.random(100) < 0.5).astype(float)
    data = (torch.as_tensor(x), torch.as_tensor(y))
    fit = zoo.fit(toy_mixture, data, estimator="auto_em", tol=0.0, max_iter=12)
    assert fit.history["objective"][:12] == pytest.approx(toy_by_hand(x, y, 12), abs=1e-8)


# --- models of annotators (Paun et al. 2018, "Comparing Bayesian models of annotation") -------------------------------

ITEMS, ANNOTATORS, CLASSES = 30, 4, 3


def annotations():
    """(items, annotators) labels: good annotators, one that is wrong half of the time."""
    rng = np.random.default_rng(1)
    truth = rng.integers(CLASSES, size=ITEMS)
    skill = np.array([0.9, 0.8, 0.85, 0.5])
    wrong = rng.integers(CLASSES, size=(ITEMS, ANNOTATORS))
    return torch.as_tensor(np.where(rng.random((ITEMS, ANNOTATORS)) < skill, truth[:, None], wrong))


LABELS = annotations().double()


def diagonal():
    return torch.full((CLASSES, CLASSES), 0.15) + 0.55 * torch.eye(CLASSES)


def prevalence():
    return pyro.param("prevalence", torch.tensor([0.3, 0.3, 0.4]), constraint=constraints.simplex)


def multinomial(labels):
    """All annotators alike."""
    confusion = pyro.param("confusion", diagonal(), constraint=constraints.simplex)
    pi = prevalence()
    with pyro.plate("items", ITEMS, dim=-2):
        c = pyro.sample("c", dist.Categorical(pi))
        with pyro.plate("annotators", ANNOTATORS, dim=-1):
            pyro.sample("y", dist.Categorical(confusion[c]), obs=labels)


def dawid_skene(labels):
    """Each annotator has a confusion matrix."""
    confusion = pyro.param("confusion", diagonal().repeat(ANNOTATORS, 1, 1), constraint=constraints.simplex)
    pi = prevalence()
    with pyro.plate("items", ITEMS, dim=-2):
        c = pyro.sample("c", dist.Categorical(pi))
        with pyro.plate("annotators", ANNOTATORS, dim=-1):
            pyro.sample("y", dist.Categorical(confusion[torch.arange(ANNOTATORS), c]), obs=labels)


def mace(labels):
    """An annotator gives the true label, or now and then one of its own habit (Hovy et al. 2013)."""
    habit = pyro.param("habit", torch.full((ANNOTATORS, CLASSES), 1 / CLASSES), constraint=constraints.simplex)
    spam = pyro.param("spam", torch.linspace(0.2, 0.5, ANNOTATORS), constraint=constraints.unit_interval)
    with pyro.plate("items", ITEMS, dim=-2):
        c = pyro.sample("c", dist.Categorical(torch.ones(CLASSES) / CLASSES))
        with pyro.plate("annotators", ANNOTATORS, dim=-1):
            s = pyro.sample("s", dist.Bernoulli(spam))
            table = torch.where(s[..., None] == 0, torch.eye(CLASSES)[c] + 1e-12, habit)
            pyro.sample("y", dist.Categorical(table), obs=labels)


def hierarchical(labels):
    """Confusion matrices by logits that scatter about those of all annotators."""
    mean = pyro.param("mean", 2 * torch.eye(CLASSES))
    apart = pyro.param("apart", 0.1 * torch.arange(ANNOTATORS * CLASSES**2).reshape(ANNOTATORS, CLASSES, CLASSES).cos())
    pi = prevalence()
    with pyro.plate("items", ITEMS, dim=-2):
        c = pyro.sample("c", dist.Categorical(pi))
        with pyro.plate("annotators", ANNOTATORS, dim=-1):
            pyro.sample("y", dist.Categorical(logits=(mean + apart)[torch.arange(ANNOTATORS), c]), obs=labels)


def item_difficulty(labels):
    """All annotators alike; an item that is harder has flatter logits."""
    strength = pyro.param("strength", 2 * torch.eye(CLASSES))
    ease = pyro.param("ease", torch.linspace(0.5, 1.5, ITEMS), constraint=constraints.positive)
    pi = prevalence()
    with pyro.plate("items", ITEMS, dim=-2):
        c = pyro.sample("c", dist.Categorical(pi))
        with pyro.plate("annotators", ANNOTATORS, dim=-1):
            pyro.sample("y", dist.Categorical(logits=ease[:, None, None] * strength[c]), obs=labels)


def by_pyro(program, *data):
    torch.set_default_dtype(torch.float64)
    try:
        with pyro.get_param_store().scope():
            return -TraceEnum_ELBO(max_plate_nesting=2).loss(config_enumerate(program), lambda *_: None, *data)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("program", [multinomial, dawid_skene, mace, hierarchical, item_difficulty])
def test_models_of_annotators_score_as_pyro_s_elbo_and_climb(program):
    given = zoo.fit(program, LABELS, estimator="auto_em", max_iter=6)
    with pyro.get_param_store().scope():
        start = by_pyro(program, LABELS)
    assert given.history["objective"][0] == pytest.approx(start, abs=1e-8)
    assert given.log_likelihood > start + 1
    assert sorted(given.history["objective"]) == given.history["objective"]
    values = {
        name.removeprefix("param/"): transform_to(given.model.constraint_of(name))(p.detach())
        for name, p in given.model.named_parameters()
    }
    assert given.log_likelihood == pytest.approx(by_pyro(poutine.substitute(program, data=values), LABELS), abs=1e-8)


def test_dawid_and_skene_take_their_own_steps():
    """EM as Dawid & Skene (1979) wrote it down."""
    labels = LABELS.long().numpy()
    hot = np.eye(CLASSES)[labels]  # (items, annotators, classes)
    pi, confusion = np.array([0.3, 0.3, 0.4]), np.tile(0.15 + 0.55 * np.eye(CLASSES), (ANNOTATORS, 1, 1))
    path = []
    for _ in range(8):
        joint = np.log(pi) + np.einsum("ijl,jkl->ik", hot, np.log(confusion))
        evidence = np.logaddexp.reduce(joint, 1)
        path.append(evidence.sum())
        q = np.exp(joint - evidence[:, None])
        pi = q.mean(0)
        confusion = np.einsum("ik,ijl->jkl", q, hot)
        confusion /= confusion.sum(-1, keepdims=True)
        confusion = np.maximum(confusion, 1e-300)
    fit = zoo.fit(dawid_skene, LABELS, estimator="auto_em", tol=0.0, max_iter=8)
    assert fit.history["objective"][:8] == pytest.approx(path, abs=1e-8)


# --- everything known: a casino (Durbin et al. 1998) ------------------------------------------------------------------

STEP = torch.tensor([[0.95, 0.05], [0.1, 0.9]])
FACES = torch.stack([torch.ones(6) / 6, torch.tensor([0.1] * 5 + [0.5])])
ROLLS = torch.tensor([0, 3, 5, 5, 5, 5, 2, 5, 5, 1, 0, 4])


def casino(rolls):
    die = torch.tensor(0)
    for t in pyro.markov(range(len(rolls))):
        die = pyro.sample(f"die_{t}", dist.Categorical(STEP[die] if t else torch.tensor([1.0, 0.0])))
        pyro.sample(f"roll_{t}", dist.Categorical(FACES[die]), obs=rolls[t])


def test_a_program_without_parameters_is_scored_and_decoded_and_nothing_is_fitted():
    alpha = np.array([1.0, 0.0]) * FACES.numpy()[:, ROLLS[0]]
    for roll in ROLLS[1:]:
        alpha = (alpha @ STEP.numpy()) * FACES.numpy()[:, roll]
    exact = math.log(alpha.sum())
    assert zoo.evaluate(casino, ROLLS).log_likelihood == pytest.approx(exact, abs=1e-5)
    posterior = zoo.discrete_posterior(casino, ROLLS)
    assert posterior.log_evidence == pytest.approx(exact, abs=1e-5)
    assert int(posterior.mode()["die_0"]) == 0
    assert "roll" in str(zoo.explain(casino, ROLLS))
    for estimator in ("auto_em", "eg"):
        with pytest.raises(zoo.ZooError, match=r"casino: nothing is to be fitted: it has no parameters\. .*evaluate"):
            zoo.fit(casino, ROLLS, estimator=estimator)


def test_inference_alone_fits_the_guide_of_a_program_without_parameters():
    """The posterior of one datum under known components; mean field holds it exactly."""
    loc, weights = torch.tensor([-1.0, 2.0], dtype=torch.float64), torch.tensor([0.3, 0.7], dtype=torch.float64)
    x = torch.tensor([0.2, 0.9, -1.5], dtype=torch.float64)

    def program(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)

    def guide(x):
        logits = pyro.param("logits", torch.zeros(len(x), 2))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Categorical(logits=logits))

    exact = weights.log() - 0.5 * (x[:, None] - loc) ** 2
    fit = zoo.fit(program, x, estimator="svi", guide=guide, max_epochs=400, learning_rate=0.2, warmup=0)
    assert fit.num_parameters == 0
    assert fit.model.get_parameter("param/logits").softmax(-1).detach() == pytest.approx(exact.softmax(-1), abs=0.02)
    assert fit.elbo == pytest.approx(fit.log_likelihood, abs=1e-2)


# --- densities without a normaliser -----------------------------------------------------------------------------------


def with_a_factor(x):
    loc = pyro.param("loc", torch.tensor([-0.5, 1.5]))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.ones(2) / 2))
        pyro.factor("energy", -((x - loc[z]) ** 2) / 2)


def declared(x):
    """The same, whose factor is a log-density of the data (all but 2 pi)."""
    with_a_factor(x)


declared.normalized = True


def test_a_factor_makes_no_likelihood_unless_the_program_says_so():
    x = torch.tensor([-1.3, -0.7, 0.1, 0.9, 2.2, 3.1], dtype=torch.float64)
    exact = by_pyro(with_a_factor, x)
    for estimator, options in (("auto_em", {"max_iter": 3}), ("eg", {"max_epochs": 3})):
        fit = zoo.fit(with_a_factor, x, estimator=estimator, **options)
        assert (fit.log_likelihood, fit.elbo, fit.bic, fit.score(x)) == (None, None, None, None)
        assert fit.history["log_likelihood"] == [None] * fit.iterations
        assert fit.history["objective"][0] == pytest.approx(exact, abs=1e-9)
        assert any("'energy' is a pyro.factor" in note and "normalized = True" in note for note in fit.notes)
    evaluation = zoo.evaluate(with_a_factor, x)
    assert evaluation.log_likelihood is None
    assert evaluation.log_density == pytest.approx(exact, abs=1e-9)
    assert "(exact)" not in str(evaluation)
    assert "no likelihood" in str(evaluation)
    assert "no normalised density" in str(zoo.explain(with_a_factor, x))
    told = zoo.fit(declared, x, estimator="auto_em", max_iter=3)
    assert told.log_likelihood > exact
    assert not any("factor" in note for note in told.notes)
    assert zoo.evaluate(declared, x).log_likelihood == pytest.approx(exact, abs=1e-9)


# --- fixed parameters of the zoo's own models -------------------------------------------------------------------------


def test_a_model_s_fixed_parameter_stays_or_the_estimator_says_it_cannot(tmp_path):
    x = torch.tensor([-1.3, -0.7, 0.1, 0.9, 2.2, 3.1], dtype=torch.float64)[:, None]
    model = zoo.GaussianMixture(2, 1)
    model.means = torch.tensor([[0.0], [2.0]])
    model.get_parameter("means_unconstrained").requires_grad_(False)
    few = {"online_em": {"max_epochs": 2}, "eg": {"max_epochs": 5}, "svi": {"max_epochs": 3, "warmup": 2}}
    for estimator in ("em", "hard_em", "auto_em", *few):
        options = few.get(estimator, {})
        fit = zoo.fit(model, x, estimator=estimator, **options)
        assert torch.equal(fit.model.means.detach(), model.means.detach())
        assert not torch.equal(fit.model.weights.detach(), model.weights.detach())
        assert fit.num_parameters == 3
    with pytest.raises(zoo.ZooError, match=r"'means' is to stay \(requires_grad=False\).*Use auto_em"):
        zoo.fit(model, x, estimator="advi")
    fit.save(tmp_path / "run")
    assert not zoo.load(tmp_path / "run").model.get_parameter("means_unconstrained").requires_grad
