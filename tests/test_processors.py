"""How many threads there are to use: by the scheduler, by a control group's quota, by what is measured."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from zoo.core import isolation
from zoo.core import processors as module
from zoo.core.isolation import available_threads, threads
from zoo.core.processors import processors, threads_pay


def groups(tmp_path: Path, own: str, files: dict[str, str]) -> float:
    """The quota that a process reads whose groups are ``own`` and whose limits stand in these files."""
    (tmp_path / "own").write_text(own)
    for name, text in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return module._quota.__wrapped__(tmp_path / "groups", tmp_path / "own")


@pytest.fixture(autouse=True)
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.os, "cpu_count", lambda: 64)


def test_a_quota_is_read_of_the_group_or_of_one_above_it(tmp_path: Path) -> None:
    files = {"cpu.max": "max 100000\n", "a/cpu.max": "250000 100000\n", "a/b/cpu.max": "max 100000\n"}
    assert groups(tmp_path, "0::/a/b\n", files) == 2.5
    assert groups(tmp_path, "0::/\n", {"cpu.max": "150000 100000\n"}) == 1.5
    assert groups(tmp_path, "0::/../elsewhere\n", {}) == 1.5  # a container's own root
    assert groups(tmp_path, "0::/a/b\n", {"cpu.max": "max 100000\n", "a/cpu.max": "max 100000\n"}) == 64


def test_a_quota_of_the_first_version(tmp_path: Path) -> None:
    files = {"cpu/job/cpu.cfs_quota_us": "300000\n", "cpu/job/cpu.cfs_period_us": "100000\n"}
    own = "5:memory:/job\n4:cpu,cpuacct:/job\n"
    assert groups(tmp_path, own, files) == 3.0
    assert groups(tmp_path, own, {"cpu/job/cpu.cfs_quota_us": "-1\n"}) == 64


def test_no_more_threads_than_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(module, "_quota", lambda: 2.9)
    assert processors() == 2
    monkeypatch.setattr(module, "_quota", lambda: 0.5)
    assert processors() == 1
    torch.set_num_threads(4)
    try:
        assert available_threads() == 1
        with threads(10**9):
            assert torch.get_num_threads() == available_threads() == 1
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("pays", [False, True])
def test_large_work_has_the_threads_that_pay(pays: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "processors", lambda: 3)
    monkeypatch.setattr(isolation, "threads_pay", lambda number: pays and number == 3)
    torch.set_num_threads(4)
    try:
        with threads(10**9):
            assert torch.get_num_threads() == (3 if pays else 1)
            assert available_threads() == 3
        with threads(10):
            assert torch.get_num_threads() == 1
            assert available_threads() == 3
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(1)


def test_threads_that_wait_do_not_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that goes on by what an operation takes: shared among threads, or lost in waiting for them."""
    clock = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])
    for cost, expected in (({1: 1.0, 2: 0.6}, True), ({1: 1.0, 2: 0.95}, False), ({1: 1.0, 2: 50.0}, False)):

        class Values:
            def mul_(self, _: float, cost: dict[int, float] = cost) -> None:
                clock[0] += cost[torch.get_num_threads()]

        monkeypatch.setattr(module.torch, "ones", lambda *_, made=Values, **__: made())
        assert threads_pay(2) is expected
        assert torch.get_num_threads() == 1


def test_two_threads_may_come_to_a_module_s_kernels_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second finds one compiled and the other not yet."""
    numba = pytest.importorskip("numba")
    from zoo.core.parallel import compiled

    names: dict[str, Any] = {"__name__": "kernels", "first": lambda x: x + 1, "second": lambda x: x * 2}
    begun, jit = threading.Event(), numba.njit

    def slow(*args: Any, **options: Any) -> Any:
        def wrap(function: Any) -> Any:
            if function is second:
                begun.set()
                time.sleep(0.2)
            return jit(*args, **{**options, "cache": False})(function)

        return wrap

    second = names["second"]
    monkeypatch.setattr(numba, "njit", slow)
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(compiled, names, ["first", "second"])
        begun.wait(10)
        other = pool.submit(compiled, names, ["first", "second"])
        one.result()
        other.result()
    assert [names["first"](3), names["second"](3)] == [4, 6]
