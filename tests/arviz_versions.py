"""What ArviZ 0.x and 1.x call by other names."""

from __future__ import annotations

from typing import Any


def group_names(data: Any) -> set[str]:
    """The groups of ``InferenceData``, or of the tree that took its place, which spells them as paths."""
    names = data.groups if isinstance(data.groups, tuple) else data.groups()
    return {name.strip("/") for name in names} - {""}


def plot_predictive_check(data: Any) -> None:
    """ArviZ's picture of posterior predictive draws beside the data."""
    import arviz

    if hasattr(arviz, "plot_ppc"):
        arviz.plot_ppc(data)
    else:
        arviz.plot_ppc_dist(data, num_samples=10)


def loo_estimate(data: Any) -> float:
    """ArviZ's leave-one-out estimate of the log predictive density."""
    import arviz

    found = arviz.loo(data)
    return float(found.elpd_loo if hasattr(arviz, "plot_ppc") else found.elpd)
