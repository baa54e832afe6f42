"""Alignments beside torch's ctc_loss, finite differences, and hard sizes; the enumeration is in test_structures.py."""

from __future__ import annotations

import dataclasses
import math
import time
from typing import Any

import numpy as np
import pytest
import structure_oracles as oracles
import torch
from torch import Tensor

from zoo.errors import ZooError
from zoo.structures import Alignment, alignment_logs

BACKENDS = ("numba", "torch")


def problem(
    items: int, frames: int, symbols: int, size: int, scale: float = 1.0, seed: int = 0, ragged: bool = True
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits, targets, lengths and target lengths; the first item of full size."""
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(items, frames, symbols + 1, generator=generator, dtype=torch.float64)
    targets = torch.randint(1, symbols + 1, (items, size), generator=generator)
    lengths, sizes = torch.full((items,), frames), torch.full((items,), size)
    if ragged:
        lengths[1:] = torch.randint(max(1, frames // 2), frames + 1, (items - 1,), generator=generator)
        sizes[1:] = torch.randint(0, size + 1, (items - 1,), generator=generator)
    return logits, targets, lengths, sizes


def torchs(log_probs: Tensor, targets: Tensor, lengths: Tensor, sizes: Tensor) -> Tensor:
    """ln p(target) of each item by torch's own kernel, (N,)."""
    return -torch.nn.functional.ctc_loss(log_probs.transpose(0, 1), targets, lengths, sizes, reduction="none")


def both(parts: tuple[Tensor, ...], backend: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Values and gradients in the logits: ours, and torch's."""
    results = []
    for function in (lambda lp, *rest: Alignment(lp, *rest, _backend=backend).log_partition(), torchs):
        leaf = parts[0].clone().requires_grad_()
        value = function(leaf.log_softmax(-1), *parts[1:])
        value.where(value > -math.inf, torch.zeros(())).sum().backward()
        assert leaf.grad is not None
        results += [value.detach(), leaf.grad]
    return tuple(results)  # type: ignore[return-value]


SIZES = {
    "short": (6, 12, 4, 5, 1.0),
    "long": (3, 400, 30, 60, 1.0),
    "sure": (4, 200, 6, 30, 30.0),
    "surer": (4, 200, 6, 30, 100.0),
    "dense": (3, 120, 5, 100, 1.0),
    "no symbols": (3, 7, 2, 0, 1.0),
    "one frame": (5, 1, 3, 1, 1.0),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", SIZES)
def test_value_and_gradient_are_those_of_torchs_ctc_loss(name: str, backend: str) -> None:
    value, gradient, expected, other = both(problem(*SIZES[name]), backend)
    np.testing.assert_allclose(value, expected, rtol=1e-10)
    fits = expected > -math.inf
    assert fits[0] or name == "dense"
    assert not gradient[~fits].any()
    assert not gradient.isnan().any()
    np.testing.assert_allclose(gradient[fits], other[fits], rtol=0, atol=1e-9)


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_five_thousand_frames(scale: float) -> None:
    value, gradient, expected, other = both(problem(2, 5000, 10, 200, scale), "numba")
    np.testing.assert_allclose(value, expected, rtol=1e-10)
    np.testing.assert_allclose(gradient, other, rtol=0, atol=1e-8)  # torch's own error: ours agree to 1e-11
    by_torch = Alignment(problem(2, 5000, 10, 200, scale)[0].log_softmax(-1), *problem(2, 5000, 10, 200, scale)[1:])
    np.testing.assert_allclose(by_torch.log_partition(), expected, rtol=1e-10)


def test_expected_symbols_are_what_torchs_gradient_takes_off_the_probabilities() -> None:
    """Behind a log-softmax torch's gradient is exp(log_probs) - posterior; alone it is no gradient of its value."""
    logits, *rest = problem(4, 50, 5, 9)
    leaf = logits.log_softmax(-1).requires_grad_()
    torchs(leaf, *rest).sum().backward()
    assert leaf.grad is not None
    inside = (torch.arange(50) < rest[1].unsqueeze(-1)).unsqueeze(-1)
    posterior = Alignment(leaf.detach(), *rest).marginals().log_probs
    np.testing.assert_allclose((leaf.detach().exp() + leaf.grad) * inside, posterior, rtol=0, atol=1e-9)
    np.testing.assert_allclose(posterior.sum(-1), inside[..., 0].double(), atol=1e-12)


@pytest.mark.parametrize("through", ["log_probs", "logits"])
def test_the_gradient_is_the_slope(through: str) -> None:
    logits, *rest = problem(3, 9, 3, 3, seed=2)

    def value(x: Tensor) -> Tensor:
        return Alignment(x.log_softmax(-1) if through == "logits" else x, *rest).log_partition().sum()

    leaf = logits.clone().requires_grad_()
    value(leaf).backward()
    assert leaf.grad is not None
    for index in ((0, 0, 0), (0, 4, 1), (1, 2, 3), (2, 3, 2), (0, 8, 0)):
        step = torch.zeros_like(logits)
        step[index] = 1e-5
        slope = float(value(logits + step) - value(logits - step)) / 2e-5
        assert float(leaf.grad[index]) == pytest.approx(slope, abs=1e-8)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_target_that_cannot_fit_is_impossible_and_moves_nothing(backend: str) -> None:
    """Two equal symbols need a blank between them: three frames, not two."""
    leaf = torch.zeros(4, 3, 3, dtype=torch.float64, requires_grad=True)
    lengths, sizes = torch.tensor([2, 3, 3, 1]), torch.tensor([2, 2, 3, 2])
    alignment = Alignment(leaf, torch.tensor([[1, 1, 0], [1, 1, 0], [1, 2, 2], [1, 2, 0]]), lengths, sizes, 0, backend)
    value = alignment.log_partition()
    np.testing.assert_allclose(value.detach(), [-math.inf, 0.0, -math.inf, -math.inf], atol=1e-15)
    value[1:2].sum().backward(retain_graph=True)
    value.sum().backward()
    assert leaf.grad is not None
    assert not leaf.grad[[0, 2, 3]].any()
    np.testing.assert_allclose(leaf.grad[1], [[0.0, 2.0, 0.0], [2.0, 0.0, 0.0], [0.0, 2.0, 0.0]], atol=1e-14)
    assert (alignment.argmax()[0][[0, 2, 3]] == -1).all()
    with pytest.raises(ZooError, match="item 0 has no alignment"):
        alignment.sample()


def test_what_scaling_would_lose_is_done_again_by_logarithms(monkeypatch: pytest.MonkeyPatch) -> None:
    """A symbol that looks impossible for long and is needed in the end: the forward messages alone would lose it."""
    asked: list[int] = []
    run = Alignment._run

    def counted(self: Alignment, kernel: str, *args: Any, **named: Any) -> None:
        if kernel == "logs_kernel":
            asked.append(len(args[1]))
        run(self, kernel, *args, **named)

    monkeypatch.setattr(Alignment, "_run", counted)
    log_probs = torch.zeros(3, 40, 3, dtype=torch.float64)
    log_probs[1, :20, 1] = -200.0  # symbol 1 is dear early, and the blank so late that only an early one pays
    log_probs[1, 20:, 0] = -400.0
    log_probs[1, 20:, 1] = -500.0
    targets = torch.tensor([[1, 2]] * 3)
    expected = torchs(log_probs, targets, torch.full((3,), 40), torch.full((3,), 2))
    alignment = Alignment(log_probs, targets)
    np.testing.assert_allclose(alignment.log_partition(), expected, rtol=1e-13)
    np.testing.assert_allclose(
        alignment.marginals().log_probs,
        Alignment(log_probs, targets, _backend="torch").marginals().log_probs,
        atol=1e-11,
    )
    surer = problem(2, 50, 4, 10, 300.0)
    before = len(asked)
    alignment = Alignment(surer[0], *surer[1:])
    np.testing.assert_allclose(
        alignment.log_partition(), Alignment(surer[0], *surer[1:], _backend="torch").log_partition(), rtol=1e-12
    )
    assert len(asked) > before, "the test must reach that path"
    calm = problem(4, 1000, 30, 100)
    before = len(asked)
    Alignment(*calm).log_partition()
    assert len(asked) == before, "ordinary sizes need no logarithms"


def test_single_precision_is_summed_in_double() -> None:
    logits, *rest = problem(4, 400, 20, 60)
    narrow = logits.float().requires_grad_()
    wide = logits.float().double().requires_grad_()
    for leaf in (narrow, wide):
        Alignment(leaf, *rest).log_partition().sum().backward()
    assert narrow.grad is not None and wide.grad is not None  # noqa: PT018
    assert narrow.grad.dtype == torch.float32
    np.testing.assert_allclose(narrow.grad, wide.grad, rtol=0, atol=1e-7)


def test_the_number_of_threads_changes_no_bit() -> None:
    logits, *rest = problem(9, 60, 5, 12)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(Alignment(logits, *rest).marginals().log_probs)
    assert torch.equal(*results)


def test_time_grows_as_the_frames_do() -> None:
    """No fall-back to logarithms on the way: ten times the frames, far less than thirty times the time."""
    spent = []
    for frames in (300, 3000):
        alignment = Alignment(problem(2, frames, 30, 30, ragged=False)[0], problem(2, frames, 30, 30, ragged=False)[1])
        alignment.value()
        runs = []
        for _ in range(5):
            start = time.perf_counter()
            alignment.value()
            runs.append(time.perf_counter() - start)
        spent.append(min(runs))
    assert spent[1] < 30 * spent[0]


def test_kernels_are_plain_python_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """As they run where numba is not installed: the same draws, paths and means as compiled."""
    import importlib.util

    spec = importlib.util.find_spec("zoo.structures.alignment_logs")
    assert spec is not None
    assert spec.loader is not None
    plain = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plain)
    monkeypatch.setattr(plain, "has_numba", lambda: False)
    alignment = oracles.alignment_variants()["ragged, torch"]
    answers = []
    for module in (alignment_logs, plain):
        monkeypatch.setattr("zoo.structures.alignment.alignment_logs", module)
        answers.append(
            [alignment.sample(50, torch.Generator().manual_seed(0)), *alignment.argmax(), alignment.entropy()]
        )
    for one, other in zip(*answers, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"log_probs": torch.zeros(2, 3)}, r"log_probs: expected shape \(N, T, V \+ 1\)"),
        ({"targets": torch.zeros(2, 2)}, r"targets: expected integers of shape \(2, U\)"),
        ({"targets": torch.tensor([[1, 2], [1, 4]])}, r"got 4 at 1 of item 1"),
        ({"targets": torch.tensor([[1, 0], [1, 2]])}, r"other than the blank \(0\), got 0 at 1 of item 0"),
        ({"blank": 4}, "blank: expected one of 4 symbols, got 4"),
        ({"lengths": torch.tensor([3, 0])}, "lengths: expected 1 to 3, got 0 for item 1"),
        ({"lengths": torch.tensor([3, 4])}, "got 4 for item 1"),
        ({"target_lengths": torch.tensor([3, 1])}, "target_lengths: expected 0 to 2, got 3 for item 0"),
        ({"target_lengths": torch.tensor([1.0, 1.0])}, "of torch.float32"),
    ],
)
def test_what_does_not_fit_is_named_in_one_line(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"log_probs": torch.zeros(2, 3, 4), "targets": torch.tensor([[1, 2], [3, 1]]), **change}
    with pytest.raises(ZooError, match=message) as caught:
        Alignment(**given)
    assert "\n" not in str(caught.value)


def test_windows_of_any_size_are_those_of_logarithms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Targets that barely fit and that fit with ease, around whole blocks of states; nothing goes by logarithms."""
    monkeypatch.setattr("zoo.structures.alignment_logs.logs_kernel", lambda *a: pytest.fail("by logarithms"))
    generator = torch.Generator().manual_seed(0)
    for size in (0, 1, 6, 7, 8, 9, 15, 16, 17, 30, 33):
        for room in (0, 3, 20):
            frames = max(1, size + room)
            log_probs = 2 * torch.randn(3, frames, 8, generator=generator, dtype=torch.float64)
            targets = torch.randint(1, 8, (3, max(1, size)), generator=generator)
            lengths = torch.tensor([frames, max(1, frames - 1), max(1, frames - 2)])
            sizes = torch.tensor([size, max(0, size - 1), max(0, size - 8)])
            found = Alignment(log_probs, targets, lengths, sizes)
            oracle = dataclasses.replace(found, _backend="torch")
            torch.testing.assert_close(found.log_partition(), oracle.log_partition(), rtol=0, atol=1e-11)
            torch.testing.assert_close(found.marginals().log_probs, oracle.marginals().log_probs, rtol=0, atol=1e-12)
