"""Draws the small files of this folder, so that the README's lines can be typed as they stand: ``python draw.py``.

people.csv     heights and weights of 240 people of two groups, with an id and the group
trials.csv     twelve subjects' walks, a row a time step: slow and straight, or fast and turning
counts.csv     107 counts that switch between three rates
heights.csv    children's heights and weights (y1, y2) given age and the father's height
sentences.txt  300 sentences, a line each, of a grammar of a dozen words; begun.txt has three that are not finished
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

HERE = Path(__file__).parent


def people(rng: np.random.Generator) -> str:
    tall = rng.random(240) < 0.5
    height = np.where(tall, 178, 165) + 6 * rng.normal(size=240)
    weight = np.where(tall, 80, 62) + 0.6 * (height - np.where(tall, 178, 165)) + 7 * rng.normal(size=240)
    rows = (f"{i},{h:.1f},{w:.1f},{'ab'[t]}" for i, (h, w, t) in enumerate(zip(height, weight, 1 * tall, strict=True)))
    return "id,height_cm,weight_kg,group\n" + "\n".join(rows) + "\n"


def trials(rng: np.random.Generator) -> str:
    lines = ["subject,t,speed,angle"]
    for subject in range(12):
        state = 0
        for t in range(int(rng.integers(20, 40))):
            state = state if rng.random() < 0.9 else 1 - state
            speed, angle = rng.normal([0.4, 1.5][state], 0.15), rng.normal(0, [0.1, 0.8][state])
            lines.append(f"s{subject},{t},{speed:.3f},{angle:.3f}")
    return "\n".join(lines) + "\n"


def counts(rng: np.random.Generator) -> str:
    state, lines = 0, ["n"]
    for _ in range(107):
        state = state if rng.random() < 0.9 else int(rng.integers(3))
        lines.append(str(rng.poisson([3, 11, 24][state])))
    return "\n".join(lines) + "\n"


def heights(rng: np.random.Generator) -> str:
    age, father = rng.uniform(3, 15, 200), rng.normal(178, 7, 200)
    height = 80 + 6 * age + 0.3 * (father - 178) + 4 * rng.normal(size=200)
    weight = 8 + 2.4 * age + 0.3 * (height - 80 - 6 * age) + 2 * rng.normal(size=200)
    rows = (f"{a:.1f},{f:.0f},{h:.1f},{w:.1f}" for a, f, h, w in zip(age, father, height, weight, strict=True))
    return "age,father_cm,y1,y2\n" + "\n".join(rows) + "\n"


def sentences(rng: np.random.Generator) -> str:
    parts = [
        ["the", "a"],
        ["small", "old", ""],
        ["dog", "cat", "child"],
        ["sees", "hears"],
        ["the", "a"],
        ["bird", "moon"],
    ]
    lines = (" ".join(filter(None, (str(rng.choice(words)) for words in parts))) for _ in range(300))
    return "\n".join(lines) + "\n"


FILES = {
    "people.csv": people,
    "trials.csv": trials,
    "counts.csv": counts,
    "heights.csv": heights,
    "sentences.txt": sentences,
    "begun.txt": lambda rng: "the small\na cat\nthe child sees\n",
}


if __name__ == "__main__":
    for name, draw in FILES.items():
        (HERE / name).write_text(draw(np.random.default_rng(0)), encoding="utf-8")
        print(f"wrote {name}")
