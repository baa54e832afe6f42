"""What is laid out in files goes away, whatever ends the process; so do the files that have names."""

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from zoo.data import _spool
from zoo.data._spool import Spool

linux = pytest.mark.skipif(sys.platform != "linux", reason="open files are seen in /proc")


@pytest.fixture(params=["memory", "unnamed", "folder"])
def place(request, tmp_path, monkeypatch):
    """Where rows are laid out; those that lie on a disk, in tmp_path."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    if request.param != "memory":
        monkeypatch.setattr(_spool, "SMALL", 3000)  # the first rows still lie in memory
    if request.param == "folder":
        monkeypatch.setattr(_spool, "PROCESSES", tmp_path / "none")
    return request.param


def open_files():
    """What this process has open, by device and number."""
    found = {}
    for link in Path("/proc/self/fd").iterdir():
        if link.is_symlink():
            seen = link.stat()
            found[seen.st_dev, seen.st_ino] = os.readlink(link)
    return found


def first_row(array):
    return array.raw(slice(0, 1)).tolist()


@linux
def test_rows_come_back_as_they_were_added_and_go_with_the_last_array(place, tmp_path):
    gc.collect()
    before = open_files().keys()  # tests before this one may have left rows to others

    def links():
        return [link for file, link in open_files().items() if file not in before]

    spool, x = Spool("s"), np.random.default_rng(0).normal(size=(1000, 3))
    for begin in range(0, 1000, 100):
        spool.add({"x": x[begin : begin + 100], "y": x[begin : begin + 100, 0].astype("f4")})
    arrays = spool.arrays()
    assert np.array_equal(arrays["x"].raw(slice(None)), x)
    assert np.array_equal(arrays["y"].raw(np.array([999, 0])), x[[999, 0], 0].astype("f4"))
    assert bool(list(tmp_path.glob("zoo-rows-*"))) == (place == "folder")
    assert sum("memfd:zoo-rows" in link for link in links()) == {"memory": 2, "unnamed": 0, "folder": 0}[place]
    assert sum(str(tmp_path) in link and "deleted" in link for link in links()) == 2 * (place == "unnamed")
    if place == "unnamed":  # another process reads them too
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            assert pool.apply(first_row, (arrays["x"],)) == x[:1].tolist()
    del spool, arrays["x"]
    gc.collect()
    assert len(arrays["y"].raw(slice(None))) == 1000
    arrays.clear()
    gc.collect()
    assert not list(tmp_path.glob("zoo-rows-*"))
    assert not any("memfd:zoo-rows" in link or (str(tmp_path) in link and "deleted" in link) for link in links())


KILLED = """
import sys, time
from pathlib import Path
import numpy as np
from zoo.data import _spool
_spool.SMALL, _spool.PROCESSES = 1000, Path(sys.argv[1])
spool = _spool.Spool("s")
spool.add({"x": np.zeros((1000, 3))})
x = spool.arrays()["x"].raw(slice(None))
print(len(x), flush=True)
time.sleep(60)
"""


@linux
@pytest.mark.parametrize("place", ["unnamed", "folder"], indirect=True)
def test_of_a_process_that_is_killed_nothing_stays(place, tmp_path):
    processes = tmp_path / "none" if place == "folder" else "/proc"
    command = [sys.executable, "-c", KILLED, str(processes)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "1000\n"
        named = list(tmp_path.glob("zoo-rows-*"))
        assert bool(named) == (place == "folder")
        Spool("t")
        assert all(folder.is_dir() for folder in named), "another process is at work there"
        other.send_signal(signal.SIGKILL)
        other.wait()
    ours = Spool("t")
    ours.add({"x": np.zeros((2, 2))})
    assert not any(folder.is_dir() for folder in named)
