"""Nothing is lost or half written: locks, full disks, folders that vanish, files that would run code."""

from __future__ import annotations

import ast
import errno
import io
import json
import os
import pickle
import resource
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import zoo
from zoo.cli import main
from zoo.data import _fetch
from zoo.data._mapping import mapped_npz
from zoo.errors import ZooError
from zoo.models.gaussian_hmm import tiny
from zoo.reporting import page
from zoo.storage import folders
from zoo.storage.checkpoint import Checkpoints, RunFolder

ROOT = Path(__file__).parent.parent
OPTIONS: dict[str, Any] = {"estimator": "em", "tol": 0, "max_iter": 30, "init": "current"}
HOLDER = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], 0), 2); print(flush=True); sys.stdin.read()"
linux = pytest.mark.skipif(sys.platform != "linux", reason="by what Linux does")
posix = pytest.mark.skipif(os.name != "posix", reason="locks of a POSIX system")


@contextmanager
def other_process(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """One that has locked a folder, as a run there does."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-S", "-c", HOLDER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file grows beyond this, as where a disk is full: a real error of the system's."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def same(a: zoo.Fit, b: zoo.Fit) -> None:
    for name, value in a.model.state_dict().items():
        assert torch.equal(value, b.model.state_dict()[name]), name
    assert a.history["objective"] == b.history["objective"]


def left_over(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".*")]


# --- two runs, one folder ---------------------------------------------------------------------------------------------


@posix
def test_a_second_run_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "r"
    commands = [
        ["fit", "poisson_mixture", "--out", str(out), "--resume"],
        ["compare", "poisson_mixture", "--estimators", "em", "--out", str(out)],
        ["select", "poisson_mixture", "--grid", "num_components=1", "--out", str(out)],
    ]
    with other_process(out) as process:
        for command in commands:
            assert main(command) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert "another run's, which is at work" in line
        process.kill()
    with folders.held(out):  # the lock went with its process
        pass


@posix
def test_a_run_holds_its_folder_and_leaves_none_behind(tmp_path: Path) -> None:
    model, x = tiny()
    seen: list[str] = []

    def again(*_: Any) -> None:
        if not seen:
            with pytest.raises(ZooError, match="at work") as caught:
                zoo.fit(model, x, out=tmp_path / "a" / "r", resume=True, **OPTIONS)
            seen.append(str(caught.value))

    with pytest.raises(ZooError, match="cannot fit"):
        zoo.fit(model, x, out=tmp_path / "never", estimator="closed_form")
    assert not (tmp_path / "never").exists()
    zoo.fit(model, x, out=tmp_path / "a" / "r", progress=again, **OPTIONS)
    assert seen
    same(zoo.load(tmp_path / "a" / "r"), zoo.fit(model, x, **OPTIONS))


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    for name in (".new-r-abc", ".new-labels.csv-abc", "r/.new--abc"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "half").write_text("half")
    with folders.staged(tmp_path, "r") as mine, folders.new_folder(tmp_path / "r") as staging:
        (staging / "whole").write_text("whole")
        assert mine.is_dir()  # somebody is at work there
    with folders.written(tmp_path / "labels.csv") as file:
        file.write_text("0")
    assert left_over(tmp_path) == []
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["labels.csv", "r", "whole"]


@linux
def test_workers_leave_with_the_process_that_started_them() -> None:
    work = "import os, time; from zoo.core.parent import leave_with; leave_with(os.getppid()); time.sleep(60)"
    code = (
        "import subprocess, sys\n"
        f"worker = subprocess.Popen([sys.executable, '-c', {work!r}])\n"
        "print(worker.pid, flush=True)\nworker.wait()"
    )
    command = [sys.executable, "-S", "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True) as run:
        assert run.stdout is not None
        worker = Path("/proc", run.stdout.readline().strip())
        while b"leave_with" not in (worker / "cmdline").read_bytes():  # it is a copy of its parent for a moment
            time.sleep(0.01)
        time.sleep(1)
        assert worker.exists()
        run.kill()
    waited = time.monotonic() + 10
    while worker.exists() and (worker / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < waited
        time.sleep(0.05)


# --- disks ------------------------------------------------------------------------------------------------------------


@posix
def test_a_full_disk_stops_no_climb_and_loses_no_run(tmp_path: Path) -> None:
    model, x = tiny()
    whole = zoo.fit(model, x, **OPTIONS)
    out = tmp_path / "r"
    with pytest.MonkeyPatch.context() as patch:
        save, calls = Checkpoints.save, [0]

        def full_later(self: Checkpoints, *args: Any) -> None:
            calls[0] += 1
            with full_disk(100) if calls[0] > 2 else nullcontext():
                save(self, *args)

        patch.setattr(Checkpoints, "save", full_later)
        write = zoo.Fit.write

        def full_at_the_end(self: zoo.Fit, folder: Path) -> None:
            with full_disk(100):
                write(self, folder)

        patch.setattr(zoo.Fit, "write", full_at_the_end)
        with pytest.raises(ZooError, match=r"cannot take the result \(File too large\).*checkpoints are there: resume"):
            zoo.fit(model, x, out=out, checkpoint_every=5, **OPTIONS)
    assert calls[0] == 6
    assert not (out / "fit.json").exists()
    assert left_over(out) == []
    same(whole, zoo.fit(model, x, out=out, resume=True, **OPTIONS))
    assert not (out / "checkpoints").exists()


def test_a_folder_that_vanishes_is_made_again(tmp_path: Path) -> None:
    model, x = tiny()

    def remove(row: dict[str, Any], fraction: float | None) -> None:
        shutil.rmtree(tmp_path / "r", ignore_errors=True)

    fit = zoo.fit(model, x, out=tmp_path / "r", checkpoint_every=5, progress=remove, **OPTIONS)
    same(fit, zoo.load(tmp_path / "r"))
    assert not (tmp_path / "r/checkpoints").exists()


@linux
def test_where_nothing_can_be_written_one_line_says_so(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["fit", "poisson_mixture", "--out", "/proc/zoo/r"]) == 2
    assert "cannot be made" in capsys.readouterr().err
    with pytest.raises(ZooError, match="/proc/r' cannot be made"):
        zoo.fit(*tiny(), out="/proc/r", **OPTIONS)
    out = tmp_path / "r"
    begun = folders._begun

    def read_only(parent: Path, name: str) -> tuple[Path, int]:  # root may write anywhere
        if parent == out:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return begun(parent, name)

    monkeypatch.setattr(folders, "_begun", read_only)
    with pytest.raises(ZooError, match="Read-only"):
        zoo.fit(*tiny(), out=out, **OPTIONS)


@posix
def test_files_are_there_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    model, x = tiny()
    fit = zoo.fit(model, x, out="r", **OPTIONS)
    record = {name: path.read_bytes() for name in ("fit.json", "model.safetensors") for path in [tmp_path / "r" / name]}
    before = Path("before.png")
    before.write_text("a picture")
    (tmp_path / "r/run.json").write_text('{"command": "fit"}')
    np.save("x.npy", x["x"].numpy())
    with full_disk(60):
        for name in ("labels.csv", "labels.tsv", "labels.json", "labels.npy", "labels.parquet"):
            code = main(["predict", "r", "--data", "x.npy", "--proba", "--out", name])
            told = capsys.readouterr().err.splitlines()
            assert (code, len(told)) == (2, 1), (name, told)
            assert not Path(name).exists()
        assert main(["sample", "r", "-n", "50", "--out", "drawn.csv"]) == 2
        with pytest.raises(OSError, match="too large"):
            page.write(Figure(), before)
        with pytest.raises(ZooError, match="cannot take"):
            fit.save("again")
        with pytest.raises(ZooError, match="cannot take"):
            zoo.compare(model, x, estimators=["em"], gradients=False).save("compared")
    assert before.read_text() == "a picture"
    assert {name: (tmp_path / "r" / name).read_bytes() for name in record} == record
    assert sorted(path.name for path in tmp_path.iterdir()) == ["before.png", "r", "x.npy"]
    assert left_over(tmp_path) == []


@posix
def test_what_stands_beside_a_fit_is_no_condition_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fills up once the fit is there: its tables and pictures are missing, in a line."""
    told = "zoo.reporting.answer.latent_table"

    def full(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(told, full)
    monkeypatch.setattr("zoo.reporting.answer.write_fit_report", lambda *_, **__: ([], []))
    assert main(["fit", "poisson_mixture", "--set", "max_iter=5", "--out", str(tmp_path / "r")]) == 0
    assert "No space left on device" in capsys.readouterr().err
    assert (tmp_path / "r/parameters.csv").is_file()
    assert not (tmp_path / "r/posterior.csv").exists()


# --- many fits in one folder ------------------------------------------------------------------------------------------


class Killed(BaseException):
    """In place of a signal that nobody can catch."""


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ("comparison", "compare --estimators em,eg --seeds 2 --set max_epochs=3 --no-gradients"),
        ("selection", "select --grid num_components=1..2 --folds 2"),
    ],
)
def test_finished_fits_are_not_made_again(
    result: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A comparison, or a selection, ends before its last fit is kept, and then before all is; it is gone on with."""
    monkeypatch.chdir(tmp_path)
    published, stops, publish = list[Path](), list[int](), RunFolder.publish

    def publishing(self: RunFolder, *rest: Any, **more: Any) -> None:
        if len(published) in stops:
            stops.remove(len(published))
            raise Killed
        publish(self, *rest, **more)
        published.append(self.path)

    monkeypatch.setattr(RunFolder, "publish", publishing)
    verb, *options = words.split()
    command = [verb, "poisson_mixture", *options, "--set", "max_iter=5", "--out"]
    assert main([*command, "whole"]) == 0
    assert len(published) > 4
    stops[:] = [len(published) - 2, len(published) - 1]
    expected, published[:] = [Path("r", path.relative_to("whole")) for path in published], []
    for more in ((), ("--resume",)):
        with pytest.raises(Killed):
            main([*command, "r", *more])
    capsys.readouterr()
    assert main([*command, "r"]) == 2
    assert "Go on with --resume" in capsys.readouterr().err
    assert main([*command, "r", "--resume", "--set", "tol=0.5"]) == 2
    assert "holds another run" in capsys.readouterr().err
    assert main([*command, "r", "--resume"]) == 0
    assert published == expected  # each once
    assert sorted(path.name for path in Path("r").iterdir()) == sorted(path.name for path in Path("whole").iterdir())
    assert left_over(Path("r")) == []
    assert not Path("r/checkpoints").exists()
    rows = [json.loads(Path(name, f"{result}.json").read_text())["rows"] for name in ("whole", "r")]
    for row in (*rows[0], *rows[1]):
        del row["seconds"]
        row.pop("peak_memory_mb", None)
    assert rows[0] == rows[1]
    capsys.readouterr()
    assert main([*command, "r", "--resume"]) == 0
    assert f"{result}.json" in capsys.readouterr().err
    assert published == expected


def test_an_interrupted_comparison_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C in its second fit: what was reached is its result, and then that of all."""
    monkeypatch.chdir(tmp_path)
    options = ["optimizer=adam", "max_epochs=9", "max_iter=5"]
    command = ["compare", "poisson_mixture", "--estimators", "em,eg", "--no-gradients"]
    command += [word for option in options for word in ("--set", option)]
    assert main([*command, "--out", "whole"]) == 0
    with monkeypatch.context() as patch:
        due = Checkpoints.due

        def interrupted(self: Checkpoints) -> bool:
            if self.folder.parent.name == "eg-0":
                raise KeyboardInterrupt
            return due(self)

        patch.setattr(Checkpoints, "due", interrupted)
        assert main([*command, "--out", "r"]) == 130
    found = [json.loads(Path("r/comparison.json").read_text())["rows"]]
    assert [row["status"] for row in found[0]][1:] == ["interrupted"]
    capsys.readouterr()
    assert main([*command, "--out", "r", "--resume"]) == 0
    found = [json.loads(Path(name, "comparison.json").read_text())["rows"] for name in ("r", "whole")]
    for row in (*found[0], *found[1]):
        del row["seconds"], row["peak_memory_mb"]
    assert found[0] == found[1]
    assert not Path("r/checkpoints").exists()


# --- what changed meanwhile -------------------------------------------------------------------------------------------


def test_data_that_changed_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = np.random.default_rng(0).poisson(4.0, (60, 2))
    np.savetxt("counts.csv", rows, fmt="%d", delimiter=",", header="a,b", comments="")
    command = ["fit", "poisson_mixture", "--data", "counts.csv", "--estimator", "online_em", "--out", "r"]
    with monkeypatch.context() as patch:
        save = Checkpoints.save

        def stopped(self: Checkpoints, *args: Any) -> None:
            save(self, *args)
            raise KeyboardInterrupt

        patch.setattr(Checkpoints, "save", stopped)
        assert main([*command, "--checkpoint-every", "5"]) == 130
    capsys.readouterr()
    text = Path("counts.csv").read_text()
    Path("counts.csv").write_text(text.replace("\n4,", "\n5,", 1))
    assert main([*command, "--resume"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "of data" in line


# --- nothing that is read is run --------------------------------------------------------------------------------------


def stop_at(row: int) -> Any:
    """A callback that interrupts when so many rows have been written."""
    rows: list[Any] = []

    def callback(*told: Any) -> None:
        rows.append(told)
        if len(rows) == row:
            raise KeyboardInterrupt

    return callback


class Bomb:
    def __reduce__(self) -> Any:
        return os.mkdir, ("went-off",)


def test_a_pickle_in_place_of_a_checkpoint_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its checksums are right: whoever put it there could write them."""
    monkeypatch.chdir(tmp_path)
    model, x = tiny()
    bombs = {"pickle": pickle.dumps(Bomb())}
    torch.save(Bomb(), "bomb.pt")
    bombs["torch"] = Path("bomb.pt").read_bytes()
    for name, bomb in bombs.items():
        with monkeypatch.context() as patch:
            patch.setattr(zoo.storage.checkpoint, "write_tensors", lambda _, file, bomb=bomb: file.write_bytes(bomb))
            patch.setattr(zoo.storage.checkpoint, "_KEPT", 1)

            zoo.fit(model, x, out=name, checkpoint_every=3, progress=stop_at(9), **OPTIONS)
        with pytest.raises(ZooError, match=r"is damaged .*no whole one"):
            zoo.fit(model, x, out=name, resume=True, **OPTIONS)
        Path(name, "model.safetensors").write_bytes(bomb)
        with pytest.raises(ZooError, match=r"model\.safetensors .* is damaged"):
            zoo.load(name)
    assert not Path("went-off").exists()


#: Calls that can run what they read or unpack it wherever it says; and the files that may, of what other processes of
#: the same run hand them.
RUNNING = {
    "pickle.load", "pickle.loads", "torch.load", "joblib.load", "read_pickle", "cloudpickle.load", "eval", "exec",
    "extractall", "extract", "unpack_archive", "marshal.loads", "shelve.open", "Unpickler", "yaml.load",
}  # fmt: skip
BETWEEN_PROCESSES = {"zoo/core/parcels.py", "zoo/core/ranks.py"}


def called(node: ast.Call) -> set[str]:
    function = node.func
    if isinstance(function, ast.Name):
        return {function.id}
    if isinstance(function, ast.Attribute):
        owner = function.value.id if isinstance(function.value, ast.Name) else "."
        # `model.eval()` and `pattern.exec()` are no builtins
        return {f"{owner}.{function.attr}"} | ({function.attr} - {"eval", "exec"})
    return set()


def test_nothing_that_is_read_is_run_or_unpacked() -> None:
    found = []
    for path in (ROOT / "zoo").rglob("*.py"):
        name = path.relative_to(ROOT).as_posix()
        text = path.read_text(encoding="utf-8")
        if not any(word.rpartition(".")[2] in text for word in {*RUNNING, "np.load"}):
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call):
                what = called(node)
                safe = any(k.arg == "allow_pickle" and ast.literal_eval(k.value) is False for k in node.keywords)
                if (what & RUNNING and name not in BETWEEN_PROCESSES) or ("np.load" in what and not safe):
                    found.append(f"{name}:{node.lineno}: {ast.unparse(node)}")
            bases = node.bases if isinstance(node, ast.ClassDef) else []
            if any("Unpickler" in ast.unparse(base) for base in bases) and name not in BETWEEN_PROCESSES:
                found.append(f"{name}:{node.lineno}")
    assert found == []


def test_names_in_an_archive_lead_nowhere(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    file, rows = io.BytesIO(), np.arange(6.0).reshape(3, 2)
    np.save(file, rows)
    with zipfile.ZipFile(folder / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../outside.npy", file.getvalue())
    assert np.array_equal(mapped_npz(folder / "x.npz")["outside"].raw(slice(None)), rows)
    assert np.array_equal(zoo.load_data(folder / "x.npz"), rows)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b", "x.npz"]


# --- downloads --------------------------------------------------------------------------------------------------------


def test_only_encrypted_downloads_are_taken(tmp_path: Path) -> None:
    from zoo.data import _sets
    from zoo.data._fetch import File

    def files(value: Any) -> Iterator[File]:
        if isinstance(value, File):
            yield value
        elif isinstance(value, dict):
            for part in value.values():
                yield from files(part)
        elif isinstance(value, (tuple, list)):
            for part in value:
                yield from files(part)

    every = [file for each in _sets.DATA_SETS.values() for file in files(dict(each.files))]
    assert every
    for file in every:
        assert all(url.startswith("https://") for url in file.urls)
        assert len(file.sha256) == 64
        assert ".." not in Path(file.path).parts
        assert not Path(file.path).is_absolute()
    plain = File("lynx.csv", "0" * 64, 3, ("http://127.0.0.1:9/lynx.csv",))
    with pytest.raises(ZooError, match="no https address"):
        _fetch._download("lynx", [plain], tmp_path, "")
    for url, location in (("http://a", ""), ("https://a", "http://a/b")):
        with pytest.raises(ValueError, match="expected https, got http://"):
            _fetch._refuse_plain(SimpleNamespace(url=url, headers={"location": location}))
    _fetch._refuse_plain(SimpleNamespace(url="https://a", headers={"location": "/b"}))
