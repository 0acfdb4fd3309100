"""Memory formats, work without gradients, and memory: the fast ways give what the plain ones give."""

from __future__ import annotations

import pytest
import torch
from vae_pairs import diffusers, pixels, vae_pair

from glyphflow.generate.activations import LiveBytes, peak_bytes
from glyphflow.models import NANO_VAE, QWEN_IMAGE_VAE, VAE
from glyphflow.models.channelnorm import ChannelNorm
from glyphflow.models.vae_layers import PositionAttention, Upsample
from rounding import EXACT, LEEWAY

FORMATS = (torch.contiguous_format, torch.channels_last)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_channels_last_stays_so_and_gives_the_same_picture(dtype: torch.dtype, batch: int) -> None:
    """float32 within 1e-5; bfloat16 as far from the float32 picture as the reference's, within a tenth or rounding's leeway."""
    exact, ours = vae_pair(torch.float32)[1], vae_pair(dtype)[1]
    x = pixels(batch, 3, 32, 40).to(dtype)
    z = torch.randn(batch, 16, 8, 10, generator=torch.Generator().manual_seed(0)).to(dtype)
    for plain, last, truth in (
        (ours.encode(x).mean, ours.encode(x.contiguous(memory_format=FORMATS[1])).mean, exact.encode(x.float()).mean),
        (ours.decode(z), ours.decode(z.contiguous(memory_format=FORMATS[1])), exact.decode(z.float())),
    ):
        assert last.stride(1) == 1 and plain.stride(-1) == 1
        if dtype == torch.float32:
            torch.testing.assert_close(last, plain, atol=1e-5, rtol=0)
        else:
            error, usual = ((a.float() - truth).square().mean().sqrt() for a in (last, plain))
            assert error < (1.1 if EXACT else LEEWAY) * usual


@pytest.mark.parametrize("size", [(1, 1), (5, 8)])
def test_upsampling_at_once_is_repeating_and_convolving(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    upsample = Upsample(12, temporal=False)
    x = torch.randn(2, 12, *size)
    torch.testing.assert_close(upsample._at_once(x), upsample(x), atol=1e-5, rtol=0)


@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_norm_without_gradients_gives_the_same(dtype: torch.dtype, memory_format: torch.memory_format, silu: bool) -> None:
    norm = ChannelNorm(24, 3, silu).to(dtype)
    norm.gamma.data = (torch.rand(24, 1, 1, 1, generator=torch.Generator().manual_seed(0)) + 0.5).to(dtype)
    x = pixels(3, 24, 67, 130).to(dtype).contiguous(memory_format=memory_format)  # more than one band
    expected, before = norm(x).detach(), x.clone()
    tolerance = 1e-6 if dtype == torch.float32 else 0  # SiLU ends rows with a scalar exponential, and bands have more ends
    with torch.no_grad():
        torch.testing.assert_close(norm(x), expected, atol=tolerance, rtol=0)
        assert torch.equal(x, before)
        torch.testing.assert_close(norm(x, overwrite=True), expected, atol=tolerance, rtol=0)
        assert not torch.equal(x, before)


@pytest.mark.parametrize("memory_format", FORMATS)
@torch.no_grad()
def test_inputs_are_left_as_they_are(memory_format: torch.memory_format) -> None:
    ours = vae_pair(torch.float32)[1]
    x, z = pixels(1, 3, 16, 16).contiguous(memory_format=memory_format), torch.randn(1, 16, 2, 2)
    clip, latents = pixels(1, 3, 5, 16, 16), torch.randn(1, 16, 2, 2, 2)
    before = [tensor.clone() for tensor in (x, z, clip, latents)]
    for work, tensor in ((ours.encode, x), (ours.decode, z), (ours.encode, clip), (ours.decode, latents)):
        first, again = work(tensor), work(tensor)
        assert torch.equal(*(a if isinstance(a, torch.Tensor) else a.mean for a in (first, again)))
    assert all(torch.equal(a, b) for a, b in zip(before, (x, z, clip, latents), strict=True))


def test_memory_of_a_picture_beside_the_reference() -> None:
    """At full width, 512 x 512, bfloat16, counted on tensors without memory."""
    with torch.device("meta"):
        reference, ours = (network.eval().bfloat16() for network in (diffusers.AutoencoderKLQwenImage(), VAE(QWEN_IMAGE_VAE)))
        x, z = torch.empty(1, 3, 512, 512).bfloat16(), torch.empty(1, 16, 64, 64).bfloat16()
    decode, encode = (peak_bytes(lambda: ours.decode(z)), peak_bytes(lambda: ours.encode(x)))
    assert decode < 0.2 * peak_bytes(lambda: reference.decode(z[:, :, None]))
    assert encode < 0.3 * peak_bytes(lambda: reference.encode(x[:, :, None]))


@torch.no_grad()
def test_channels_last_repeats_no_pixels() -> None:
    """A decode in channels_last takes six sevenths of the memory."""
    ours, peaks = vae_pair(torch.float32, 3, base_dim=16)[1], []
    for memory_format in FORMATS:
        with LiveBytes() as live:
            ours.decode(torch.zeros(1, 16, 32, 32).contiguous(memory_format=memory_format))
        peaks.append(live.peak)
    assert peaks[1] < 0.9 * peaks[0]


@torch.no_grad()
def test_attention_holds_no_matrix_of_all_positions() -> None:
    attention, side = PositionAttention(8), 32
    with LiveBytes() as live:
        attention(torch.randn(1, 8, side, side))
    assert live.peak < side**4  # bytes: a quarter of the matrix


@pytest.mark.parametrize("memory_format", FORMATS)
@torch.no_grad()
def test_autocast_works_without_gradients(memory_format: torch.memory_format) -> None:
    vae = VAE(NANO_VAE).init_weights(torch.Generator().manual_seed(0))
    x = pixels(2, 3, 16, 24).contiguous(memory_format=memory_format)
    expected = vae.decode(vae.encode(x).mean)
    with torch.autocast("cpu", torch.bfloat16):
        found = vae.decode(vae.encode(x).mean)
    assert found.dtype == torch.bfloat16 and (found.float() - expected).abs().max() < 0.1
