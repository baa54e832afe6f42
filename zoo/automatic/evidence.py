"""ln p(x) of an enumerated trace: Pyro's contraction over the latents, one set of latents that hang together at a time.

A mask acts inside the sum over a latent and a scale outside of it, as in ``TraceEnum_ELBO``. Pyro takes one number as
the scale of all sums; here each set of sites that hang together by latents has its own, which may differ from row to
row of a plate (row weights: a row that counts w times) as long as no latent of the set is shared among rows.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from opt_einsum import shared_intermediates  # type: ignore[import-untyped]
from pyro.ops import packed
from pyro.ops.contract import contract_tensor_tree
from pyro.ops.rings import SampleRing
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from zoo.core.sites import SiteMessage, data_dim, sample_sites
from zoo.errors import ZooError

__all__ = ["log_evidence"]


def log_evidence(trace: Trace, rows: int | None = None) -> Tensor:
    """ln p(x), summed over the data, nats, (), of a trace with log-probabilities; packs its dimensions by name.

    Args:
        rows: the number of data, for ln p(x) of each of them, (N,).

    Raises:
        ZooError: sites that share latents have different scales, or one that differs where a latent does not; with
            ``rows``, something that belongs to no single datum.
    """
    guide = Trace()
    guide.pack_tensors()
    trace.pack_tensors(guide.plate_to_symbol)
    sites = sample_sites(trace)
    latents = {s["infer"]["_enumerate_symbol"] for s in sites.values() if _is_summed(s)}
    kept = None if rows is None else _row_symbols(trace, rows)
    total = torch.zeros(())
    bound: list[tuple[set[str], list[SiteMessage]]] = []  # by set: its latents, and the sites that depend on them
    for site in sites.values():
        symbols = latents & set(site["packed"]["unscaled_log_prob"]._pyro_dims)
        if not symbols:
            alone = site["packed"]["log_prob"]
            if _is_summed(site):  # a latent of one value
                alone = _scaled(site["packed"]["unscaled_log_prob"], _scale(site))
            total = total + _added(alone, kept)
            continue
        touched = [group for group in bound if group[0] & symbols]
        bound = [group for group in bound if not group[0] & symbols]
        bound.append((symbols.union(*(g[0] for g in touched)), [s for g in touched for s in g[1]] + [site]))
    together: dict[float, tuple[set[str], list[SiteMessage]]] = {}  # sets with the same number as scale
    for symbols, members in bound:
        scale = _common_scale(trace, members)
        if isinstance(scale, Tensor):
            total = total + _sum_out(trace, symbols, members, scale, kept)
        else:
            seen = together.setdefault(scale, (set(), []))
            seen[0].update(symbols)
            seen[1].extend(members)
    for scale, (symbols, members) in together.items():
        total = total + _sum_out(trace, symbols, members, scale, kept)
    return total


def _is_summed(site: SiteMessage) -> bool:
    return site["infer"].get("_enumerate_dim") is not None and not site["is_observed"]


def _row_symbols(trace: Trace, rows: int) -> set[str]:
    """The dimensions that run over the data."""
    symbols = set()
    for site in sample_sites(trace).values():
        dim = data_dim(site, rows)
        symbols |= {trace.plate_to_symbol[f.name] for f in site["cond_indep_stack"] if f.vectorized and f.dim == dim}
    return symbols


def _added(term: Any, kept: set[str] | None) -> Tensor:
    """A packed tensor's sum, (), or (N,) over all dimensions but that of the data."""
    if kept is None:
        total: Tensor = term.sum()
        return total
    dims = [i for i, symbol in enumerate(term._pyro_dims) if symbol in kept]
    if not dims and not term.any():
        return torch.zeros(())  # a site that is masked out, as a parameter with a prior is
    if len(dims) != 1:
        raise ZooError(
            "score_samples: expected a program whose ln p(x) is a sum over its data, one plate for them around every "
            "latent and observed site, got one that is not. Take score(x), the total."
        )
    return term.movedim(dims[0], 0).flatten(1).sum(1) if term.dim() > 1 else term


def _sum_out(
    trace: Trace, symbols: set[str], members: list[SiteMessage], scale: float | Tensor, kept: set[str] | None
) -> Tensor:
    """The scaled logarithm of the sum over the latents ``symbols`` of the product of the sites, () or (N,)."""
    tree: OrderedDict[frozenset[str], list[Any]] = OrderedDict()
    for site in members:
        factor = site["packed"]["unscaled_log_prob"]
        if not _is_summed(site):
            factor = packed.scale_and_mask(factor, mask=site["packed"]["mask"])
        plates = frozenset(trace.plate_to_symbol[f.name] for f in site["cond_indep_stack"] if f.vectorized)
        tree.setdefault(plates, []).append(factor)
    sizes = {d: n for factors in tree.values() for f in factors for d, n in zip(f._pyro_dims, f.shape, strict=True)}
    with shared_intermediates() as cache:
        summed = contract_tensor_tree(tree, symbols, ring=SampleRing(cache=cache, dim_to_size=sizes))
    total = torch.zeros(())
    for terms in summed.values():
        for term in terms:
            dims = getattr(scale, "_pyro_dims", "")
            if not set(dims) <= set(term._pyro_dims):
                shared = next(s["name"] for s in members if _is_summed(s))
                raise ZooError(
                    f"site {shared!r} is shared by rows that its poutine.scale weighs differently, so no sum over it "
                    "has that weight. Scale with one number, or put the site in the plate of the rows."
                )
            total = total + _added(_scaled(term, scale), kept)
    return total


def _scaled(term: Any, scale: float | Tensor) -> Any:
    """The product of packed tensors; dimensions of the scale are among the term's, or the term has them repeated."""
    if isinstance(scale, Tensor):
        term, scale = packed.broadcast_all(term, scale)
    product = term * scale
    product._pyro_dims = term._pyro_dims
    return product


def _common_scale(trace: Trace, members: list[SiteMessage]) -> float | Tensor:
    """The scale of sites that share latents: a number, or a packed tensor that differs from row to row."""
    scales = [_scale(site) for site in members]
    first = scales[0]
    for site, scale in zip(members, scales, strict=True):
        if _differ(first, scale):
            raise ZooError(
                f"site {site['name']!r} expected the poutine.scale of the sites it shares latents with, "
                f"{_brief(first)}, got {_brief(scale)}: a sum over latents needs one scale. Scale all of them, or none."
            )
    return first


def _scale(site: SiteMessage) -> Any:
    """A site's scale: a number; a tensor that carries a gradient or more than one number, packed."""
    scale = site["scale"]
    if not isinstance(scale, Tensor):
        return float(scale)
    if scale.numel() == 1 and not scale.requires_grad:
        return float(scale)
    same = scale.numel() > 1 and not scale.requires_grad and bool((scale == scale.reshape(-1)[0]).all())
    return float(scale.reshape(-1)[0]) if same else packed.pack(scale, site["infer"]["_dim_to_symbol"])


def _differ(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a._pyro_dims != b._pyro_dims or not torch.equal(a.detach(), b.detach())  # type: ignore[attr-defined]
    return isinstance(a, Tensor) or isinstance(b, Tensor) or a != b


def _brief(scale: Any) -> str:
    return "one that differs from row to row" if isinstance(scale, Tensor) and scale.dim() else f"{float(scale):g}"
