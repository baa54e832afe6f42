"""Steps that a GPU repeats from a recording: the same fits as step by step.

Without a GPU what a recording does is done by hand: the same tensors are filled anew, by the work itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
from second_device import DEVICE, second_device, waiting_refused
from test_contract import instance, options_of
from test_device import needs_a_gpu
from torch import Tensor

import zoo
from zoo.core.data import Data, map_tensors, tensors
from zoo.core.isolation import kept_generators
from zoo.core.objective import Step
from zoo.core.problem import Problem
from zoo.estimators import estimator_classes
from zoo.estimators.gradient import GradientEstimator
from zoo.estimators.loop import recording
from zoo.models import model_classes
from zoo.runs.prepare import serving

Work = Callable[[Data], tuple[list[Tensor | None], Step]]

#: Enough steps of batches of five for several epochs after the first recording.
ADAM = {"optimizer": "adam", "max_epochs": 120, "batch_size": 5}


class ByHand(recording.Recording):
    """A recording without a GPU: its graph does the work again, and fills the same tensors."""

    def __init__(self, work: Work, batch: Data) -> None:
        self.work, self.batch, self.graph = work, map_tensors(torch.clone, batch), self
        with kept_generators():
            self.result = work(self.batch)

    def replay(self) -> None:
        for old, new in zip(numbers(self.result), numbers(self.work(self.batch)), strict=True):
            if old is not None:
                old.copy_(new)


def numbers(result: tuple[list[Tensor | None], Step]) -> list[Any]:
    gradients, step = result
    return [*gradients, step.surrogate, step.value, *step.parts.values()]


@contextmanager
def repeated(made: type = ByHand, devices: frozenset[str] = frozenset({"cpu"}), **others: Any) -> Iterator[list[int]]:
    """Inside, steps are repeated on these devices; how many rows each such step had.

    Args:
        others: names of the module, and what takes their place.
    """
    rows: list[int] = []

    class Counted(made):  # type: ignore[misc]
        def __call__(self, batch: Data) -> tuple[list[Tensor | None], Step]:
            rows.append(tensors(batch)[0].shape[0])
            result: tuple[list[Tensor | None], Step] = super().__call__(batch)
            return result

    with ExitStack() as entered:
        entered.enter_context(mock.patch.multiple(recording, Recording=Counted, REPEATING=devices, **others))
        if "cuda" not in devices:
            entered.enter_context(waiting_refused())
        yield rows


def assert_same(one: zoo.Fit, other: zoo.Fit, tolerance: float = 0.0) -> None:
    for (name, value), again in zip(one.model.state_dict().items(), other.model.state_dict().values(), strict=True):
        torch.testing.assert_close(again, value, rtol=tolerance, atol=tolerance, msg=name)
    bound = [torch.tensor([v for v in fit.history["objective"] if v is not None]).double() for fit in (one, other)]
    torch.testing.assert_close(*bound, rtol=tolerance, atol=tolerance)
    assert (one.status, one.notes) == (other.status, other.notes)


@pytest.mark.parametrize(
    ("name", "estimator", "options"),
    [
        ("vae", "svi", {}),
        ("vae", "svi", {"warmup": 0, "clip_norm": 0.01}),
        ("vae", "iwae", {"num_particles": 3}),
        ("conditional_vae", "svi", {"schedule": "alternating", "phase_steps": 3}),
        ("categorical_vae", "reinforce", {}),
        ("poisson_mixture", "eg", {}),
    ],
)
def test_repeated_steps_are_the_steps(name: str, estimator: str, options: dict[str, Any]) -> None:
    model, x = instance(name)
    step_by_step = zoo.fit(model, x, estimator=estimator, seed=3, **{**ADAM, **options})
    with repeated() as rows:
        fit = zoo.fit(model, x, estimator=estimator, seed=3, **{**ADAM, **options})
    assert_same(step_by_step, fit)
    assert len(rows) > 50
    assert set(rows) == {5}  # an epoch's last batch is another one


@pytest.mark.parametrize(("name", "estimator"), [("vae", "svi"), ("poisson_mixture", "eg")])
def test_weights_of_rows_are_those_of_each_batch(name: str, estimator: str) -> None:
    model, x = instance(name)
    options = {**ADAM, "weights": torch.arange(1.0, len(x) + 1), "seed": 3}
    step_by_step = zoo.fit(model, x, estimator=estimator, **options)
    with repeated() as rows:
        assert_same(step_by_step, zoo.fit(model, x, estimator=estimator, **options))
    assert len(rows) > 50


def test_an_annealed_bound_is_repeated_once_it_is_whole() -> None:
    model, x = instance("vae")
    with repeated() as rows:
        zoo.fit(model, x, estimator="svi", annealing=0.5, warmup=0, **ADAM)
        half = len(rows)
        rows.clear()
        zoo.fit(model, x, estimator="svi", warmup=0, **ADAM)
    assert 40 < half < len(rows) - 40


@pytest.mark.parametrize("steps", [50, 300])
def test_few_steps_are_no_recording(steps: int) -> None:
    model, x = instance("vae")
    with repeated() as rows:
        zoo.fit(model, x, estimator="svi", warmup=0, max_epochs=steps)
    assert bool(rows) is (steps > recording.WORTH)


class Counting(zoo.VAE):
    """A model whose Python remembers, which no recording would."""

    def elbo_parts(self, x: Tensor, num_particles: int = 1) -> tuple[Tensor, dict[str, Tensor]]:
        self.calls = getattr(self, "calls", 0) + 1
        return super().elbo_parts(x, num_particles)


def test_models_of_peoples_own_are_not_recorded() -> None:
    _, x = instance("vae")
    with repeated() as rows:
        fit = zoo.fit(Counting(x.shape[1], 2, (4,)), x, estimator="svi", warmup=0, max_epochs=300)
    assert not rows
    assert fit.model.calls >= 300


class Remembering(torch.nn.Linear):
    """A network that may remember as well."""


def test_networks_of_peoples_own_are_not_recorded() -> None:
    frames = torch.randn(1, 4, 3)
    model = zoo.CTC(3, 2, network=Remembering(3, 3))
    with repeated():
        assert not recording.Recorder.serves(model, frames.device, 1000)
        assert recording.Recorder.serves(zoo.CTC(3, 2, network=torch.nn.Linear(3, 3)), frames.device, 1000)


def test_what_waits_is_taken_step_by_step() -> None:
    model, x = instance("vae")
    draws = torch.get_rng_state()
    step_by_step = zoo.fit(model, x, estimator="svi", warmup=0, max_epochs=300)

    def refuse(mode: Any) -> None:
        if mode == "error":
            raise RuntimeError("called a synchronizing CUDA operation")

    with repeated() as rows, mock.patch.object(torch.cuda, "set_sync_debug_mode", refuse):
        fit = zoo.fit(model, x, estimator="svi", warmup=0, max_epochs=300)
    assert not rows
    assert_same(step_by_step, fit)
    assert torch.equal(torch.get_rng_state(), draws)


def test_a_recording_that_fails_leaves_stream_and_generators_as_they_were() -> None:
    used, generators = ["usual"], [mock.Mock(), mock.Mock()]

    @contextmanager
    def failing(graph: Any) -> Iterator[None]:
        used.append("its own")
        yield
        raise AssertionError("the work should have failed")

    def work(batch: Data) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    replaced = {
        "CUDAGraph": mock.Mock(), "graph": failing, "default_generators": generators,
        "current_stream": lambda: used[-1], "set_stream": used.append,
    }  # fmt: skip
    with mock.patch.multiple(torch.cuda, **replaced), pytest.raises(RuntimeError, match="capturing"):
        recording.Recording(work, torch.zeros(2, 3))
    assert used == ["usual", "its own", "usual"]
    for generator in generators:
        generator.graphsafe_set_state.assert_called_once_with(generator.clone_state.return_value)


#: Steps that a second device repeats, since nothing in them waits for it.
WITHOUT_WAITING = [
    ("categorical_vae", "gumbel"), ("conditional_vae", "reinforce"), ("deep_markov_model", "iwae"),
    ("deep_markov_model", "svi"), ("gaussian_mixture_vae", "svi"), ("linear_vae", "svi"), ("ppca", "reinforce"),
    ("stochastic_binary_network", "rws"), ("vae", "iwae"), ("von_mises_mixture", "svi"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "estimator"), WITHOUT_WAITING)
def test_these_steps_wait_for_nothing(name: str, estimator: str) -> None:
    assert len(check_on_second_device(name, estimator, 30)) >= 10


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n != "hopfield_tsp")) for n in sorted(model_classes())]
)
def test_steps_that_wait_are_taken_one_by_one(name: str) -> None:
    for estimator in serving(Problem(*instance(name))):
        if issubclass(estimator_classes()[estimator], GradientEstimator) and (name, estimator) not in WITHOUT_WAITING:
            check_on_second_device(name, estimator, recording.WALKED + 2)


def check_on_second_device(name: str, estimator: str, epochs: int) -> list[int]:
    """The same fit, where steps may be repeated and where they may not; the rows of those that were."""
    model, x = instance(name)
    options = {**options_of(estimator), **ADAM, "max_epochs": epochs, "device": DEVICE, "restarts": 1}
    with second_device():
        step_by_step = zoo.fit(model, x, estimator=estimator, **options)
        with repeated(ByHand, frozenset({DEVICE}), WORTH=10) as rows:
            fit = zoo.fit(model, x, estimator=estimator, **options)
        assert_same(step_by_step, fit, 1e-12)
    return rows


@needs_a_gpu
def test_what_no_graph_holds_is_taken_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = instance("vae")
    options = {"estimator": "svi", "warmup": 0, "max_epochs": 300, "device": "cuda", "optimizer": "adam"}
    with repeated(recording.Recording, frozenset()):
        step_by_step = zoo.fit(model, x, **options)
    real = zoo.VAE.elbo_parts

    def waiting(self: Any, x: Tensor, num_particles: int = 1) -> Any:
        bound, parts = real(self, x, num_particles)
        assert float(bound.detach().sum()) < 0  # which no recording can ask
        return bound, parts

    monkeypatch.setattr(zoo.VAE, "elbo_parts", waiting)
    monkeypatch.setattr(recording.Recorder, "_try", lambda self, batch: None)
    with repeated(recording.Recording, frozenset({"cuda"})) as rows:
        fit = zoo.fit(model, x, **options)
    assert not rows
    assert_same(step_by_step, fit, 1e-9)


@needs_a_gpu
@pytest.mark.parametrize("name", sorted(model_classes()))
def test_a_gpu_repeats_what_it_did_step_by_step(name: str) -> None:
    model, x = instance(name)
    for estimator in serving(Problem(model, x)):
        if issubclass(estimator_classes()[estimator], GradientEstimator):
            options = {**options_of(estimator), **ADAM, "device": "cuda", "restarts": 1}
            with repeated(recording.Recording, frozenset()):
                step_by_step = zoo.fit(model, x, estimator=estimator, **options)
            with repeated(recording.Recording, frozenset({"cuda"}), WORTH=10) as rows:
                fit = zoo.fit(model, x, estimator=estimator, **options)
            assert_same(step_by_step, fit, 1e-6)
            print(
                f"{name} {estimator}: {len(rows)} steps repeated, {step_by_step.seconds:.2f} s and {fit.seconds:.2f} s"
            )
