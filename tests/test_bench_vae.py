"""The benchmark of a VAE's step: it runs, and all systems do the same work."""

from __future__ import annotations

import pytest
import torch

from benchmarks import vae
from zoo.models.vae import VAE


def test_quick_run_returns_the_rows(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Every system is timed as often, and from the same weights reaches the same bound."""
    for name, value in {"QUICK_ROWS": 150, "BATCH": 50, "HIDDEN": 16, "LATENT": 3}.items():
        monkeypatch.setattr(vae, name, value)
    found = vae.run(quick=True)
    systems = found["systems"]
    assert {vae.HAND, vae.OURS, *vae.SYSTEMS} <= set(systems)
    assert (vae.PYTHAE in systems) == found["pythae"]
    assert all(len(row["seconds"]) == found["rounds"] for row in systems.values())
    assert systems[vae.HAND]["ratio_to_hand"] == systems[vae.OURS]["ratio_to_ours"] == 1
    bounds = [row["bound"] for row in systems.values()]
    assert max(bounds) - min(bounds) < 3, bounds
    assert len(found["targets"]) == 2
    printed = capsys.readouterr().out
    assert "hand-written PyTorch" in printed
    assert ("pythae is not installed" in printed) != found["pythae"]


def test_hand_written_network_is_the_models() -> None:
    """The same weights give the same bound, draw for draw."""
    model, x = VAE(vae.FEATURES, vae.LATENT, (vae.HIDDEN,)), vae.make_data(5)
    net = vae.Network().take(model)
    torch.manual_seed(1)
    ours, _ = model.elbo_parts(x)
    torch.manual_seed(1)
    assert float(net(x).detach()) == pytest.approx(float(ours.detach().mean()), abs=2e-4)
