"""Pictures of models of images with a latent code: reconstructions, draws, the manifold, one unit at a time.

Everything is read off the Pyro programs: sites are conditioned, and the mean of the observed one is shown. What is
drawn depends on which sites there are, never on which model it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import constraints

from zoo.core import program
from zoo.core.contract import LatentVariableModel, lacks, prepared, read_by
from zoo.core.data import Data, call, map_tensors, num_data, take, tensors
from zoo.core.isolation import isolated, kept_generators
from zoo.core.sites import sample_sites, unwrapped
from zoo.errors import ZooError
from zoo.reporting.page import Array, image_shape
from zoo.reporting.samples import plot_sheet
from zoo.reporting.subjects import Fitted

__all__ = ["draw", "inputs", "plot_latents"]

#: Images across a picture of reconstructions, or of samples.
ACROSS = 10
#: Units whose traversals are shown, most active first; clusters whose samples are.
MAX_UNITS, MAX_CLUSTERS = 12, 20
#: Data whose codes say which units are active, draws of each code, and draws from the prior.
CODED, CODE_DRAWS, PRIOR_DRAWS = 512, 8, 4000


def plot_latents(fit: Fitted, x: Any, folder: str | Path, *, dark: bool = False) -> list[Path]:
    """Write the pictures that a fit of images has into a folder.

    reconstructions.png  data above E[x | z], z drawn from the guide
    samples.png          E[x | z], z from the prior; a row a cluster where the first latent is one label
    manifold.png         E[x | z] over quantiles of the prior, of both units or of the two most active
    traversals.png       the code of one datum with each unit varied in turn, most active first
    completions.png      instead of all these for p(y | x): what is given, the whole, and E[y | x, z] for draws of z

    Args:
        x: the data, as the model takes them.

    Returns:
        What was written: nothing where the data are no images, or the model has no guide or no latent.
    """
    model = fit.model
    x = read_by(model, x)
    if not model.has_guide or (lacks(model, "from_pixels") and lacks(model, "posterior_means")):
        return []
    cut = isinstance(x, Tensor)
    chosen = torch.randperm(num_data(x), generator=torch.Generator().manual_seed(0))[:CODED]
    x = prepared(model, take(x, chosen.to(tensors(x)[0].device)))
    view = _view(model, x, cut, dark)
    if view is None:
        return []
    folder = Path(folder)
    with isolated(fit.seed), torch.no_grad():
        if view.pair is not None:
            return [_completions(view, folder / "completions.png")]
        made = [
            _reconstructions(view, folder / "reconstructions.png"),
            _samples(view, folder / "samples.png"),
        ]
        code = _code(view)
        if code is not None:
            if len(code.order) > 1:
                made.append(_manifold(view, code, folder / "manifold.png"))
            made.append(_traversals(view, code, folder / "traversals.png"))
    return made


def draw(fit: Fitted, n: int, seed: int, *, x: Any = None, means: bool = False) -> Tensor:
    """``n`` data from p(x, z) for a picture or a table, (n, D): what is drawn, or its mean given z.

    Args:
        x: data; for p(y | x) rows are taken from them, and x and y put together where the model cut images in two.
        means: E[x | z] rather than x: without the noise of single pixels.

    Raises:
        ZooError: several observed sites; none whose mean is known.
    """
    model = fit.model
    with isolated(seed), torch.no_grad():
        if x is None:
            rows = map_tensors(lambda t: t[:1].expand(n, *t.shape[1:]) if t.dim() else t, fit.template)
        else:
            x = read_by(model, x)
            rows = prepared(model, _taken(x, n))
        trace = poutine.trace(lambda: call(poutine.uncondition(model.model), rows)).get_trace()
        observed = [s for s in sample_sites(trace).values() if s["infer"].get("was_observed")]
        if len(observed) != 1:
            raise ZooError(f"sample: expected one observed variable, got {len(observed)}. Use fit.sample in Python.")
        drawn: Tensor = _unit(model) * (_expected(observed[0]["fn"]) if means else observed[0]["value"])
        if not isinstance(x, Tensor) or not model.fields.given:  # nothing was cut
            return drawn
        given = tensors(rows)[0]
        first, second = _pixels_of_pair(model, tensors(rows), True)
        if not len(first):
            return drawn
        whole = drawn.new_empty(n, len(first) + len(second))
        whole[:, first.to(drawn.device)] = given.to(drawn.dtype)
        whole[:, second.to(drawn.device)] = drawn
        return whole


def inputs(fit: Fitted, n: int, seed: int, x: Any) -> tuple[tuple[str, ...], Tensor] | None:
    """What is given at the rows that :func:`draw` takes from x, by columns' names, (n, D_x) as it stands there; of
    sequences which they are, numbered from 1. None where x is one array."""
    if not isinstance(x, (tuple, dict)):
        return None
    with isolated(seed):
        whole = read_by(fit.model, x)
        chosen = torch.randint(num_data(whole), (n,))
    given = list(fit.model.fields.given_of(take(whole, chosen.to(tensors(whole)[0].device))).values())
    if len(given) == 1 and isinstance(given[0], Tensor) and given[0].dim() == 2:
        names = fit.model.entries("feature") or [f"x{i}" for i in range(given[0].shape[1])]
        return tuple(names), given[0]
    return ("row",), (chosen + 1).unsqueeze(1)


def _taken(x: Data, n: int) -> Data:
    """Rows of x, by torch's generator."""
    return take(x, torch.randint(num_data(x), (n,)).to(tensors(x)[0].device))


@dataclass(frozen=True)
class _View:
    """A model, some data, and how its observed site is an image.

    Attributes:
        x: at most ``CODED`` rows, as the model takes them.
        observed: the site that is the image. latents: the others, in program order.
        shape: (height, width). limits: values shown as black and white.
        pair: of p(y | x), the pixels of x and of y in the image (empty where x is no part of it); None for p(x).
        unit: what the data are divided by to be in the units of the observed site. dark: whether on dark paper.
    """

    model: LatentVariableModel
    x: Data
    observed: str
    latents: list[str]
    shape: tuple[int, int]
    limits: tuple[float, float]
    pair: tuple[Tensor, Tensor] | None
    unit: float
    dark: bool

    def rows(self, count: int) -> Data:
        """So many rows in the shape of the data; p(x) does not read them."""
        return map_tensors(lambda t: t[:1].expand(count, *t.shape[1:]), self.x)

    def decode(self, values: dict[str, Tensor], x: Data | None = None, means: bool = False) -> Tensor:
        """The mean of the observed site, (N, D), with these latents; the others drawn, or at their mean."""
        count = len(next(iter(values.values()))) if values else 0
        x = self.rows(count) if x is None else x
        program_ = poutine.condition(self.model.model, data=values)
        with _Means(means):
            return _expected(_nodes(program_, x)[self.observed]["fn"])

    def prior(self, count: int, x: Data | None = None) -> dict[str, Tensor]:
        """Draws of the latents from the prior, by site."""
        nodes = _nodes(self.model.model, self.rows(count) if x is None else x)
        return {name: nodes[name]["value"] for name in self.latents}

    def infer(self, x: Data) -> dict[str, Any]:
        """The sites of a run of the guide."""
        return {name: site for name, site in _nodes(self.model.guide, x).items() if site["type"] == "sample"}


def _nodes(program_: Any, x: Data) -> Any:
    """The sites of a run of a program, by name."""
    return poutine.trace(lambda: call(program_, x)).get_trace().nodes


class _Means(Messenger):
    """Continuous latents that are not given take their mean."""

    def __init__(self, active: bool) -> None:
        super().__init__()
        self.active = active

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if self.active and not msg["done"] and not msg["is_observed"] and msg["fn"].has_rsample:
            msg["value"], msg["done"] = msg["fn"].mean, True


def _view(model: LatentVariableModel, x: Data, cut: bool, dark: bool) -> _View | None:
    with torch.no_grad(), kept_generators():
        found = program.sites(model, x)
        nodes = _nodes(model.model, take(x, slice(0, 2)))
    observed = [site.name for site in found if site.role == "observed"]
    latents = [site.name for site in found if site.role == "latent" and nodes[site.name]["value"].numel()]
    parts = tensors(x)
    if len(observed) != 1 or not latents or len(parts) > 2 or parts[-1].dim() != 2:
        return None
    unit = _unit(model)
    target = parts[-1] / unit
    support = unwrapped(nodes[observed[0]]["fn"]).support
    shares = support in (constraints.boolean, constraints.unit_interval)
    limits = (0.0, 1.0) if shares else (float(target.min()), float(target.max()))
    pair = _pixels_of_pair(model, parts, cut) if model.fields.given else None
    size = target.shape[1] if pair is None else sum(len(part) for part in pair)
    shape = image_shape(size)
    if shape is None:
        return None
    return _View(model, x, observed[0], latents, shape, limits, pair, unit, dark)


def _unit(model: LatentVariableModel) -> float:
    return float(model.from_pixels(torch.ones(()))) if lacks(model, "from_pixels") is None else 1.0


def _pixels_of_pair(model: LatentVariableModel, parts: Sequence[Tensor], cut: bool) -> tuple[Tensor, Tensor]:
    """Which pixels of an image x and y are: the model cuts images with one white pixel each, and shows where it went.

    Where it did not cut the data, x is something else, and y is the whole image.
    """
    given, target = (part.shape[1] for part in parts)
    apart = torch.zeros(0, dtype=torch.long), torch.arange(target)
    if not cut:
        return apart
    try:
        halves = model.validate(_unit(model) * torch.eye(given + target, dtype=parts[0].dtype))
    except ZooError:
        return apart
    first, second = (part.argmax(0) for part in tensors(halves))
    return first, second


def _expected(fn: Any) -> Tensor:
    fn = unwrapped(fn)
    if type(fn).__name__.startswith("Categorical"):
        return fn.logits.argmax(-1).to(fn.logits)
    try:
        mean: Tensor = fn.mean
    except NotImplementedError:
        raise ZooError(f"sample: the mean of a {type(fn).__name__} is not known. Leave out --mean.") from None
    return mean


def _images(view: _View, values: Tensor) -> Array:
    """(..., D) as (..., height, width), 0 for black and 1 for white."""
    low, high = view.limits
    grey = ((values.double() - low) / max(high - low, 1e-12)).clamp(0, 1)
    return np.asarray(grey.reshape(*values.shape[:-1], *view.shape).cpu().numpy())


# --- pictures ---------------------------------------------------------------------------------------------------------


def _reconstructions(view: _View, path: Path) -> Path:
    count = min(2 * ACROSS, num_data(view.x))
    x = take(view.x, slice(0, count))
    drawn = {name: site["value"] for name, site in view.infer(x).items() if name in view.latents}
    data, model = _images(view, tensors(x)[-1] / view.unit), _images(view, view.decode(drawn, x))
    rows, labels = [], []
    for begin in range(0, count, ACROSS):
        rows += [data[begin : begin + ACROSS], model[begin : begin + ACROSS]]
        labels += ["data", "model"]
    return plot_sheet(rows, path, labels=labels, bands=2, dark=view.dark)


def _samples(view: _View, path: Path) -> Path:
    first = view.latents[0]
    fn = _nodes(view.model.model, view.rows(2))[first]["fn"]
    if type(fn).__name__ == "Categorical" and fn.event_dim == 0 and len(view.latents) > 1:
        return _clusters(view, first, fn.enumerate_support(expand=False).flatten(), path)
    images = _images(view, view.decode(view.prior(ACROSS**2)))
    rows = [images[i : i + ACROSS] for i in range(0, len(images), ACROSS)]
    return plot_sheet(rows, path, title="draws, as means", dark=view.dark)


def _clusters(view: _View, label: str, values: Tensor, path: Path) -> Path:
    """A row of draws for each label, the most frequent among the data first."""
    fn = view.infer(view.x)[label]["fn"]
    shares = fn.probs.reshape(num_data(view.x), -1).mean(0)
    order = shares.argsort(descending=True)[:MAX_CLUSTERS]
    rows = [_images(view, view.decode({label: values[k].expand(ACROSS)})) for k in order]
    names = [f"cluster {int(values[k])}  {100 * float(shares[k]):.0f} %" for k in order]
    return plot_sheet(
        rows, path, labels=names, title="draws from each cluster, and its share of the data", dark=view.dark
    )


@dataclass(frozen=True)
class _Code:
    """The first continuous latent: its site; (S, L) draws from the prior; (L,) variance over the data of its mean given
    x; the units in the order of that, descending; the code (L,) of the first datum."""

    site: str
    prior: Tensor
    activity: Tensor
    order: list[int]
    datum: Tensor


def _code(view: _View) -> _Code | None:
    drawn = view.prior(PRIOR_DRAWS)
    site = next((n for n in view.latents if drawn[n].is_floating_point() and _has_density(view, n)), None)
    if site is None or drawn[site].dim() != 2:
        return None
    codes = torch.stack([view.infer(view.x)[site]["value"] for _ in range(CODE_DRAWS)]).mean(0)
    activity = codes.var(0) if len(codes) > 1 else torch.ones_like(codes[0])
    return _Code(site, drawn[site], activity, activity.argsort(descending=True).tolist(), codes[0])


def _has_density(view: _View, name: str) -> bool:
    return bool(_nodes(view.model.model, view.rows(2))[name]["fn"].has_rsample)


def _manifold(view: _View, code: _Code, path: Path) -> Path:
    """The plane of two units; others stay at the prior's mean. The first grows to the right, the second upwards."""
    units = sorted(code.order[:2])
    size = 15
    levels = (torch.arange(size, dtype=code.prior.dtype, device=code.prior.device) + 0.5) / size
    right, up = (code.prior[:, u].quantile(levels) for u in units)
    z = code.prior.mean(0).repeat(size * size, 1)
    z[:, units[0]], z[:, units[1]] = right.repeat(size), up.flip(0).repeat_interleave(size)
    images = _images(view, view.decode({code.site: z}, means=True))
    more = "" if code.prior.shape[1] == 2 else ", the two most active, others at the prior's mean"
    return plot_sheet(
        [images[i : i + size] for i in range(0, size * size, size)],
        path,
        title=f"means over quantiles of the prior: units {units[0]} (right) and {units[1]} (up){more}",
        gap=0 if view.shape[0] > 16 else None,
        dark=view.dark,
    )


def _traversals(view: _View, code: _Code, path: Path) -> Path:
    units = code.order[:MAX_UNITS]
    loc, scale = code.prior.mean(0), code.prior.std(0)
    steps = torch.linspace(-2.5, 2.5, 11, dtype=loc.dtype, device=loc.device)
    rows = []
    for unit in units:
        z = code.datum.repeat(len(steps), 1)
        z[:, unit] = loc[unit] + scale[unit] * steps
        rows.append(_images(view, view.decode({code.site: z}, means=True)))
    labels = [f"unit {unit}  ({float(code.activity[unit]):.2f})" for unit in units]
    title = "one code, each unit from -2.5 to 2.5 sd of its prior (variance of its mean over data)"
    return plot_sheet(rows, path, labels=labels, title=title, dark=view.dark)


def _completions(view: _View, path: Path) -> Path:
    """Rows of data: what is given, the whole, and draws of what is missing."""
    assert view.pair is not None
    first, second = view.pair
    count, draws = min(ACROSS, num_data(view.x)), ACROSS - 2
    x = take(view.x, slice(0, count))
    given, target = tensors(x)

    def whole(part: Tensor | None) -> Array:
        values = torch.full((count, len(first) + len(second)), math.nan, dtype=given.dtype, device=given.device)
        if len(first):
            values[:, first.to(values.device)] = given / view.unit
        if part is not None:
            values[:, second.to(values.device)] = part
        return _images(view, values)

    columns, tops = [whole(target / view.unit)], ["data", "completed, as means"]
    if len(first):
        columns, tops = [whole(None), *columns], ["given", *tops]
    elif image_shape(given.shape[1]) == view.shape:  # x is an image of its own
        columns, tops = [_images(view, given / view.unit), *columns], ["given", *tops]
    for _ in range(draws):
        columns.append(whole(view.decode(view.prior(count, x), x)))
    rows = [np.stack([column[i] for column in columns]) for i in range(count)]
    return plot_sheet(rows, path, tops=tops, dark=view.dark)
