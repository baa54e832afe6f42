"""Programs that are chains (or mixtures: chains of one step) are summed by the compiled kernel, without running them.

Once every argument is known as a lookup, a program whose latents form a chain with one shared transition table is only
tables: start, transitions, emissions. An E step then needs no Pyro: emission log-densities from the tables, one
forward-backward pass. The M step is the same as for any other program; its leaves are given in the chain's layout, all
time steps at once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from zoo.automatic.enumerated import Enumerated
from zoo.automatic.leaves import Leaf
from zoo.automatic.lookup import Lookup, ParameterSpace
from zoo.core.data import Data, num_data, tensors, weights_of
from zoo.core.rows import Rows, known_at, restricted
from zoo.core.sites import SiteMessage
from zoo.core.statistics import Moments, weighted_sum, wide
from zoo.densities import diagonal, gaussian
from zoo.structures import chain

__all__ = ["Chain", "recognise"]

INITIAL, TRANSITION, EMISSION = "start", "transition", "emission"


@dataclass
class Chain:
    """A recognised chain with K states over N sequences of up to T steps.

    Attributes:
        leaves: by name, leaves in the chain's layout: start (K,), transition (K, K), emissions over rows (M, K).
        inside: (N, T), the steps that are there. packed: whether all are.
        seen: by emission, (N, T), the steps it is observed at; None where it is observed at all.
        series: (N, T, D), where diagonal Gaussians are all there is.
        weights: (N,), how often each sequence counts; None once each.
        known: (N, T), the states that are known, -1 where not; None where none is.
    """

    leaves: dict[str, list[Leaf]]
    lengths: Tensor
    inside: Tensor
    num_states: int
    seen: dict[str, Tensor | None]
    series: Tensor | None = None
    weights: Tensor | None = None
    known: Tensor | None = None

    def e_step(self, space: ParameterSpace) -> tuple[float, dict[str, Tensor | Moments]]:
        """(ln p(x), by name of a leaf its weights, or the moments they would give)."""
        vector = wide(space.vector())
        return self._one_pass(space, vector) or self._by_densities(space, vector)

    def _one_pass(self, space: ParameterSpace, vector: Tensor) -> tuple[float, dict[str, Tensor | Moments]] | None:
        """Diagonal Gaussians alone: densities, forward-backward pass and moments at once, where that loses nothing."""
        if self.series is None or self.weights is not None or self.known is not None:
            return None
        name = next(iter(self.seen))
        k, d = self.num_states, self.series.shape[-1]
        args = self.leaves[name][0].arguments(space, vector)
        loc, scale = (_wide(args[key], self.leaves[name][0], k, d) for key in ("loc", "scale"))
        start = self._logits(INITIAL, space, vector)
        step = self._logits(TRANSITION, space, vector) if TRANSITION in self.leaves else start.expand(k, -1)
        found = chain.gaussian_totals(start, step.contiguous(), self.series, loc, scale, self.lengths)
        if found is None or len(found.left):
            return None
        moments = gaussian.moments_from(found.counts, found.first, found.second, loc)
        if moments is None:
            return None
        return float(found.log_likelihood), {INITIAL: found.initial, TRANSITION: found.transition, name: moments}

    def _by_densities(self, space: ParameterSpace, vector: Tensor) -> tuple[float, dict[str, Tensor | Moments]]:
        n, t = self.inside.shape
        packed = bool((self.lengths == t).all())
        total: Tensor | None = None
        for name, mine in self.leaves.items():
            if not name.startswith(EMISSION):
                continue
            for leaf in mine:
                part = _densities(leaf, leaf.arguments(space, vector), self.num_states)
                shown = self.seen[name]
                if shown is not None:
                    part = part.masked_fill(~shown[self.inside].unsqueeze(-1), 0.0)
                total = part if total is None else total + part
        assert total is not None
        if packed:
            emission = total.reshape(n, t, -1)
        else:
            emission = total.new_zeros(n, t, self.num_states).index_put((self.inside,), total)
        emission = restricted(emission, None if self.known is None else {"z": self.known})
        start = self._logits(INITIAL, space, vector)
        step = self._logits(TRANSITION, space, vector) if TRANSITION in self.leaves else start.expand(len(start), -1)
        found = chain.expectations(start, step.contiguous(), emission, self.lengths, weights=self.weights)
        rows = found.marginals.reshape(n * t, -1) if packed else found.marginals[self.inside]
        weights: dict[str, Tensor | Moments] = {INITIAL: found.initial, TRANSITION: found.transition}
        for name, shown in self.seen.items():
            weights[name] = rows if shown is None else rows * shown[self.inside].unsqueeze(-1).to(rows.dtype)
        return float(weighted_sum(found.log_likelihood, self.weights)), weights

    def _logits(self, name: str, space: ParameterSpace, vector: Tensor) -> Tensor:
        leaf = self.leaves[name][0]
        logits: Tensor = leaf.distribution(leaf.arguments(space, vector)).logits
        return logits


def _densities(leaf: Leaf, args: dict[str, Tensor], k: int) -> Tensor:
    """ln p(row | state), (M, K)."""
    assert leaf.value is not None
    value = leaf.value
    if leaf.family == "Normal" and leaf.events <= 1:
        rows = value.reshape(len(value), -1)
        loc, scale = (_wide(args[name], leaf, k, rows.shape[1]) for name in ("loc", "scale"))
        if diagonal.serves(rows, loc, scale):
            return diagonal.log_densities(rows, loc, scale)
    if leaf.family == "MultivariateNormal" and not leaf.events and "scale_tril" in args:
        rows = value[:, 0]
        d = rows.shape[1]
        return gaussian.log_densities(rows, args["loc"].expand(k, d), args["scale_tril"].expand(k, d, d), "full")
    if leaf.family == "Categorical" and not leaf.events:
        table = leaf.distribution(args).logits.expand(k, -1)
        return table.mT[leaf.plain_value(args)[:, 0].long()]
    log_prob = leaf.log_prob(args)
    log_prob = log_prob.sum(list(range(-leaf.events, 0))) if leaf.events else log_prob
    return log_prob.expand(len(value), k)


def _wide(arg: Tensor, leaf: Leaf, k: int, d: int) -> Tensor:
    """A Normal's argument for every state and feature, (K, D)."""
    return (arg.expand(k, d) if leaf.events else arg.expand(k).unsqueeze(-1)).contiguous()


class _Other(Exception):
    """The program is no such chain; says why."""


def recognise(run: Enumerated, leaves: dict[str, list[Leaf] | None], x: Data) -> Chain | str:
    """The chain behind a program, or why there is none."""
    try:
        return _recognise(run, leaves, x)
    except _Other as reason:
        return str(reason)


def _recognise(run: Enumerated, leaves: dict[str, list[Leaf] | None], x: Data) -> Chain:
    sites = {n: s for n, s in run.sites.items() if not s["infer"].get("zoo_point")}
    latents = [n for n, s in sites.items() if s["infer"].get("_enumerate_symbol") is not None]
    if not latents:
        raise _Other("it has no latent")
    symbol = {sites[n]["infer"]["_enumerate_symbol"]: i for i, n in enumerate(latents)}
    stacks = {
        name: [(f.name, f.dim, f.size) for f in s["cond_indep_stack"] if f.vectorized] for name, s in sites.items()
    }
    plates = {plate for stack in stacks.values() for plate in stack}
    if len(plates) > 1 or any(dim != -1 for _, dim, _ in plates):
        raise _Other("it has more than one plate")
    outside = [name for name, stack in stacks.items() if len(stack) != len(plates)]
    if outside:
        raise _Other(f"site {outside[0]!r} stands outside of the plate")
    n = next(iter(plates))[2] if plates else 1
    sizes = {sites[z]["fn"].enumerate_support(expand=False).shape[0] for z in latents}
    if len(sizes) > 1:
        raise _Other("its latents have different numbers of values")
    k = sizes.pop()
    weights, known = weights_of(x), _known_states(x, latents)
    start: Leaf | None = None
    transition: Leaf | None = None
    emitted: list[list[tuple[Leaf, Tensor, SiteMessage]]] = [[] for _ in latents]
    for name, site in sites.items():
        mine = leaves[name]
        if mine is None or any(leaf.inner is not None for leaf in mine):
            raise _Other(f"site {name!r} is not one known distribution a state")
        if not _one(site["scale"], weights):
            raise _Other(f"site {name!r} is scaled")
        depends = sorted(symbol[s] for s in site["packed"]["unscaled_log_prob"]._pyro_dims if s in symbol)
        if any(lookup is None for leaf in mine for lookup in leaf.lookups.values()):
            raise _Other(f"site {name!r} has an argument that is no table of parameters")
        if name in latents:
            index = latents.index(name)
            if mine[0].family != "Categorical":
                raise _Other(f"latent {name!r} is no Categorical")
            if index == 0:
                start = _table(mine[0], (k,), INITIAL)
                continue
            if k > 1 and depends != [index - 1, index]:
                raise _Other(f"latent {name!r} depends on other latents than the one before")
            step = _table(mine[0], (k, k), TRANSITION)
            if transition is not None and not transition.alike(step):
                raise _Other("its transitions change with time")
            transition = step
        else:
            if len(depends) != 1 and k > 1:
                raise _Other(f"site {name!r} depends on {len(depends)} latents")
            index = depends[0] if depends else (0 if len(latents) == 1 else -1)
            if index < 0:
                raise _Other(f"site {name!r} belongs to no step")
            dim = sites[latents[index]]["infer"]["_enumerate_dim"]
            emitted[index] += [(*_emission(leaf, k, n, dim, name), site) for leaf in mine]
    assert start is not None
    if not emitted[0] or any(len(e) != len(emitted[0]) for e in emitted):
        raise _Other("its steps are observed in different ways")
    inside = torch.stack([_mask(sites[z]["mask"], n) for z in latents], 1)
    lengths = inside.sum(1)
    if (lengths < 1).any() or (inside[:, 1:] & ~inside[:, :-1]).any():
        raise _Other("its masks are no lengths")
    result: dict[str, list[Leaf]] = {INITIAL: [start]}
    if transition is not None:
        result[TRANSITION] = [transition]
    shown: dict[str, Tensor | None] = {}
    for j in range(len(emitted[0])):
        column = [e[j] for e in emitted]
        first = column[0][0]
        if not all(first.alike(leaf) for leaf, _, _ in column):
            raise _Other("its emissions change with time")
        values = _numbers(torch.stack([value for _, value, _ in column], 1))[inside]  # (M, 1, event)
        seen = torch.stack([_mask(site["mask"], n) for _, _, site in column], 1)
        if (seen & ~inside).any():
            raise _Other("it observes steps that are masked out")
        name = f"{EMISSION} {j}"
        result[name] = [replace(first, site=name, value=values)]
        shown[name] = None if bool((seen == inside).all()) else seen
    series = None
    if len(shown) == 1 and next(iter(shown.values())) is None and first.family == "Normal" and first.events <= 1:
        # What lies beyond a length is never read.
        series = _numbers(torch.stack([value for _, value, _ in column], 1)).reshape(n, len(latents), -1)
    return Chain(result, lengths, inside, k, shown, series, weights, known)


def _numbers(values: Tensor) -> Tensor:
    """Real values in the arithmetic of the kernels."""
    return wide(values) if values.is_floating_point() else values


def _known_states(x: Data, latents: list[str]) -> Tensor | None:
    """What is known of the latents of a chain, (N, T); -1 where nothing is."""
    steps = [known_at(x.known, name) for name in latents] if isinstance(x, Rows) else []
    if all(step is None for step in steps):
        return None
    blank = torch.full((num_data(x),), -1, device=tensors(x)[0].device)
    return torch.stack([blank if step is None else step for step in steps], 1)


def _one(scale: Any, weights: Tensor | None) -> bool:
    """Whether a site counts once, or as often as its row."""
    if isinstance(scale, Tensor):
        return weights is not None and torch.equal(scale, weights)
    return bool(scale == 1) and weights is None


def _mask(mask: Any, n: int) -> Tensor:
    if mask is None or mask is True:
        return torch.ones(n, dtype=torch.bool)
    mask = torch.as_tensor(mask)
    if mask.numel() not in (1, n):
        raise _Other("it has a mask that differs among states")
    return mask.reshape(-1).expand(n)


def _table(leaf: Leaf, shape: tuple[int, ...], name: str) -> Leaf:
    """A latent's leaf as a table of probabilities; its value is summed over, so that its weight is by entry."""
    if leaf.mask is not None or leaf.events:
        raise _Other(f"site {leaf.site!r} is wrapped")
    lookups: dict[str, Lookup | None] = {}
    for key, lookup in leaf.lookups.items():
        assert lookup is not None
        if lookup.ids.numel() != torch.Size(shape).numel():
            raise _Other(f"site {leaf.site!r} has other probabilities for every sequence")
        lookups[key] = Lookup(lookup.ids.reshape(shape), lookup.constant.reshape(shape), lookup.view)
    args = {key: value.reshape(shape) for key, value in leaf.args.items()}
    return replace(leaf, site=name, args=args, value=None, lookups=lookups, value_lookup=None)


def _emission(leaf: Leaf, k: int, n: int, dim: int, name: str) -> tuple[Leaf, Tensor]:
    """An emission's leaf with arguments (K or 1, event), and its value (N, 1, event)."""
    from zoo.automatic.lookup import ARGUMENTS

    if leaf.mask is not None or leaf.value is None:
        raise _Other(f"site {name!r} is masked inside")
    lookups: dict[str, Lookup | None] = {}
    args: dict[str, Tensor] = {}
    for key, lookup in leaf.lookups.items():
        assert lookup is not None
        tail = leaf.events + ARGUMENTS[leaf.family][key]
        args[key] = _by_state(leaf.args[key], tail, k, dim, name)
        lookups[key] = Lookup(
            _by_state(lookup.ids, tail, k, dim, name), _by_state(lookup.constant, tail, k, dim, name), lookup.view
        )
    event = len(leaf.distribution(leaf.args).event_shape) + leaf.events
    value = leaf.value
    head, tail_shape = value.shape[: value.dim() - event], value.shape[value.dim() - event :]
    if torch.Size(head).numel() not in (1, n):
        raise _Other(f"site {name!r} observes other values in every state")
    value = value.reshape(-1, *tail_shape).expand(n, *tail_shape).unsqueeze(1)
    return replace(leaf, args=args, lookups=lookups), value


def _by_state(raw: Tensor, tail: int, k: int, dim: int, name: str) -> Tensor:
    """An argument with its batch dimensions brought to one, that of the state."""
    if raw.dim() <= tail:
        return raw
    batch = raw.shape[: raw.dim() - tail]
    wide = [i - len(batch) for i, size in enumerate(batch) if size > 1]
    if any(i != dim for i in wide):
        raise _Other(f"site {name!r} has other parameters for every sequence")
    return raw.reshape(k if wide else 1, *raw.shape[raw.dim() - tail :])
