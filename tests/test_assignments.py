"""Values that a user assigns to a model's parameters: what cannot be one is refused by the name it was assigned to."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from test_contract import every_model, instance

import zoo


def names_of(model: Any) -> list[str]:
    """Parameters by the names that users know, of those that may be assigned numbers."""
    shown = {raw: name for cls in type(model).__mro__ for name, raw in cls.__dict__.get("reads_as", {}).items()}
    settable = {name for name in shown.values() if getattr(type(model), name).fset is not None}
    return sorted({*model.__dict__["_pyro_params"], *settable} - shown.keys())


@every_model
def test_a_refusal_names_what_was_assigned(name: str) -> None:
    model, _ = instance(name)
    for shown in names_of(model):
        value = getattr(model, shown).detach().clone()
        kept = {key: entry.clone() for key, entry in model.state_dict().items()}
        bad: list[Any] = ["text", value.new_zeros(7, 1, 1, 1)]
        if shown != "visible_biases" and shown != "hidden_biases" and value.isfinite().all():
            bad.append(torch.full_like(value, torch.nan))
        for wrong in bad:
            with pytest.raises(zoo.ZooError, match=re.escape(f"{type(model).__name__}.{shown} expected")) as error:
                setattr(model, shown, wrong)
            assert "\n" not in str(error.value)
        assert all(torch.equal(entry, kept[key]) for key, entry in model.state_dict().items())
        setattr(model, shown, value)
        torch.testing.assert_close(getattr(model, shown).detach(), value)


def test_matrices_that_are_no_covariances_are_refused() -> None:
    for kind in ("full", "tied", "diag"):
        model = zoo.GaussianMixture(2, 2, kind)
        with pytest.raises(zoo.ZooError, match=r"GaussianMixture\.covariances expected"):
            model.covariances = -torch.eye(2).expand(2, 2, 2)
    code = zoo.HMMVAE(2, 3)
    code.code_covariances = 4 * torch.eye(2).expand(2, 2, 2)
    torch.testing.assert_close(code.code_scale_tril, 2 * torch.eye(2).expand(2, 2, 2))
    grammar = zoo.PCFG(1, 2, 3)
    with pytest.raises(zoo.ZooError, match=r"PCFG\.rule_probs expected values in the support"):
        grammar.rule_probs = torch.full((1, 3, 3), 2.0)
