"""The compiled pass over tiles of rows at hostile sizes and scales, and threads that share slices out."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest
import torch
from test_gaussian_kernels import TYPES, check, problem, split, take
from torch import Tensor

from zoo.core import exponential, parallel
from zoo.core.parallel import in_parallel
from zoo.densities import gaussian, gaussian_tiles

#: Rows, features, components.
SIZES = ((300, 60, 3), (1, 7, 200), (129, 1, 1), (127, 5, 40), (2600, 2, 2))


@pytest.mark.parametrize("scale", [1e-100, 1.0, 1e100])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("covariance_type", TYPES)
def test_tiles_are_the_differences(
    covariance_type: str, sizes: tuple[int, int, int], scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, log_weights, means, factor = problem(covariance_type, *sizes)
    parameters = x * scale, log_weights, means * scale, factor * scale
    take("tiles", monkeypatch)
    monkeypatch.setattr(gaussian_tiles, "_LEAST_ROWS", 400)  # several slices
    got = gaussian.e_step(*parameters, covariance_type)
    take("differences", monkeypatch)
    expected = gaussian.e_step(*parameters, covariance_type)
    torch.testing.assert_close(got[0], expected[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(got[2].count, expected[2].count, rtol=1e-11, atol=1e-13)
    some = expected[2].count > 1e-30  # others may underflow in another place
    ours, theirs = ((moments.mean[some] / scale, moments.scatter[some] / scale**2) for moments in (got[2], expected[2]))
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_rows_that_count_several_times_and_known_components(
    covariance_type: str, hard: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against rows that are there as often, and against a mixture of the known component alone."""
    x, parameters = split(problem(covariance_type, 500, 3, 4))
    generator = torch.Generator().manual_seed(1)
    counts = torch.randint(0, 4, (500,), generator=generator)
    labels = torch.randint(-1, 4, (500,), generator=generator)
    take("tiles", monkeypatch)
    got = gaussian.e_step(x, *parameters, covariance_type, hard=hard, weights=counts.double(), labels=labels)
    take("differences", monkeypatch)
    log_likelihood, moments = torch.zeros((), dtype=torch.float64), None
    for k in range(-1, 4):
        rows = x[labels == k].repeat_interleave(counts[labels == k], 0)
        log_weights = parameters[0].clone()
        if k >= 0:
            log_weights[torch.arange(4) != k] = -torch.inf
        more = gaussian.e_step(rows, log_weights, *parameters[1:], covariance_type, hard=hard)
        log_likelihood = log_likelihood + more[0]
        moments = more[2] if moments is None else moments + more[2]
    assert moments is not None
    torch.testing.assert_close(got[0], log_likelihood, rtol=1e-12, atol=0)
    for name in ("count", "mean", "scatter"):
        torch.testing.assert_close(getattr(got[2], name), getattr(moments, name), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_float32_far_from_zero(covariance_type: str, offset: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Differences from means that float32 does not hold, so that nothing but the data's own rounding is lost."""
    x, log_weights, means, scale = problem(covariance_type, 3000, 4, 3)
    x, means = (x + offset).float(), means + offset + 1 / 3
    take("tiles", monkeypatch)
    got = gaussian.e_step(x, log_weights, means, scale, covariance_type)
    check(got, (x, log_weights, means, scale), covariance_type, False, 2e-6)


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_float32_loses_what_its_rounding_is(covariance_type: str, hard: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many rows: likelihoods to 1e-7, what is divided by the number of rows to 1e-6, of float64's."""
    x, parameters = split(problem(covariance_type, 20_000, 16, 6))
    single = x.float()
    take("tiles", monkeypatch)
    got = gaussian.e_step(single, *parameters, covariance_type, hard=hard)
    take("differences", monkeypatch)
    expected = gaussian.e_step(single.double(), *parameters, covariance_type, hard=hard)
    torch.testing.assert_close(got[:2], expected[:2], rtol=1e-7, atol=0)
    assert float(got[0]) != float(expected[0])
    torch.testing.assert_close(got[2].count, expected[2].count, rtol=1e-6, atol=0)
    count = expected[2].count.unsqueeze(-1)
    torch.testing.assert_close(got[2].mean, expected[2].mean, rtol=0, atol=1e-6)  # deviations are about 1
    ours, theirs = got[2].scatter.flatten(1) / count, expected[2].scatter.flatten(1) / count
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_float32_hears_of_a_component_far_from_all_rows(covariance_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its responsibilities are below any of float32, and move it where float64 would."""
    x, log_weights, means, scale = problem(covariance_type, 2000, 4, 3)
    means[2] += 12.0
    parameters = x.float(), log_weights, means, scale
    take("tiles", monkeypatch)
    got = gaussian.e_step(*parameters, covariance_type)[2]
    assert 0 < float(got.count[2]) < 1e-30
    take("differences", monkeypatch)
    expected = gaussian.e_step(x.float().double(), *parameters[1:], covariance_type)[2]
    torch.testing.assert_close(got.count, expected.count, rtol=1e-10, atol=0)
    torch.testing.assert_close(got.mean, expected.mean, rtol=1e-10, atol=0)


@pytest.mark.parametrize(("dtype", "wide", "least"), [("float32", "float64", -64), ("float64", "longdouble", -708)])
def test_the_exponential_of_kernels_is_right_to_an_ulp(dtype: str, wide: str, least: int) -> None:
    """Beside libm's in more digits; zero where the result is next to nothing."""
    numba = pytest.importorskip("numba")
    exponential.compiled_exponential()

    @numba.njit(fastmath={"contract"})
    def all_of(x: Any, out: Any) -> None:
        for i in range(len(x)):
            out[i] = exponential.exponential(x[i])

    x = np.concatenate([np.linspace(least, 0, 200_001), -np.logspace(-40, 0, 1000)]).astype(dtype)
    out = np.empty_like(x)
    all_of(x, out)
    exact = np.exp(x.astype(wide))
    assert (abs(out - exact) <= np.spacing(exact.astype(dtype))).all()
    edge = np.array([0.0, np.nextafter(x.dtype.type(least), x.dtype.type(-np.inf)), -np.inf, np.nan], dtype)
    all_of(edge, edge)
    assert edge[:3].tolist() == [1.0, 0.0, 0.0]
    assert np.isnan(edge[3])


def test_the_number_of_threads_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    x, parameters = split(problem("full", 9000, 3, 4))
    take("tiles", monkeypatch)
    results = []
    for number in (1, 2, 3):
        monkeypatch.setattr(parallel, "available_threads", lambda n=number: n)
        results.append(gaussian.e_step(x, *parameters, "full"))
    for other in results[1:]:
        assert torch.equal(other[0], results[0][0])
        assert torch.equal(other[2].scatter, results[0][2].scatter)


def test_nobody_waits_for_a_thread_that_has_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool's one thread is busy: the caller does all the work, at once."""
    monkeypatch.setattr(parallel, "available_threads", lambda: 2)
    assert in_parallel([lambda: 1, lambda: 2]) == [1, 2]
    free = threading.Event()
    blocked = parallel._pool(parallel.os.getpid(), 1).submit(free.wait, 30.0)
    try:
        begin = time.monotonic()
        assert in_parallel([lambda i=i: i * i for i in range(50)]) == [i * i for i in range(50)]
        assert time.monotonic() - begin < 20
    finally:
        free.set()
        blocked.result()


def test_a_call_whose_thread_lost_its_core_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "available_threads", lambda: 2)
    free, made = threading.Event(), list[int]()

    def call(i: int) -> int:
        made.append(i)
        if threading.current_thread().name.startswith("zoo-kernels"):
            free.wait(30.0)  # its core is taken
        else:
            time.sleep(0.002)
        return i * i

    begin = time.monotonic()
    try:
        assert in_parallel([lambda i=i: call(i) for i in range(40)], pure=True) == [i * i for i in range(40)]
        assert time.monotonic() - begin < 20
        assert len(made) == 41
    finally:
        free.set()


def test_torch_takes_one_thread_inside_and_its_own_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(2)
    try:
        seen = in_parallel([lambda: time.sleep(0.002) or torch.get_num_threads() for _ in range(20)])
        assert seen == [1] * 20
        assert torch.get_num_threads() == 2
        with pytest.raises(ValueError, match="third"):
            in_parallel([_third] * 3)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def _third() -> Tensor:
    raise ValueError(f"the third of {np.arange(3)}")
