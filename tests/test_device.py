"""Every model and estimator on a device that is not the processor: the same values, nothing forgotten here or there.

Where there is no GPU a second device is made up (``second_device.py``), which refuses what a GPU would.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from resuming import check_resumed
from second_device import DEVICE, Elsewhere, drawn_here, second_device
from test_contract import instance, options_of
from torch import Tensor
from torch.utils._pytree import tree_leaves

import zoo
from zoo.core import program
from zoo.core.problem import Problem
from zoo.estimators import estimator_classes
from zoo.models import model_classes
from zoo.runs.prepare import serving
from zoo.scores.importance import importance_nll

#: A pair of each model and of each estimator, cheap ones; `make test-slow` has the others.
QUICK = {
    ("bernoulli_hmm", "em"), ("bernoulli_mixture", "auto_em"), ("boltzmann_machine", "eg"), ("categorical_hmm", "eg"),
    ("categorical_vae", "gumbel"), ("conditional_vae", "svi"), ("ctc", "eg"), ("deep_markov_model", "iwae"),
    ("denoising_autoencoder", "svi"), ("discrete_sequence_vae", "eg"), ("factor_analysis", "em"),
    ("gaussian_hmm", "eg"), ("gaussian_mixture", "eg"), ("gaussian_mixture_hmm", "em"),
    ("gaussian_mixture_vae", "st_gumbel"), ("hmm_vae", "iwae"), ("hopfield_network", "closed_form"),
    ("hopfield_tsp", "mean_field"), ("linear_vae", "svi"), ("modern_hopfield_network", "closed_form"),
    ("neural_pcfg", "eg"), ("poisson_hmm", "hard_em"), ("poisson_mixture", "online_em"), ("ppca", "em"),
    ("restricted_boltzmann_machine", "cd"), ("restricted_boltzmann_machine", "pcd"),
    ("restricted_boltzmann_machine", "tempering"), ("stacked_denoising_autoencoder", "eg"),
    ("stochastic_binary_network", "reinforce"), ("vae", "rws"), ("von_mises_mixture", "svi"), ("vrnn", "fivo"),
}  # fmt: skip
#: NumPyro computes where JAX does.
ELSEWHERE = {"nuts"}

#: A covariance comes to its floor in the third iteration, of `eg` and of warm-ups that climb as it does, where rounding
#: decides how long a step the search takes.
UNLIKE: dict[tuple[str, str], dict[str, Any]] = {
    ("gaussian_mixture_hmm", "eg"): {"max_epochs": 2},
    ("gaussian_mixture_hmm", "iwae"): {"warmup": 0},
    ("gaussian_mixture_hmm", "rws"): {"warmup": 0},
}

needs_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="a GPU that torch can use is needed")
every_pair = pytest.mark.parametrize(
    ("name", "estimator"),
    [
        pytest.param(name, estimator, marks=[pytest.mark.slow] * ((name, estimator) not in QUICK))
        for name in sorted(model_classes())
        for estimator in sorted(set(estimator_classes()) - ELSEWHERE)
    ],
)
every_model = pytest.mark.parametrize("name", sorted(model_classes()))


def fitted(name: str, estimator: str, device: str | None, **options: Any) -> zoo.Fit:
    model, x = instance(name)
    return zoo.fit(model, x, estimator=estimator, device=device, **{"restarts": 1, **options_of(estimator), **options})


def assert_same(here: zoo.Fit, there: zoo.Fit, kind: str, tolerance: float) -> None:
    """The same parameters, on another device, and the same course."""
    state = there.model.state_dict()
    assert {value.device.type for value in state.values()} <= {kind}
    for name, value in here.model.state_dict().items():
        assert torch.allclose(state[name].cpu(), value, rtol=tolerance, atol=tolerance), name
    assert (there.status, there.notes) == (here.status, here.notes) or here.draws is not None
    for one, other in zip(numbers(here.history), numbers(there.history), strict=True):
        torch.testing.assert_close(other, one, rtol=tolerance, atol=tolerance, equal_nan=True)


def numbers(values: Any) -> list[Tensor]:
    """Every number in nested values, on the processor; not what was timed."""
    if isinstance(values, dict):
        values = {key: value for key, value in values.items() if "seconds" not in key}
    kept = [value for value in tree_leaves(values) if isinstance(value, (Tensor, float, int))]
    return [torch.as_tensor(value.cpu() if isinstance(value, Tensor) else value).double() for value in kept]


@every_pair
def test_a_fit_there_is_the_fit_here(name: str, estimator: str) -> None:
    model, x = instance(name)
    if estimator not in serving(Problem(model, x)):
        pytest.skip(f"{estimator} does not serve {name}")
    here = fitted(name, estimator, None)
    with second_device():
        assert_same(here, fitted(name, estimator, DEVICE), DEVICE, 1e-8)


@every_model
@needs_a_gpu
def test_a_fit_on_a_gpu_is_the_fit_here(name: str) -> None:
    model, x = instance(name)
    for estimator in serving(Problem(model, x)):
        if estimator not in ELSEWHERE:
            options = UNLIKE.get((name, estimator), {})
            here = fitted(name, estimator, None, **options)
            with drawn_here():
                assert_same(here, fitted(name, estimator, "cuda", **options), "cuda", 1e-6)


#: What a fit answers, by the method's name.
ANSWERS: dict[str, Callable[[zoo.Fit, Any], Any]] = {
    "posterior": lambda fit, x: fit.posterior(x),
    "predict": lambda fit, x: fit.predict(x),
    "predict_proba": lambda fit, x: fit.predict_proba(x),
    "transform": lambda fit, x: fit.transform(x, 10),
    "viterbi": lambda fit, x: fit.viterbi(x),
    "filter": lambda fit, x: fit.filter(x),
    "forecast": lambda fit, x: fit.forecast(x, 2, 5, seed=1),
    "score_samples": lambda fit, x: fit.score_samples(x),
    "sample": lambda fit, x: fit.sample(None if fit.model.fields.given else 3, seed=1, given=_given(fit, x)),
    "evaluate": lambda fit, x: zoo.evaluate(fit.model, x, num_samples=20).to_dict(),
    "importance_nll": lambda fit, x: importance_nll(fit.model, x, 10).per_datum,
    "parameters": lambda fit, x: [torch.as_tensor(value) for value in fit.parameters.values()],
    "str": lambda fit, x: str(fit) and None,
}


def _given(fit: zoo.Fit, x: Any) -> Any:
    found = list(fit.model.fields.given_of(x).values()) if fit.model.fields.given else [None]
    return found[0] if len(found) == 1 else tuple(found)


def assert_answers(here: zoo.Fit, there: zoo.Fit, x: Any, tolerance: float) -> None:
    """The same answers, or the same refusals, each from a fit on its own device."""
    for name, answer in ANSWERS.items():
        said: list[Any] = []
        for fit in (here, there):
            try:
                said.append(numbers(answer(fit, x)))
            except zoo.ZooError as error:
                said.append(str(error))
        if isinstance(said[0], str) or isinstance(said[1], str):
            assert said[0] == said[1], name
            continue
        for one, other in zip(*said, strict=True):
            assert torch.allclose(other, one, rtol=tolerance, atol=tolerance, equal_nan=True), name


#: Models whose answers are asked for in the everyday run: one of each kind.
ASKED = {"gaussian_hmm", "gaussian_mixture", "ppca", "vae"}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name not in ASKED)) for name in sorted(model_classes())],
)
def test_answers_there_are_the_answers_here(name: str) -> None:
    model, x = instance(name)
    estimator = serving(Problem(model, x))[0]
    here = fitted(name, estimator, None)
    with second_device():
        assert_answers(here, fitted(name, estimator, DEVICE), x, 1e-7)


@every_model
@needs_a_gpu
def test_answers_of_a_gpu_are_the_answers_here(name: str) -> None:
    model, x = instance(name)
    estimator = serving(Problem(model, x))[0]
    here = fitted(name, estimator, None)
    with drawn_here():
        assert_answers(here, fitted(name, estimator, "cuda"), x, 1e-5)


# --- the second device is as strict as a GPU --------------------------------------------------------------------------


def test_here_and_there_do_not_meet() -> None:
    here, index = torch.arange(6.0).reshape(2, 3), torch.tensor([1, 0])
    with second_device() as device:
        there = here.to(device)
        for forgotten in (
            lambda: here + there,
            lambda: here @ there.mT,
            lambda: torch.cat([here, there]),
            lambda: torch.where(here > 2, there, 0.0),
            lambda: here[index.to(device)],
            lambda: here.index_put((index,), there),
            lambda: there.gather(1, index.unsqueeze(-1)),
            lambda: here.sum().add_(there.sum()),
            lambda: there.numpy(),
            lambda: torch.randn(2, device=device, generator=torch.Generator()),
        ):
            with pytest.raises((RuntimeError, TypeError)):
                forgotten()


def test_what_a_gpu_does_is_done_there() -> None:
    here, index = torch.arange(6.0).reshape(2, 3), torch.tensor([1, 0])
    with second_device() as device:
        there = here.to(device).requires_grad_()
        assert isinstance(there, Elsewhere)
        loss = ((there[index] * here.sum()).log_softmax(-1) ** 2).sum() + torch.tensor([2.0], device=device).squeeze(0)
        loss.backward()
        got, slope = loss.item(), there.grad
        assert slope is not None
        assert slope.device.type == device
        module = torch.nn.Linear(3, 2)
        twin = copy.deepcopy(module).to(device)
        assert torch.equal(twin(there).detach().cpu(), module(here).detach())
    leaf = here.clone().requires_grad_()
    loss = ((leaf[index] * here.sum()).log_softmax(-1) ** 2).sum() + 2.0
    loss.backward()
    assert got == loss.item()
    torch.testing.assert_close(slope.inner, leaf.grad, rtol=0, atol=0)  # type: ignore[attr-defined]


@pytest.mark.parametrize("here", [True, False])
def test_draws_there_can_be_those_of_the_processor(here: bool) -> None:
    def draws(device: str) -> list[Tensor]:
        half = torch.full((5,), 0.5, device=device)
        return [torch.randn(4, device=device), torch.empty_like(half).exponential_(), torch.bernoulli(half)]

    torch.manual_seed(3)
    want = draws("cpu")
    with second_device(own_generator=True) as device, drawn_here() if here else nullcontext():
        torch.manual_seed(3)
        torch.cuda.manual_seed_all(4)
        got = [value.cpu() for value in draws(device)]
    assert torch.equal(torch.cat(got), torch.cat(want)) is here


def test_looking_at_a_program_draws_nothing_from_the_devices_generator() -> None:
    model, x = instance("vae")
    with second_device(own_generator=True) as device:
        model = model.to(device)
        before = torch.cuda.get_rng_state()
        program.look(model, x.to(device))
        assert torch.equal(torch.cuda.get_rng_state(), before)
        model.guide(x.to(device))
        assert not torch.equal(torch.cuda.get_rng_state(), before)


def test_a_killed_fit_goes_on_with_the_devices_draws(tmp_path: Path) -> None:
    model, x = instance("vae")
    with second_device(own_generator=True) as device:
        options = {"estimator": "svi", "max_epochs": 10, "batch_size": 4, "device": device, "validation": 0.25}
        check_resumed(model, x, tmp_path / "run", "objective", **options)
