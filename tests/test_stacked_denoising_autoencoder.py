"""Stacked denoising autoencoder: layer upon layer, then labels, or the whole stack."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import zoo
from zoo.core.contract import prepared
from zoo.core.problem import Problem
from zoo.core.schedule import Schedule
from zoo.estimators.base import Run
from zoo.estimators.loop.train import train
from zoo.models.shared.layers import set_layers
from zoo.models.stacked_denoising_autoencoder import StackedDenoisingAutoencoder, tiny
from zoo.reproduce import reproduce, sda
from zoo.runs.prepare import serving

RESULTS = Path(__file__).parents[1] / "results"


def sigmoid(v: Any) -> Any:
    return 1 / (1 + np.exp(-v))


def labelled(rows: int = 60, classes: int = 3) -> tuple[Tensor, Tensor]:
    """Noisy copies of a pattern a class."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.bernoulli(torch.full((classes, 9), 0.5), generator=generator)
    y = torch.arange(rows) % classes
    flipped = torch.rand(rows, 9, generator=generator) < 0.15
    return torch.where(flipped, 1 - patterns[y], patterns[y]), y


def test_likelihood_of_labels_is_that_of_the_net() -> None:
    model = StackedDenoisingAutoencoder(9, (4, 5), num_classes=3, pretraining_epochs=0).double()
    x, y = labelled(8)
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    code = x.double().numpy()
    for layer in (0, 1):
        code = sigmoid(code @ state[f"encoder.{layer}.weight"].T + state[f"encoder.{layer}.bias"])
    scores = code @ state["head.weight"].T + state["head.bias"]
    expected = scores[np.arange(8), y.numpy()] - np.log(np.exp(scores).sum(1))
    with torch.no_grad():
        found = model.log_marginal(x.double(), y)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)
    assert model.predict(x.double()).tolist() == scores.argmax(1).tolist()
    torch.testing.assert_close(model.class_probs(x).sum(1), torch.ones(8, dtype=torch.float64))
    assert serving(Problem(model, prepared(model, (x, y)))) == ["eg"]


def test_each_stage_moves_its_layer_towards_the_clean_code_of_those_below() -> None:
    model = StackedDenoisingAutoencoder(9, (6, 5, 4), noise=0.0, tied=False, pretraining_epochs=3)
    x, _ = labelled()
    problem = Problem(model, prepared(model, x))
    stages = list(model.pretraining(problem))
    assert [stage.name for stage in stages] == ["layer 1", "layer 2", "layer 3"]
    for layer, stage in enumerate(stages):
        before = copy.deepcopy(model.state_dict())
        code = x
        for below in range(layer):
            code = (code @ before[f"encoder.{below}.weight"].T + before[f"encoder.{below}.bias"]).sigmoid()
        above = (code @ before[f"encoder.{layer}.weight"].T + before[f"encoder.{layer}.bias"]).sigmoid()
        back = (above @ before[f"decoder.{layer}.weight"].T + before[f"decoder.{layer}.bias"]).sigmoid()
        expected = (code * back.log() + (1 - code) * (1 - back).log()).sum(1).mean()
        torch.testing.assert_close(stage.objective(problem.data).value, expected)
        train(problem, stage, Run())
        moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
        assert moved == {f"{part}.{layer}.{what}" for part in ("encoder", "decoder") for what in ("weight", "bias")}
        assert stage.objective(problem.data).value > expected


def test_hidden_layers_see_codes_that_are_spoilt() -> None:
    model = StackedDenoisingAutoencoder(6, (5, 4), noise=(0.5, 0.4), tied=True).double()
    x = torch.rand(1, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    first, second = model.encoder[0], model.encoder[1]
    code = first(x).sigmoid()
    possible = []
    for i in range(5):
        for j in range(i):
            spoilt = code.clone()
            spoilt[:, [i, j]] = 0
            back = (second(spoilt).sigmoid() @ second.weight + model.decoder[1].bias).sigmoid()
            possible.append(float((code * back.log() + (1 - code) * (1 - back).log()).sum().detach()))
    torch.manual_seed(0)
    with torch.no_grad():
        seen = {round(float(model.layer_denoising(1, x)), 10) for _ in range(200)}
    assert seen == {round(value, 10) for value in possible}


def test_layers_without_noise_are_plain_ones_to_the_bit() -> None:
    model = StackedDenoisingAutoencoder(9, (6, 4), noise=0.0, num_classes=3, pretraining_epochs=2)
    x, y = labelled()
    fit = zoo.fit(model, (x, y), estimator="eg", seed=3, max_epochs=2, batch_size=25, init="current")

    layers = [nn.Linear(9, 6), nn.Linear(6, 4)]
    set_layers(nn.ModuleList(layers), [(layer.weight, layer.bias) for layer in model.encoder])  # type: ignore[misc]
    head = copy.deepcopy(model.head)
    torch.manual_seed(3)
    unit = float(torch.tensor(0.05))

    def climb(parameters: list[Any], batch: int, loss: Any) -> None:
        optimizer, step = torch.optim.Adam(parameters, fused=True), 0
        steps = 2 * -(-60 // batch)
        for _ in range(2):
            for index in [torch.arange(60)] if batch == 60 else torch.randperm(60).split(batch):
                optimizer.param_groups[0]["lr"] = Schedule(learning_rate=0.02).rate(step / steps) * unit
                step += 1
                optimizer.zero_grad()
                (-loss(index).sum() / len(index)).backward()
                optimizer.step()

    for i, layer in enumerate(layers):
        bias = nn.Parameter(torch.zeros(layer.in_features))

        def denoised(index: Tensor, i: int = i, layer: nn.Linear = layer, bias: Tensor = bias) -> Tensor:
            code = x[index]
            for below in layers[:i]:
                code = below(code).sigmoid().detach()
            logits = nn.functional.linear(layer(code).sigmoid(), layer.weight.mT, bias)
            return torch.linalg.vecdot(logits, code) - nn.functional.softplus(logits).sum(-1)

        climb([*layer.parameters(), bias], 60, denoised)

    def told(index: Tensor) -> Tensor:
        scores = head(layers[1](layers[0](x[index]).sigmoid()).sigmoid())
        return scores.log_softmax(-1)[torch.arange(len(index)), y[index]]

    climb([*layers[0].parameters(), *layers[1].parameters(), *head.parameters()], 25, told)
    ours: Any = fit.model
    for layer, plain in zip([*ours.encoder, ours.head], [*layers, head], strict=True):
        assert torch.equal(layer.weight, plain.weight)
        assert torch.equal(layer.bias, plain.bias)


def test_a_fit_to_labels_predicts_them_and_leaves_its_decoders_behind() -> None:
    x, y = labelled()
    fit = zoo.fit(
        StackedDenoisingAutoencoder.from_data((x, y), hidden_dims=(8, 8), pretraining_epochs=5), (x, y),
        max_epochs=150, learning_rate=0.5,
    )  # fmt: skip
    assert (fit.estimator, fit.model.config["num_classes"]) == ("eg", 3)
    assert fit.warmup is not None
    assert fit.warmup["steps"] == 10
    assert (fit.predict(x) == y).double().mean() > 0.8
    assert torch.equal(fit.predict((x, y)), fit.predict(x))
    assert fit.log_likelihood == pytest.approx(zoo.evaluate(fit, {"x": x, "y": y}).log_likelihood)
    assert set(fit.parameters) == {
        f"{part}.{what}" for part in ("encoder.0", "encoder.1", "head") for what in ("weight", "bias")
    }
    labels = fit.sample(given=x.repeat(40, 1)).reshape(40, len(x))
    shares = torch.stack([(labels == k).double().mean(0) for k in range(3)], 1)
    torch.testing.assert_close(shares, fit.model.class_probs(x).double(), atol=0.35, rtol=0)
    on = zoo.fit(fit.model, (x, y), init="current", max_epochs=1, learning_rate=1e-6)
    assert on.warmup is None  # the layers were learned already
    torch.testing.assert_close(on.model.encoder[0].weight, fit.model.encoder[0].weight)
    again = zoo.fit(fit.model, (x, y), max_epochs=1)
    assert again.warmup is not None
    with pytest.raises(zoo.ZooError, match=r"have left their decoders behind\. Leave out num_classes"):
        fit.model.reconstruct(x)


def test_without_labels_the_stack_is_a_denoising_autoencoder() -> None:
    x, _ = labelled()
    options: dict[str, Any] = {"estimator": "svi", "max_epochs": 3, "learning_rate": 1e-6}
    model = StackedDenoisingAutoencoder(9, (8, 6), noise=0.2, pretraining_epochs=150)
    fit = zoo.fit(model, x, **options)
    drawn = zoo.fit(StackedDenoisingAutoencoder(9, (8, 6), noise=0.2, pretraining_epochs=0), x, **options)
    assert fit.history["denoising"][-1] > drawn.history["denoising"][-1] + 30
    assert (fit.log_likelihood, fit.elbo) == (None, None)
    assert fit.model.reconstruct(x).shape == x.shape
    with pytest.raises(zoo.ZooError, match="expected a latent"):
        fit.predict(x)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"noise": (0.2, 0.2, 0.2)}, "noise expected one amount, or 2, a layer each, got 3"),
        ({"noise": (0.5, 0.1)}, "noise=0.1 of 4 features comes to none"),
        ({"num_classes": 1}, "num_classes expected at least 2, got 1"),
        ({"num_classes": 2.5}, "num_classes expected"),
        ({"pretraining_epochs": -1}, "pretraining_epochs expected"),
        ({"pretraining_rate": 0.0}, "pretraining_rate expected a number above 0"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(zoo.ZooError, match=f"StackedDenoisingAutoencoder: {match}"):
        StackedDenoisingAutoencoder(6, (4, 3), **arguments)


def test_bad_data_are_refused() -> None:
    model, (x, y) = tiny()
    plain = StackedDenoisingAutoencoder(4, (3,))
    for one, data, match in (
        (model, x, "data expected a dict of x, y, got a Tensor"),
        (model, {"x": x}, "data expected x and y, got x"),
        (model, (x, y[:3]), r"y expected shape \(6,\), a label a row, got \(3,\)"),
        (model, (x, y + 1), "y expected whole numbers from 0 to 1, got 2 in row"),
        (model, (x, y * 0.5), "y expected whole numbers from 0 to 1, got 0.5 in row"),
        (model, (x + 1, y), "pixels expected from 0 to white"),
        (plain, (x, y), "x expected one array, got a tuple. Pass num_classes for labels"),
    ):
        with pytest.raises(zoo.ZooError, match=match):
            zoo.fit(one, data)


def test_the_table_runs_at_toy_size(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = labelled(240)
    monkeypatch.setattr(sda, "_images", lambda split: (x.repeat(1, 88)[:, :784], y))
    small = {"images": 60, "runs": 2, "width": 6, "pretraining": 1, "epochs": 1}
    large = {"large_images": 70, "large_width": 10, "large_pretraining": 1, "large_epochs": 1}
    monkeypatch.setitem(sda.SETTINGS, "full", dataclasses.replace(sda.SETTINGS["full"], **small, **large))
    done = reproduce("sda", "full", say=lambda line: None)
    rows = {row["name"]: row for row in done.record["rows"]}
    assert {row["name"] for row in done.record["published"]} <= {name.replace("60", "10 000").replace("70", "50 000")
                                                                 for name in rows}  # fmt: skip
    assert len(rows["60 images, stacked denoising"]["errors"]) == 2
    assert all(0 <= row["value"] <= 100 for row in rows.values())


@pytest.mark.parametrize("budget", ["quick", "full"])
def test_what_was_recorded_is_in_the_order_of_the_paper(budget: str) -> None:
    record = json.loads((RESULTS / f"reproduce_sda_{budget}.json").read_text())
    assert record["published"] == sda.PUBLISHED
    assert record["setting"] == json.loads(json.dumps(vars(sda.SETTINGS[budget])))
    kinds: dict[str, dict[str, float]] = {}
    for row in record["rows"]:
        images, kind = row["name"].split(", ")
        kinds.setdefault(images, {})[kind] = row["value"]
        assert len(row["errors"]) == (3 if budget == "quick" else 1)
    for errors in kinds.values():
        assert min(errors, key=lambda kind: errors[kind]) == "stacked denoising"


def test_a_fit_to_labels_gives_the_codes_of_its_data() -> None:
    model, x = tiny()
    fit = zoo.fit(model, x)
    assert torch.equal(fit.transform(x), fit.model.encode(x))
