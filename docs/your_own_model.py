"""The page "Your own model": ``python docs/your_own_model.py`` prints ``docs/your_own_model.md`` from the contract."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

from wording import plain

from zoo.core import contract
from zoo.core.contract import LatentVariableModel
from zoo.core.offers import ARGUMENTS, OFFERS

#: What the library asks of every model, and a class leaves as it is.
INNER = {
    "adopt", "create", "guide_knows", "has_guide", "label", "of_program", "prepare", "quantity", "saved_as", "stays",
}  # fmt: skip
TARGET = Path(__file__).resolve().parent / "your_own_model.md"

HEAD = """<!-- Printed by docs/your_own_model.py. -->
# Your own model

A function `model(x)` with Pyro's `sample` and `param` goes to `zoo.fit` as it is, with a guide or without. A class is
for a model that is to be kept: it has sizes, and is saved and loaded by them.

    import pyro, torch, zoo
    import pyro.distributions as dist
    from torch.distributions import constraints
    from zoo.core.contract import parameter

    class Signs(zoo.LatentVariableModel):
        def __init__(self, share: float = 0.5) -> None:
            super().__init__()
            self.share = parameter(torch.tensor(share, dtype=self.dtype), constraints.unit_interval)

        def model(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Bernoulli(self.share))
                pyro.sample("x", dist.Normal(4 * z, 1.0), obs=x)

    fit = zoo.fit(Signs(), torch.tensor([0.3, -1.0, 4.2, 3.9, 4.1]))
    fit.save("runs/signs")
    zoo.load("runs/signs", model=Signs)         # on the shell: zoo show runs/signs --model signs.py:Signs

Its parameters are in `self.dtype`, double precision unless the class says `dtype = torch.float32`; constants that meet
them in the program are made in the dtype of the data: `torch.ones(2, dtype=x.dtype)`. A class without sizes needs no
`__init__`.

This is enough for `eg` and `auto_em`, which sum over `z`. Each method of the first table that it has besides unlocks
more. One that it inherits does not count where it was written for another program than its own; nor does one that an
instance withholds: `withholds()` gives the reason, which the estimators that refuse the model print.

## What a model may offer

`x` stands for all data that the programs take, what is given first.

| method | answers | written for |
|---|---|---|
"""

NAMES = """
## What their arguments are

| argument | is, in every method |
|---|---|
"""

ATTRIBUTES = """
## What it may say of itself

| attribute | says | unless said |
|---|---|---|
"""

METHODS = """
## What it may do in its own way

| method | does, unless it is overridden |
|---|---|
"""


def attributes() -> list[tuple[str, str, str]]:
    """The declared class attributes of the base class: name, comment, default."""
    source = inspect.getsource(contract.LatentVariableModel)
    head = source[source.index('"""\n\n') : source.index("    def __init_subclass__")]
    rows, comment = [], ""
    for line in head.splitlines():
        if match := re.match(r"    #: ?(.*)", line):
            comment = f"{comment} {match[1]}".strip()
        elif match := re.match(r"    (\w+): .*?(?: = (.*))?$", line):
            rows.append((match[1], comment, match[2] or ""))
            comment = ""
    return rows


def methods() -> list[tuple[str, str]]:
    """The public methods of the base class and the first sentence of what each says."""
    rows = []
    for name, value in vars(LatentVariableModel).items():
        made: Any = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if (
            name.startswith("_")
            or name in {"model", "guide", *INNER}
            or not inspect.isfunction(made)
            or not made.__doc__
        ):
            continue
        about = " ".join(inspect.cleandoc(made.__doc__).split("\n\n")[0].split())
        takes = [p for p in inspect.signature(made).parameters if p not in ("self", "cls")]
        rows.append((name if isinstance(value, property) else f"{name}({', '.join(takes)})", about))
    return sorted(rows)


def page() -> str:
    """The text of the page."""
    offered = [f"| `{n}({o.takes})` | {plain(o.says)} | {', '.join(o.follows)} |" for n, o in OFFERS.items()]
    said = [
        f"| `{name}` | {plain(says)} | {f'`{default}`' if default else ''} |" for name, says, default in attributes()
    ]
    done = [f"| `{name}` | {plain(about)} |" for name, about in methods()]
    named = [f"| `{name}` | {plain(about)} |" for name, about in ARGUMENTS.items()]
    parts = {HEAD: offered, NAMES: named, ATTRIBUTES: said, METHODS: done}
    return "".join(f"{head}{chr(10).join(rows)}\n" for head, rows in parts.items())


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="utf-8")
    print(f"wrote {TARGET.name}")
