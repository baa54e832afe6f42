"""The guides made of networks: shapes, the distributions they give, flows against numerical Jacobians."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import kl_divergence

from guides import AmortizedBits, AmortizedCode, AmortizedFlow, AmortizedNormal, ConvDecoder, ConvEncoder


def test_diagonal_gaussian_is_read_off_two_heads() -> None:
    q = AmortizedNormal(4, 3, (6,), "relu")
    x = torch.randn(2, 5, 4)
    loc, scale = q.moments(x)
    assert q(x).batch_shape == (2, 5)
    assert q(x).event_shape == (3,)
    torch.testing.assert_close(q(x).mean, loc)
    torch.testing.assert_close(q(x).stddev, scale)
    assert (scale > 0).all()
    linear = AmortizedNormal(4, 3, ())
    torch.testing.assert_close(linear.moments(2 * x)[0] - linear.moments(x)[0], x @ linear.loc.weight.mT)
    q.set_from(10 + 5 * x.reshape(-1, 4))
    assert not torch.equal(q.moments(x)[0], loc), "inputs are standardised where there is a layer for it"


def test_codes_are_independent_variables() -> None:
    code, bits = AmortizedCode(4, 3, 5), AmortizedBits(4, 3)
    x = torch.randn(2, 7, 4)
    q, b = code(x), bits(x)
    assert (q.batch_shape, q.event_shape) == ((2, 7), (3, 5))
    assert (b.batch_shape, b.event_shape) == ((2, 7), (3,))
    z = q.sample()
    assert (z.sum(-1) == 1).all()
    by_hand = (code[1](x).reshape(2, 7, 3, 5).log_softmax(-1) * z).sum((-2, -1))
    torch.testing.assert_close(q.log_prob(z), by_hand)
    assert not q.has_enumerate_support
    assert not q.has_rsample
    assert kl_divergence(q, q).abs().max() < 1e-6


@pytest.mark.parametrize("kind", ["planar", "iaf"])
def test_flow_density_is_the_base_over_the_jacobian(kind: str) -> None:
    torch.manual_seed(0)
    flow = AmortizedFlow(AmortizedNormal(4, 2, (6,)), 6, 2, kind, 3).double()
    with torch.no_grad():
        for p in flow.flows.parameters():
            p *= 2
    x = torch.randn(1, 4).double()
    q = flow(x)
    noise = torch.randn(1, 2).double()
    gaussian = q.base_dist

    def bent(z: torch.Tensor) -> torch.Tensor:
        for transform in flow(x).transforms:
            z = transform(z)
        return z

    start = gaussian.mean + gaussian.stddev * noise
    jacobian = torch.autograd.functional.jacobian(bent, start)[0, :, 0]  # type: ignore[index]
    torch.manual_seed(1)
    drawn = q.rsample()
    torch.manual_seed(1)
    origin = gaussian.rsample()
    torch.testing.assert_close(drawn, bent(origin))
    local = torch.autograd.functional.jacobian(bent, origin)[0, :, 0]  # type: ignore[index]
    expected = gaussian.log_prob(origin) - torch.linalg.slogdet(local).logabsdet
    torch.testing.assert_close(q.log_prob(drawn), expected)
    assert abs(float(torch.linalg.slogdet(jacobian).logabsdet)) > 1e-3, "a flow that bends nothing would pass"


def test_flow_density_integrates_to_one() -> None:
    torch.manual_seed(0)
    flow = AmortizedFlow(AmortizedNormal(3, 2, (5,)), 5, 2, "iaf", 2).double()
    x = torch.randn(1, 3).double()
    line = torch.linspace(-9, 9, 301).double()
    grid = torch.cartesian_prod(line, line).unsqueeze(1)
    with torch.no_grad():
        total = flow(x).log_prob(grid).logsumexp(0) + 2 * math.log(float(line[1] - line[0]))
    assert float(total) == pytest.approx(0.0, abs=1e-4)


def test_convolutions_keep_leading_dimensions_and_pixels_in_place() -> None:
    encoder, decoder = ConvEncoder(64, 7), ConvDecoder(3, 64, 7, outputs=2)
    x, z = torch.randn(2, 5, 64), torch.randn(2, 5, 3)
    assert encoder(x).shape == (2, 5, 7)
    out = decoder(z)
    assert out.shape == (2, 5, 128)
    one = decoder.layers(z[1, 3:4])  # (1, 2, 8, 8)
    torch.testing.assert_close(out[1, 3].reshape(8, 8, 2), one[0].permute(1, 2, 0))
    torch.testing.assert_close(encoder(x)[1, 3], encoder(x[1, 3:4])[0])


@pytest.mark.parametrize("pixels", [15, 36])
def test_images_must_suit_the_strides(pixels: int) -> None:
    with pytest.raises(ValueError, match=f"side is a multiple of 4, got {pixels} pixels"):
        ConvEncoder(pixels, 3)
