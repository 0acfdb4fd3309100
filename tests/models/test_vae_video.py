"""Clips through the VAE: the chunked past against diffusers, and what must hold without a reference."""

from __future__ import annotations

import pytest
import torch
from vae_pairs import assert_same, pixels, vae_pair

from glyphflow.models import VAE

ONE_ULP = 2.0**-8  # of bfloat16 between 0.5 and 1, where the largest values of these tests lie


@pytest.mark.parametrize("frames", [1, 2, 5, 9])
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_clips_equal_the_reference(dtype: torch.dtype, channels: int, frames: int) -> None:
    """Decoding is equal to the bit in bfloat16; encoding has a rare flip of the last one."""
    reference, ours = vae_pair(dtype, channels)
    x = pixels(2, channels, frames, 32, 24).to(dtype)
    expected = reference.encode(x).latent_dist
    assert_same(ours, lambda vae, x: vae.encode(x).mean, x, expected.mean, ONE_ULP)
    assert_same(ours, lambda vae, x: vae.encode(x).logvar, x, expected.logvar, ONE_ULP)
    z = torch.randn(2, 16, frames, 4, 3, generator=torch.Generator().manual_seed(2)).to(dtype)
    assert ours.decode(z).shape == (2, channels, 4 * frames - 3, 32, 24)
    assert_same(ours, VAE.decode, z, reference.decode(z).sample)


@torch.no_grad()
def test_another_number_of_temporal_steps_equals_the_reference() -> None:
    reference, ours = vae_pair(torch.float32, 3, dim_mult=(1, 2, 4), temperal_downsample=(False, True))
    x = pixels(1, 3, 9, 16, 20)
    expected = reference.encode(x).latent_dist.mean
    torch.testing.assert_close(ours.encode(x).mean, expected, atol=1e-5, rtol=0)
    assert expected.shape == (1, 16, 5, 4, 5)
    torch.testing.assert_close(ours.decode(expected), reference.decode(expected).sample, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_a_clip_of_one_frame_is_a_picture(dtype: torch.dtype) -> None:
    ours = vae_pair(dtype)[1]
    x = pixels(2, 3, 1, 16, 24).to(dtype)
    posterior = ours.encode(x)
    assert torch.equal(posterior.mean[:, :, 0], ours.encode(x[:, :, 0]).mean)
    assert torch.equal(ours.decode(posterior.mean)[:, :, 0], ours.decode(posterior.mean[:, :, 0]))


@torch.no_grad()
def test_frames_after_the_last_whole_group_are_left_out() -> None:
    ours = vae_pair(torch.float32)[1]
    x = pixels(1, 3, 8, 16, 16)
    whole = ours.encode(x[:, :, :5]).mean
    assert torch.equal(ours.encode(x).mean, whole) and torch.equal(ours.encode(x[:, :, :4]).mean, whole[:, :, :1])


@torch.no_grad()
def test_no_frame_sees_a_later_one_and_no_clip_another() -> None:
    ours = vae_pair(torch.float32)[1]
    x = pixels(2, 3, 9, 16, 16)
    both = ours.encode(x).mean
    torch.testing.assert_close(ours.encode(x[1:]).mean, both[1:], atol=1e-6, rtol=0)
    assert torch.equal(ours.encode(x[:, :, :5]).mean, both[:, :, :2])
    assert torch.equal(ours.decode(both[:, :, :2]), ours.decode(both)[:, :, :5])


def test_gradients_reach_every_weight_of_a_clip() -> None:
    ours = vae_pair(torch.float32)[1]
    x = pixels(1, 3, 9, 16, 16)
    posterior = ours.encode(x)
    (ours.decode(posterior.mean).square().mean() + posterior.logvar.mean()).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in ours.parameters())
    ours.zero_grad()


@torch.no_grad()
def test_latents_of_clips_are_standardised_per_channel() -> None:
    ours = vae_pair(torch.float32)[1]
    z = torch.randn(2, 16, 3, 2, 2)
    expected = torch.stack([ours.standardise(frame) for frame in z.unbind(2)], dim=2)
    assert torch.equal(ours.standardise(z), expected)
    torch.testing.assert_close(ours.unstandardise(expected), z)
