"""CTC: its sums against all alignments written out and against torch's, its guide, its networks, its data."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import oracles
import pyro
import pytest
import torch
from torch import Tensor, nn

import zoo
from zoo.core.data import call, take
from zoo.core.problem import Problem
from zoo.errors import ZooError
from zoo.estimators.reinforce import Reinforce
from zoo.models import gaussian_mixture
from zoo.models.ctc import CTC, tiny
from zoo.reporting import alignments
from zoo.reporting.page import Page
from zoo.structures import Structured

Batch = dict[str, Tensor]


def small(**more: Any) -> tuple[CTC, Batch]:
    """``tiny()`` in float64, or another model of its size."""
    model, data = tiny()
    model = CTC(num_features=2, num_symbols=2, hidden_dim=3, **more) if more else model
    return model.double(), {**data, "x": data["x"].double()}


def string_of(path: list[int]) -> list[int]:
    return [symbol for symbol, _ in itertools.groupby(path) if symbol > 0]


def paths_of(data: Batch, n: int) -> list[list[int]]:
    """All alignments of one item, padded with -1."""
    length, steps = int(data["lengths"][n]), data["x"].shape[1]
    target = data["y"][n, : int(data["target_lengths"][n])].tolist()
    paths = [list(path) for path in itertools.product(range(3), repeat=length)]
    return [path + [-1] * (steps - length) for path in paths if string_of(path) == target]


def test_the_value_and_its_gradient_are_those_of_torch() -> None:
    model, data = small()
    ours = call(model.log_marginal, data)
    log_probs = model.log_probs(data["x"], data["lengths"]).transpose(0, 1)
    sizes = (data["lengths"], data["target_lengths"])
    theirs = -nn.functional.ctc_loss(log_probs, data["y"], *sizes, reduction="none")
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    parameters = [*model.network.parameters(), *model.head.parameters()]
    for a, b in zip(
        *(torch.autograd.grad(v.sum(), parameters, retain_graph=True) for v in (ours, theirs)), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_the_posterior_is_that_of_all_alignments() -> None:
    model, data = small()
    posterior = call(model.posterior, data)
    shares = oracles.posterior(model.model, data)
    for n, item in enumerate(shares):
        values = {tuple(z["z"].reshape(-1).tolist()): share for z, share in item if share > 0}
        assert sorted(values) == sorted(map(tuple, paths_of(data, n)))
        for path, share in values.items():
            draw = torch.full_like(data["y"][:, :1], -1).expand(-1, data["x"].shape[1]).clone()
            draw[n] = torch.tensor(path)
            assert float(posterior.log_prob(draw)[n].exp().detach()) == pytest.approx(share, abs=1e-12)


def test_the_bound_is_the_sum_over_all_alignments_under_the_guide() -> None:
    model, data = small()
    bound = call(model.elbo, data)
    q, log_p = call(model.guide_alignment, data), model.log_probs(data["x"], data["lengths"])
    for n in range(3):
        scores, energies = [], []
        for path in paths_of(data, n):
            steps = [(t, s) for t, s in enumerate(path) if s >= 0]
            scores.append(sum(q.log_probs[n, t, s] for t, s in steps))
            energies.append(sum(log_p[n, t, s] for t, s in steps))
        log_q = torch.stack(scores).log_softmax(0)  # type: ignore[arg-type]
        by_hand = (log_q.exp() * (torch.stack(energies) - log_q)).sum()  # type: ignore[arg-type]
        torch.testing.assert_close(bound[n], by_hand, rtol=1e-10, atol=0)
    assert (bound < call(model.log_marginal, data) - 1e-3).all()
    model.guide_network.load_state_dict(model.network.state_dict())
    model.guide_head.load_state_dict(model.head.state_dict())
    torch.testing.assert_close(call(model.elbo, data), call(model.log_marginal, data), rtol=1e-10, atol=0)


def test_the_score_function_is_unbiased_about_the_exact_gradient_of_the_bound() -> None:
    model, data = small()
    parameters = [model.head.bias, model.guide_head.bias]
    exact = torch.autograd.grad(-call(model.elbo, data).mean(), parameters)
    objective = Reinforce(num_particles=200).objective(Problem(model, data))
    pyro.set_rng_seed(0)
    draws = [torch.autograd.grad(objective(data).surrogate, parameters) for _ in range(30)]
    for i, truth in enumerate(exact):
        each = torch.stack([draw[i] for draw in draws])
        error = (each.mean(0) - truth).abs()
        assert (error < 5 * each.std(0) / len(each) ** 0.5 + 1e-12).all()
        assert truth.abs().max() > 8 * each.std(0).max() / len(each) ** 0.5, "too noisy to tell"


def test_padding_is_inert() -> None:
    model, data = small()
    beyond = torch.arange(6) >= data["lengths"][:, None]
    x = nn.functional.pad(data["x"], (0, 0, 0, 2)).masked_fill(beyond[..., None], 7.0)
    y = nn.functional.pad(data["y"], (0, 3))
    wide = model.validate({**data, "x": x, "y": y})
    for method in (model.log_marginal, model.elbo):
        torch.testing.assert_close(call(method, wide), call(method, data), rtol=1e-12, atol=0)
    assert model.predict(wide["x"], wide["lengths"]).equal(model.predict(data["x"], data["lengths"]))
    unsaid = model.validate({"x": data["x"], "lengths": data["lengths"], "y": y})
    assert unsaid["target_lengths"].equal(data["target_lengths"])


class Told(nn.Module):
    """A network that sums what came before, and reads the lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 5)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        inside = torch.arange(x.shape[1]) < lengths[:, None]
        return self.layer(x * inside[..., None]).cumsum(1) / lengths[:, None, None]


class Smooth(nn.Module):
    """A network without lengths, whose last frames see beyond the end."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv1d(2, 4, 3, padding=1)
        self.again = nn.Conv1d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.layer(x.transpose(1, 2)).relu()).transpose(1, 2)


@pytest.mark.parametrize("network", [Told, Smooth])
def test_a_network_of_the_users_own(network: type[nn.Module], tmp_path: Path) -> None:
    given = network()
    model, data = small(network=given)
    whole = call(model.log_marginal, data)
    alone = torch.cat([call(model.log_marginal, take_one(model, data, n)) for n in range(3)])
    torch.testing.assert_close(whole, alone, rtol=1e-12, atol=0)
    kept = copy.deepcopy(given.state_dict())
    fit = zoo.fit(model, data, estimator="eg", max_epochs=3, init="current")
    assert all(torch.equal(kept[name], value) for name, value in given.state_dict().items())
    fit.save(tmp_path / "a")
    with pytest.raises(ZooError, match="pass model="):
        zoo.load(tmp_path / "a")
    again = zoo.load(tmp_path / "a", model=model)
    assert torch.equal(call(again.model.log_marginal, data), call(fit.model.log_marginal, data))


def take_one(model: CTC, data: Batch, n: int) -> Any:
    """One item, cut to its own lengths."""
    one = take(data, slice(n, n + 1))
    t, u = int(one["lengths"]), int(one["target_lengths"])
    return {**one, "x": one["x"][:, :t], "y": one["y"][:, :u]}


def test_a_network_that_shortens_its_input_is_refused() -> None:
    with pytest.raises(ZooError, match=r"network expected to give \(N, T, H\) of .*, gave \(1, 16\) of \(1, 8, 2\)"):
        CTC(2, 2, network=nn.Flatten())


def test_predictions_are_made_from_what_is_given_alone() -> None:
    model, data = small()
    fit = zoo.fit(model, data, estimator="eg", max_epochs=2)
    given = {"x": data["x"], "lengths": data["lengths"]}
    log_probs = fit.model.log_probs(**given)
    paths = [item[:n].argmax(-1).tolist() for item, n in zip(log_probs, data["lengths"].tolist(), strict=True)]
    strings = [[s for s in row if s] for row in fit.predict(given).tolist()]
    assert strings == [string_of(path) for path in paths]
    assert fit.predict(data).equal(fit.predict(given))
    wide = fit.model.predict(**given, width=50)
    for n, row in enumerate(wide.tolist()):
        best = [s for s in row if s]
        scores = {}
        for length in range(3):
            for string in itertools.product((1, 2), repeat=length):
                item = {k: v[n : n + 1] for k, v in given.items()}
                try:
                    whole = fit.model.prepare({**item, "y": torch.tensor([[*string, 0]])})
                except ZooError:
                    continue  # too long for its frames
                scores[string] = float(call(fit.model.log_marginal, whole).detach())
        assert len(best) > 2 or scores[tuple(best)] == max(scores.values())


def test_a_draw_of_y_is_what_a_draw_of_z_spells() -> None:
    model, data = small()
    fit = zoo.fit(model, data, estimator="eg", max_epochs=2)
    given = {"x": data["x"][:1].expand(4000, -1, -1), "lengths": data["lengths"][:1].expand(4000)}
    y = fit.sample(given=given)
    share = float((y == torch.tensor([1, 2, 0, 0])).all(-1).double().mean())
    exact = float(
        call(fit.model.log_marginal, fit.model.prepare({**take(given, slice(0, 1)), "y": [[1, 2]]})).detach().exp()
    )
    assert share == pytest.approx(exact, abs=4 * (exact / 4000) ** 0.5)


def test_symbols_are_found_in_time() -> None:
    # Frames that say their symbol: the blank at (0, 0), symbol 1 to the right, symbol 2 above.
    network = nn.Linear(2, 2)
    model = CTC(2, 2, network=network).double()
    with torch.no_grad():
        model.network.weight.copy_(torch.eye(2))
        model.network.bias.zero_()
        model.head.weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
        model.head.bias.copy_(torch.tensor([4.0, 0.0, 0.0]))
    frames = {0: [0.0, 0.0], 1: [9.0, 0.0], 2: [0.0, 9.0]}
    said = [[0, 1, 1, 0, 1, 2, 2, 2], [2, 0, 0, 0, 0, 0, 0, 0]]
    x = torch.tensor([[frames[s] for s in row] for row in said], dtype=torch.float64)
    found = model.align({"x": x, "lengths": [8, 3], "y": [[1, 1, 2], [2, 0, 0]]})
    assert found.tolist() == [[[1, 2], [4, 4], [5, 7]], [[0, 0], [-1, -1], [-1, -1]]]


def test_gumbel_is_refused_for_a_guide_over_whole_alignments() -> None:
    model, data = small()
    with pytest.raises(ZooError, match=r"gumbel cannot fit this model: .*got Structured"):
        zoo.fit(model, data, estimator="gumbel")


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("long", {"y": [[1, 1], [2, 2], [2, 1]], "target_lengths": [2, 2, 2]},
     "sequence 1 expected at least 3 frames for its 2 symbols .* got 2"),
    ("symbol", {"y": [[1, 1], [3, 0], [2, 1]]}, "y expected symbols from 1 to 2, got 3 in sequence 1"),
    ("part", {"y": [[1, 1], [1.5, 0], [2, 1]]}, "y expected symbols from 1 to 2, got 1.5 in sequence 1"),
    ("blank", {"y": [[1, 1], [0, 2], [2, 1]], "target_lengths": None},
     "y expected symbols from 1 to 2, got 0, the blank, inside the target of sequence 1"),
    ("size", {"target_lengths": [2, 1, 3]}, "target_lengths expected from 0 to 2, got 3 for sequence 2"),
    ("length", {"lengths": [4, 0, 3]}, "lengths expected from 1 to 4, got 0 for sequence 1"),
    ("half", {"lengths": [4, 2.5, 3]}, "lengths expected whole numbers, got 2.5 for sequence 1"),
    ("few", {"lengths": [4, 2]}, r"lengths expected shape \(3,\), one a sequence, got \(2,\)"),
    ("shape", {"x": [[1.0, 2.0]]}, r"x expected shape \(N, T, 2\), frames of each sequence, got \(1, 2\)"),
    ("rows", {"y": [[1, 1]]}, r"y expected shape \(3, U\)"),
    ("name", {"z": [1.0, 2.0, 3.0]}, "data expected a dict of x, lengths, y, target_lengths, got x, lengths, y"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "says"), [(c, s) for _, c, s in BAD], ids=[name for name, _, _ in BAD])
def test_bad_data_are_refused_by_item(change: dict[str, Any], says: str) -> None:
    model, data = small()
    changed = {k: v for k, v in {**data, **change}.items() if v is not None}
    with pytest.raises(ZooError, match=f"CTC: {says}") as caught:
        model.prepare(changed)
    assert "\n" not in str(caught.value)


def test_what_is_not_finite_is_refused_within_the_lengths() -> None:
    model, data = small()
    x = data["x"].clone()
    x[1, 3] = torch.nan
    model.prepare({**data, "x": x})
    x[2, 1] = torch.nan
    with pytest.raises(ZooError, match="x expected finite numbers, got NaN or infinite ones in sequence 2"):
        model.prepare({**data, "x": x})


def test_an_empty_target_is_all_blanks() -> None:
    model, data = small()
    empty = model.prepare({"x": data["x"], "y": torch.zeros(3, 0)})
    blanks = model.log_probs(empty["x"], empty["lengths"])[..., 0].sum(-1)
    torch.testing.assert_close(call(model.log_marginal, empty), blanks, rtol=1e-12, atol=0)


def test_the_posterior_of_a_fit_is_over_alignments() -> None:
    model, data = small()
    fit = zoo.fit(model, data, estimator="svi", max_epochs=2)
    posterior = fit.posterior(data)
    assert isinstance(posterior, Structured)
    assert posterior.structure.marginals().log_probs.sum(-1)[1].tolist() == pytest.approx([1, 1, 0, 0])
    assert fit.elbo is not None
    assert fit.log_likelihood is not None
    assert fit.elbo < fit.log_likelihood


def test_the_picture_is_of_models_with_alignments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = small()
    fit = zoo.fit(model, data, estimator="eg", max_epochs=1)
    seen: list[Any] = []
    monkeypatch.setattr(Page, "save", lambda self, path: seen.append(self.figure.axes) or path)
    alignments.plot_alignment(fit, data, tmp_path / "a.png", item=2)
    above, below = seen[0]
    shares = call(fit.model.structure, data).marginals().log_probs[2, :3]
    lines = [line.get_ydata() for line in below.get_lines()]
    assert [pytest.approx(line) for line in lines] == [shares[:, 1].tolist(), shares[:, 2].tolist()]
    assert [text.get_text() for text in above.texts] == ["2", "1"]
    assert "y = 2 1" in above.get_title("left")
    mixture = zoo.fit(*gaussian_mixture.tiny(), max_iter=1)
    with pytest.raises(ZooError, match="expected a model of symbols given frames, got GaussianMixture"):
        alignments.plot_alignment(mixture, gaussian_mixture.tiny()[1], tmp_path / "b.png")


def test_on_the_command_line(run: Callable[..., Any], tmp_path: Path) -> None:
    small = ("--set", "max_epochs=1", "--set", "hidden_dim=4")
    done = run("fit", "ctc", *small, "--out", "a")
    assert done.code == 0, done.err
    assert (tmp_path / "a" / "alignment.png").is_file()
    assert run("sample", "a", "-n", "3", "--out", "s.csv").code == 0
    head, *rows = (line.split(",") for line in (tmp_path / "s.csv").read_text().splitlines())
    assert head[:3] == ["row", "y0", "y1"]
    assert len(rows) == 3
    assert all(1 <= int(row) <= 400 for row, *_ in rows)
    assert {cell for _, *cells in rows for cell in cells} <= set("01234")
    scored = run("evaluate", "a")
    assert scored.code == 0
    assert "(exact)" in scored.out
