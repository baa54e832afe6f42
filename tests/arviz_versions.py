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

    (arviz.plot_ppc if hasattr(arviz, "plot_ppc") else arviz.plot_ppc_dist)(data)
