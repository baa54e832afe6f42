"""Recorded times, read: what ``zoo bench NAME --out`` left in results/, as lines of a table.

The site's page of speed and the README's few lines are both made of these.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["TITLES", "beside", "lines", "record"]

RESULTS = Path(__file__).resolve().parent.parent / "results"
#: A line of a table: what was timed, beside whom, how often their time holds ours.
Line = tuple[str, str, float]


def record(name: str) -> dict[str, Any]:
    """A record whole: the command, the machine, the results."""
    found: dict[str, Any] = json.loads((RESULTS / f"bench_{name}.json").read_text(encoding="utf-8"))
    return found


def lines(name: str) -> list[Line]:
    """A record's lines."""
    return TITLES[name][1](record(name)["results"][name])


def beside(name: str) -> dict[str, dict[str, float]]:
    """By what was timed and beside whom, the ratio."""
    found: dict[str, dict[str, float]] = {}
    for what, who, ratio in lines(name):
        found.setdefault(what, {})[who] = ratio
    return found


def gaussian_mixture(found: dict[str, Any]) -> list[Line]:
    what = f"one EM iteration, {found['rows']:,} × {found['features']}, {found['components']} full components"
    return _systems(what, found["systems"])


def hmm(found: dict[str, Any]) -> list[Line]:
    lines = []
    for part in found["em"]:
        lines += _systems(f"one EM iteration, {_shape(part['shape'])}", part["systems"])
    gradient = found["gradient"]
    return lines + _systems(f"value and gradient, {_shape(gradient['shape'])}", gradient["systems"])


def small(found: dict[str, Any]) -> list[Line]:
    gains = found["climbs"]["times_faster_than_adam"]
    lines = [(f"`{name}` on iris, one start", "itself by Adam", gain) for name, gain in gains.items()]
    for name, systems in found["restarts"].items():
        lines += _systems(f"restarts, {name}", systems)
    lines.append(("a step of `svi`, 272 × 2", "pyro.infer.SVI", found["steps"]["times_faster_than_pyro"]))
    busy = found["busy"]
    for load, where in (("alone", "alone"), ("busy", f"beside {busy['processes']} busy processes")):
        lines += _systems(f"EM, {busy['rows']:,} × 16, 16 full, {where}", busy[load]["gaussian_mixture"])
        for shape, systems in busy[load]["hmm"].items():
            sizes = [int(n) for n in re.findall(r"\d+", shape)]
            lines += _systems(f"EM of an HMM, {_shape(sizes)}, {where}", systems)
    return lines


def vae(found: dict[str, Any]) -> list[Line]:
    layers = "-".join(map(str, found["layers"]))
    what = f"a training step, {layers}, batch {found['batch_size']}"
    systems = found["systems"].items()
    return [(what, name, row["ratio_to_ours"]) for name, row in systems if name != "zoo svi"]


def ctc(found: dict[str, Any]) -> list[Line]:
    return [
        (
            f"forward and backward, {r['frames']} frames × {r['items']}, {r['dtype']}",
            "torch's ctc_loss",
            r["times_faster"],
        )
        for r in found["rows"]
    ]


def pcfg(found: dict[str, Any]) -> list[Line]:
    return [
        (f"forward and backward, {r['items']} sentences of {r['words']} words", "torch-struct", r["times_faster"])
        for r in found["rows"]
        if "times_faster" in r
    ]


def sequences(found: dict[str, Any]) -> list[Line]:
    lines = [
        (f"a step of a {r['model']} of {r['states']} states, {r['items']} × {r['steps']}", "torch", r["times_faster"])
        for r in found["rows"]
        if "times_faster" in r
    ]
    return lines + [
        (row["what"], "the same Pyro programs", 1 / row["ratio"]) for row in found["deep_markov"] if "ratio" in row
    ]


def rbm(found: dict[str, Any]) -> list[Line]:
    what = f"`pcd`, images a second, {found['data']}"
    return [(what, name.replace("_", " "), ratio) for name, ratio in found["times_faster_than"].items()]


def ranks(found: dict[str, Any]) -> list[Line]:
    what, faster = f"{found['rows']:,} × 16, two processes, a core each", found["faster"]
    parts = {"fit": "a fit", "iterations": "its iterations", "processor": "processor time of the busier process"}
    return [(f"{part}, {what}", "one process", faster[name]) for name, part in parts.items()]


TITLES: dict[str, tuple[str, Callable[[dict[str, Any]], list[Line]]]] = {
    "small": ("Small data, many starts, busy machines", small),
    "gaussian_mixture": ("Gaussian mixtures", gaussian_mixture),
    "hmm": ("Hidden Markov models", hmm),
    "vae": ("Variational autoencoders", vae),
    "sequences": ("Neural and deep sequence models", sequences),
    "ctc": ("Alignments", ctc),
    "pcfg": ("Grammars", pcfg),
    "rbm": ("Boltzmann machines", rbm),
    "ranks": ("Two processes", ranks),
}


def _shape(shape: list[int]) -> str:
    return " × ".join(f"{n:,}" for n in shape)


def _systems(what: str, systems: dict[str, dict[str, Any]]) -> list[Line]:
    return [(what, name, row["ratio"]) for name, row in systems.items() if name not in ("ours", "zoo")]
