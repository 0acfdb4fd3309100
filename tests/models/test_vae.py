"""The picture path of the VAE against diffusers' video VAE on one frame, its training path, and the pixel helpers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from vae_pairs import TINY, assert_same, pixels, vae_pair

from glyphflow.core.errors import GlyphFlowError, InputError
from glyphflow.models import NANO_VAE, QWEN_IMAGE_VAE, VAE, Posterior, VAEConfig, image_to_tensor, tensor_to_images
from glyphflow.models.channelnorm import ChannelNorm


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("size", [(8, 8), (32, 56), (40, 24)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_encode_and_decode_equal_the_reference(dtype: torch.dtype, size: tuple[int, int], channels: int) -> None:
    reference, ours = vae_pair(dtype, channels)
    x = pixels(2, channels, *size).to(dtype)
    expected = reference.encode(x[:, :, None]).latent_dist
    assert_same(ours, lambda vae, x: vae.encode(x).mode(), x, expected.mode()[:, :, 0])
    assert_same(ours, lambda vae, x: vae.encode(x).logvar, x, expected.logvar[:, :, 0])
    assert_same(ours, VAE.decode, expected.mode()[:, :, 0], reference.decode(expected.mode()).sample[:, :, 0])


@torch.no_grad()
def test_decoded_pictures_are_clamped() -> None:
    ours = vae_pair(torch.float32)[1]
    out = ours.decode(100 * torch.randn(1, 16, 2, 2))
    assert out.shape == (1, 3, 16, 16) and out.abs().max() <= 1


def test_posterior_draws_with_the_callers_generator() -> None:
    posterior = Posterior(torch.full((1, 2, 1, 1), 3.0), torch.full((1, 2, 1, 1), 2 * np.log(0.5)))
    noise = torch.randn(1, 2, 1, 1, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(posterior.sample(torch.Generator().manual_seed(5)), 3.0 + 0.5 * noise)
    assert torch.equal(posterior.mode(), posterior.mean)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_standardising_uses_the_released_constants_and_rounds_like_the_pipeline(dtype: torch.dtype) -> None:
    vae = vae_pair(torch.float32)[1]
    z = torch.randn(1, 16, 2, 2, generator=torch.Generator().manual_seed(0)).to(dtype)
    mean = torch.tensor(QWEN_IMAGE_VAE.latents_mean).to(dtype)[:, None, None]
    std = torch.tensor(QWEN_IMAGE_VAE.latents_std).to(dtype)[:, None, None]
    assert QWEN_IMAGE_VAE.latents_mean[7] == 1.5508 and QWEN_IMAGE_VAE.latents_std[8] == 3.2687
    assert torch.equal(vae.standardise(z), (z - mean) / std)
    assert torch.equal(vae.unstandardise(z), z / (1.0 / std) + mean)
    if dtype == torch.float32:
        torch.testing.assert_close(vae.unstandardise(vae.standardise(z)), z)


def test_released_size_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        vae = VAE(QWEN_IMAGE_VAE)
    count = {part: sum(p.numel() for p in getattr(vae, part).parameters()) for part in ("encoder", "decoder")}
    assert {part: round(n / 1e6, 1) for part, n in count.items()} == {"encoder": 53.6, "decoder": 73.3}


def test_initial_weights_hold_the_signal() -> None:
    vae = VAE(NANO_VAE).init_weights(torch.Generator().manual_seed(0))
    with torch.no_grad():
        mean = vae.encode(torch.rand(2, 3, 32, 32) * 2 - 1).mean
    assert 1e-3 < mean.std() < 10 and mean.isfinite().all()


def test_gradients_reach_only_the_slices_that_pictures_use() -> None:
    vae = VAE(NANO_VAE).init_weights(torch.Generator().manual_seed(0))
    before = vae.decoder.conv_in.weight.detach().clone()
    optimizer = torch.optim.AdamW(vae.parameters(), 1e-3, weight_decay=0.0)
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    (vae.decode(vae.encode(x).mode()) - x).abs().mean().backward()
    optimizer.step()
    after = vae.decoder.conv_in.weight.detach()
    assert torch.equal(after[:, :, :-1], before[:, :, :-1]) and not torch.equal(after[:, :, -1], before[:, :, -1])
    without = {name for name, p in vae.named_parameters() if p.grad is None}
    assert without and all("time_conv" in name for name in without)


def test_fast_norm_has_the_gradients_of_the_plain_one() -> None:
    """Under autocast with float32 input the fast path rounds nothing, so both must agree closely."""
    generator = torch.Generator().manual_seed(0)
    norm = ChannelNorm(6, 3)
    norm.gamma.data = torch.rand(6, 1, 1, 1, generator=generator) + 0.5
    x = torch.randn(2, 6, 3, 5, generator=generator).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(2, 6, 3, 5, generator=generator)
    results = []
    for enabled in (False, True):
        norm.zero_grad()
        leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            out = norm(leaf)
        (out * weight).sum().backward()
        assert leaf.grad is not None and norm.gamma.grad is not None
        results.append((out.detach(), leaf.grad, norm.gamma.grad.clone()))
    for plain, fast in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain, atol=5e-2, rtol=2e-2)


def test_sizes_and_shapes_that_do_not_fit_name_both_values() -> None:
    vae = vae_pair(torch.float32)[1]
    with pytest.raises(InputError, match=r"height 20 and width 16 .* multiples of 8"):
        vae.encode(torch.zeros(1, 3, 20, 16))
    with pytest.raises(InputError, match=r"\(3, 16, 16\) do not fit"):
        vae.encode(torch.zeros(3, 16, 16))
    with pytest.raises(InputError, match=r"takes \(batch, 3,"):
        vae.encode(torch.zeros(1, 4, 16, 16))
    with pytest.raises(InputError, match=r"takes \(batch, 16, h, w"):
        vae.decode(torch.zeros(1, 4, 2, 2))
    with pytest.raises(InputError, match=r"\(1, 3, 0, 16, 16\) do not fit"):
        vae.encode(torch.zeros(1, 3, 0, 16, 16))
    with pytest.raises(InputError, match=r"or \(batch, 16, frames, h, w\)"):
        vae.decode(torch.zeros(1, 1, 16, 1, 2, 2))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"z_dim": 8}, "16 and 16 values, but z_dim is 8"),
        ({"temperal_downsample": (True,)}, "1 entries"),
        ({"dropout": 0.1}, "dropout 0.1"),
    ],
)
def test_impossible_configs_say_why(change: dict[str, Any], words: str) -> None:
    with pytest.raises(GlyphFlowError, match=words):
        VAEConfig(**{**TINY, **change})


@pytest.mark.parametrize("channels", [3, 4])
def test_pixels_go_there_and_back(channels: int) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, channels), dtype=np.uint8)
    tensor = image_to_tensor(picture)
    assert tensor.shape == (channels, 5, 7) and tensor.dtype == torch.float32
    assert image_to_tensor(np.array([[[0, 255, 51]]], dtype=np.uint8)).flatten().tolist() == pytest.approx([-1, 1, -0.6])
    back = tensor_to_images(tensor[None])[0]
    assert back.mode == {3: "RGB", 4: "RGBA"}[channels] and np.array_equal(np.asarray(back), picture)
    assert torch.equal(image_to_tensor(Image.fromarray(picture)), tensor)
    assert np.asarray(tensor_to_images(torch.tensor([-3.0, 0.0, 3.0]).reshape(1, 3, 1, 1))[0]).tolist() == [[[0, 128, 255]]]


def test_other_pixel_types_are_refused_or_converted() -> None:
    assert image_to_tensor(Image.new("L", (4, 2), 255)).shape == (3, 2, 4)
    assert image_to_tensor(Image.new("RGBA", (4, 2))).shape == (4, 2, 4)
    with pytest.raises(InputError, match=r"\(1, 3, 5, 8, 8\) holds no pictures"):
        tensor_to_images(torch.zeros(1, 3, 5, 8, 8))
    with pytest.raises(InputError, match="float64"):
        image_to_tensor(np.zeros((2, 2, 3)))
