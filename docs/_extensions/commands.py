"""The page of the command line: every command's own help, and real output of the lines that the README has."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
#: What is run, in this order, in an empty folder beside examples/; long climbs are cut short.
SESSION = """
zoo fit gaussian_mixture --data iris --set num_components=3 --out runs/a
zoo show runs/a
zoo predict runs/a --data iris --out labels.csv --proba
zoo evaluate runs/a --data iris
zoo sample runs/a -n 5 --out samples.csv
zoo compare gaussian_mixture --data iris --set num_components=3 --estimators em,eg,svi --no-gradients
zoo select poisson_hmm --data earthquakes --grid num_states=1..4
zoo fit gaussian_hmm --data examples/data/trials.csv --sequence subject --time t --set num_states=2
zoo explain examples/data/my_model.py --data examples/data/counts.csv
zoo fit gaussian_mixtur --data iris
""".strip().splitlines()


def output(line: str, folder: Path) -> str:
    """What a line prints, both streams, as a terminal of 92 columns would wrap it."""
    words = shlex.split(line)
    env = {**os.environ, "COLUMNS": "92", "NO_COLOR": "1", "TERM": "dumb", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "zoo", *words[1:]], cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    text = (done.stdout + done.stderr).rstrip().replace(str(folder) + "/", "")
    return text if done.returncode == 0 else f"{text}\n(exit code {done.returncode})"


def pages() -> dict[str, str]:
    """By their places, the texts."""
    target = ROOT / "docs" / "commands.md"
    stamp = f"<!-- of {_newest()} -->"
    if target.exists() and stamp in target.read_text(encoding="utf-8"):  # half a minute saved at every later build
        return {}
    from zoo.cli.entry import app

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "examples").symlink_to(ROOT / "examples")
        parts = [
            f"{stamp}\n# The command line\n\nEverything below was printed when this page was built.\n\n## A session\n"
        ]
        parts += [
            f"```{{code-block}} text\n:class: printed\n\n$ {line}\n{output(line, folder)}\n```\n" for line in SESSION
        ]
        parts.append("A mistake gets one line and exit code 2.\n\n## Every command\n")
        for name in (command.callback.__name__ for command in app.registered_commands if command.callback):
            parts.append(f"### zoo {name}\n\n```text\n{output(f'zoo {name} --help', folder)}\n```\n")
    return {"commands.md": "\n".join(parts)}


def _newest() -> int:
    """When the package was last changed."""
    return int(max(p.stat().st_mtime for p in (ROOT / "zoo").rglob("*.py")))
