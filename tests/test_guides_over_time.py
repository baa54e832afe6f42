"""Loops over time on packed sequences: torch's own networks, autograd, and a loop over one sequence are the oracles."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from guides import chain, gated
from guides.chain import AmortizedChain
from guides.combiner import Combiner
from guides.packing import Packing, Padding
from guides.walks import recur, recur_both_ways

LENGTHS = torch.tensor([3, 5, 1, 5, 2])


def frames(size: int = 4, lengths: Tensor = LENGTHS) -> Tensor:
    return torch.randn(len(lengths), int(lengths.max()), size, dtype=torch.float64)


def combiner(cell: str = "gru", flow: str | None = None) -> Combiner:
    made = Combiner(4, 2, 6, cell, flow, 2 if flow else 1).double()
    with torch.no_grad():
        for p in made.parameters():
            p += 0.3 * torch.randn_like(p)
    return made


def test_packing_puts_each_frame_where_it_says() -> None:
    x, packing = frames(), Packing(LENGTHS)
    packed = packing.pack(x)
    there = torch.arange(5) < LENGTHS.unsqueeze(-1)
    assert packing.sizes == [5, 4, 3, 2, 2]
    assert torch.equal(packing.unpack(packed), x * there.unsqueeze(-1))
    assert torch.equal(packing.unpack(packed, 7)[:, 5:], torch.zeros(5, 2, 4, dtype=x.dtype))
    torch.testing.assert_close(packing.sums(packed), (x * there.unsqueeze(-1)).sum(1))
    start = torch.full((4,), 9.0, dtype=x.dtype)
    mirrored, before = (packing.unpack(f(packed)) for f in (packing.mirrored, lambda y: packing.before(y, start)))
    for n, length in enumerate(LENGTHS.tolist()):
        assert torch.equal(mirrored[n, :length], x[n, :length].flip(0))
        assert torch.equal(before[n, :length], torch.cat([start[None], x[n, : length - 1]]))
    draws = [torch.randn(3, 5, 2) for _ in range(5)]
    kept = packing.unpack(packing.pack_draws(draws))
    for n, length in enumerate(LENGTHS.tolist()):
        for t in range(length):
            assert torch.equal(kept[n, t], draws[t][:, n])


@pytest.mark.parametrize(("cell", "flow"), [("gru", None), ("rnn", None), ("gru", "iaf")])
def test_padding_gives_what_packing_gives(cell: str, flow: str | None) -> None:
    guide = combiner(cell, flow)
    x, noise = frames(), [torch.randn(3, 5, 2, dtype=torch.float64) for _ in range(6)]
    x = torch.cat([x, x[:, :1]], 1)  # room for a step that no sequence has
    x[torch.arange(6) >= LENGTHS.unsqueeze(-1)] = torch.nan

    def results(packing: Packing) -> list[Tensor]:
        draws = packing.pack_draws(noise[: len(packing.sizes)])
        paths = guide.paths(guide.ahead(packing.pack(x), packing), packing, draws)
        before = packing.before(paths.z, guide.start)
        sums = packing.sums(paths.log_prob + (paths.z * before).sum(-1))
        grads = torch.autograd.grad(sums.square().sum(), [*guide.parameters()])
        return [packing.unpack(paths.z, 6).detach(), packing.unpack(before, 6).detach(), sums.detach(), *grads]

    for one, other in zip(results(Packing(LENGTHS)), results(Padding(LENGTHS, 6)), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("kind", "size", "looped"), [(nn.GRU, 6, False), (nn.RNN, 6, False), (nn.GRU, 9, True)])
def test_recurrent_networks_and_their_gradients_are_torchs(
    kind: Any, size: int, looped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if looped:
        monkeypatch.setattr(gated, "MANY_STEPS", 1)
    torch.manual_seed(0)
    network = kind(4, size, **({"nonlinearity": "relu"} if kind is nn.RNN else {})).double()
    packing = Packing(LENGTHS)
    x, start = packing.pack(frames()).requires_grad_(), torch.randn(size, dtype=torch.float64, requires_grad=True)
    packed = pack_padded_sequence(packing.unpack(x), LENGTHS, batch_first=True, enforce_sorted=False)
    theirs = pad_packed_sequence(network(packed, start.expand(1, 5, -1).contiguous())[0], batch_first=True)[0]
    ours = packing.unpack(recur(network, x, start, packing))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-14)
    weights, moved = torch.randn_like(ours), [x, start, *network.parameters()]
    pairs = [torch.autograd.grad((out * weights).sum(), moved) for out in (ours, theirs)]
    for mine, other in zip(*pairs, strict=True):
        assert other.abs().max() > 1e-3
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-13)


def test_a_chains_two_way_network_and_its_gradients_are_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    guide = AmortizedChain(4, 3, 6).double()
    x = frames().requires_grad_()
    moved = [x, *guide.parameters()]
    weights = torch.randn(5, 4, 3, 3, dtype=x.dtype)
    found = []
    for few in (chain.FEW_A_STEP, 0):
        monkeypatch.setattr(chain, "FEW_A_STEP", few)
        first, steps = guide(x, LENGTHS)
        out = first[:, 0].sum() + (weights * steps).sum()
        found.append((first, steps, *torch.autograd.grad(out, moved)))
        with torch.no_grad():
            found[-1] += guide(x, LENGTHS)
    for ours, theirs in zip(*found, strict=True):
        assert theirs.abs().max() > 1e-3
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)
    assert not torch.equal(found[0][2], found[1][2])  # two ways to the same numbers


def test_a_long_series_takes_loops_whose_numbers_are_those_of_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = nn.GRU(3, 16, batch_first=True, bidirectional=True).double()
    lengths = torch.tensor([gated.MANY_STEPS, 5])
    packing, x = Packing(lengths), torch.randn(gated.MANY_STEPS + 5, 3, dtype=torch.float64, requires_grad=True)
    found = []
    for most in (gated.FEW_A_STEP, 0):
        monkeypatch.setattr(gated, "FEW_A_STEP", most)
        out = recur_both_ways(network, x, packing)
        found.append((out, *torch.autograd.grad(out.square().sum(), [x, *network.parameters()])))
    for ours, theirs in zip(*found, strict=True):
        assert theirs.abs().max() > 1e-3
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)
    assert not torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize("draws", [1, 3])
@pytest.mark.parametrize("cell", ["gru", "rnn"])
def test_paths_and_their_gradients_are_those_of_a_plain_loop(cell: str, draws: int) -> None:
    torch.manual_seed(1)
    made, packing, x = combiner(cell), Packing(LENGTHS), frames()
    noise = torch.randn(int(LENGTHS.sum()), draws, 2, dtype=torch.float64)
    ahead = made.ahead(packing.pack(x), packing)
    ours = made.paths(ahead, packing, noise)
    found: dict[tuple[int, int], list[Tensor]] = {}
    by_step, of_noise = packing.unpack(made.ahead(packing.pack(x), packing)), packing.unpack(noise)
    for n, length in enumerate(LENGTHS.tolist()):
        z = made.start.expand(draws, 2)
        for t in range(length):
            q: Any = made(z, by_step[n, t])
            z = q.mean + q.stddev * of_noise[n, t]
            found[n, t] = [z, q.mean, q.stddev, q.log_prob(z)]
    where = list(zip(packing.sequence.tolist(), packing.time.tolist(), strict=True))
    theirs = [torch.stack([found[at][part] for at in where]) for part in range(4)]
    weights = [torch.randn_like(part) for part in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-13)
    moved = list(made.parameters())
    pairs = [
        torch.autograd.grad(sum((p * w).sum() for p, w in zip(parts, weights, strict=True)), moved)
        for parts in (ours, theirs)
    ]
    for mine, other in zip(*pairs, strict=True):
        assert other.abs().max() > 1e-3
        torch.testing.assert_close(mine, other, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("flow", ["iaf", "planar"])
def test_flows_bend_paths_and_know_their_density(flow: str) -> None:
    torch.manual_seed(2)
    made, packing = combiner(flow=flow), Packing(LENGTHS)
    ahead = made.ahead(packing.pack(frames()), packing)
    noise = torch.randn(int(LENGTHS.sum()), 3, 2, dtype=torch.float64)
    paths = made.paths(ahead, packing, noise)
    first = slice(0, packing.sizes[0])
    q = made(made.start.expand(packing.sizes[0], 3, 2), ahead[first].unsqueeze(1))
    bent = q.base_dist.mean + q.base_dist.stddev * noise[first]
    for step in q.transforms:
        bent = step(bent)
    torch.testing.assert_close(paths.z[first], bent)
    torch.testing.assert_close(paths.log_prob[first], q.log_prob(bent))
    assert not torch.allclose(paths.z, paths.loc + paths.scale * noise, atol=1e-2)


def test_what_lies_beyond_a_length_is_never_read() -> None:
    made, packing, x = combiner(), Packing(LENGTHS), frames()
    there = (torch.arange(5) < LENGTHS.unsqueeze(-1)).unsqueeze(-1)
    spoilt = torch.where(there, x, torch.nan)
    assert torch.equal(made.ahead(packing.pack(x), packing), made.ahead(packing.pack(spoilt), packing))


@pytest.mark.slow
def test_the_cost_grows_as_the_steps_do() -> None:
    """Slow for being timed: processor seconds of a gradient against T, a line through logarithms."""
    made, spent, steps = combiner(), [], (200, 800, 3200)
    for length in steps:
        lengths = torch.full((4,), length)
        packing, x = Packing(lengths), frames(4, lengths)
        noise = torch.randn(4 * length, 1, 2, dtype=torch.float64)
        times = []
        for _ in range(5):
            began = time.process_time()
            made.paths(made.ahead(packing.pack(x), packing), packing, noise).z.sum().backward()
            times.append(time.process_time() - began)
        spent.append(min(times))
    logs = torch.tensor([steps, spent], dtype=torch.float64).log()
    centred = logs - logs.mean(1, keepdim=True)
    assert float((centred[0] * centred[1]).sum() / centred[0].square().sum()) == pytest.approx(1.0, abs=0.15)
