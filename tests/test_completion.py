"""Tab in real shells: the script that `zoo --install-completion` writes is loaded by each as its users have it."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
#: Typed, and what stands in the line after Tab; the last word is a file's, with a blank.
TABS = {
    "zoo fi": "zoo fit ",
    "zoo fit gaussian_mixture --data iri": "--data iris ",
    "zoo compare vae --estimators em,st_": "em,st_gumbel",
    "zoo fit vae --data my": r"my\ data.csv",
}
#: What a terminal is told besides text: titles, colours, moves of the cursor.
CONTROL = re.compile(r"\x1b\][^\x07]*\x07|\x1b[\[(][0-9;?]*[A-Za-z]|\x1b[=>]|\r")


#: A process that makes its input the terminal of its session, and becomes what it is told to.
BECOME = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp(sys.argv[1], sys.argv[1:])"


@contextlib.contextmanager
def terminal(shell: str, home: Path, environment: dict[str, str]) -> Iterator[int]:
    ours, theirs = pty.openpty()
    ends: dict[str, Any] = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    command = [sys.executable, "-c", BECOME, shell, "-i"]
    child = subprocess.Popen(command, cwd=home, env=environment, start_new_session=True, **ends)
    os.close(theirs)
    try:
        yield ours
    finally:
        child.kill()
        child.wait()
        os.close(ours)


def read_until(terminal: int, wanted: str, seconds: float = 30.0) -> str:
    seen, end = "", time.monotonic() + seconds
    while wanted not in seen and time.monotonic() < end:
        if select.select([terminal], [], [], 0.2)[0]:
            seen = CONTROL.sub("", seen + os.read(terminal, 65536).decode(errors="replace"))
    return seen


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_tab_completes(shell: str, tmp_path: Path) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    command = tmp_path / "bin" / "zoo"
    command.parent.mkdir()
    command.write_text(f"#!{sys.executable}\nimport sys\nfrom zoo.cli import main\nsys.exit(main())\n")
    command.chmod(0o755)
    home = tmp_path / "home"
    home.mkdir()
    (home / "my data.csv").touch()
    environment = {
        "HOME": str(home), "XDG_CONFIG_HOME": str(home / ".config"), "PATH": f"{command.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT), "SHELL": program, "TERM": "xterm", "LANG": "C.UTF-8", "ZDOTDIR": str(home),
    }  # fmt: skip
    done = subprocess.run(
        [program, "-c", "zoo --install-completion; true"], env=environment, capture_output=True, text=True, cwd=home
    )
    assert "completion installed" in done.stdout, done.stderr
    with terminal(program, home, environment) as session:
        os.write(session, b"echo rea''dy\n")
        assert "ready" in read_until(session, "\nready")
        for typed, completed in TABS.items():
            os.write(session, f"{typed}\t".encode())
            seen = read_until(session, completed)
            assert completed in seen, f"{typed!r} became {seen!r}"
            os.write(session, b"\x15")  # the line is cleared
