"""Tiles: against diffusers where it is right, and pictures of the right size where it is not."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from vae_pairs import assert_same, pixels, vae_pair

from glyphflow.core.errors import InputError
from glyphflow.generate.activations import LiveBytes
from glyphflow.models.vae_tiling import tiled


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("shape", "tile"),
    [
        ((1, 3, 320, 264), 256),
        ((1, 3, 400, 200), 256),  # its last row of tiles is a sliver
        ((2, 3, 128, 136), 128),
        ((1, 4, 104, 152), 64),
        ((1, 3, 5, 48, 72), 64),
    ],
)
@torch.no_grad()
def test_tiles_equal_the_reference(shape: tuple[int, ...], tile: int, dtype: torch.dtype) -> None:
    reference, ours = vae_pair(dtype, shape[1])
    reference.enable_tiling(tile, tile, tile * 3 // 4, tile * 3 // 4)
    x = pixels(*shape).to(dtype)
    clip = x if x.ndim == 5 else x[:, :, None]
    expected = reference.encode(clip).latent_dist
    decoded = reference.decode(expected.mean).sample.clamp(-1, 1)  # which the reference forgets
    reference.disable_tiling()
    one = (slice(None), slice(None), 0) if x.ndim == 4 else ()  # the picture of a clip of one
    tolerance = 0 if x.ndim == 4 else 2.0**-8
    assert_same(ours, lambda vae, x: vae.encode(x, tile).mean, x, expected.mean[one], tolerance)
    assert_same(ours, lambda vae, z: vae.decode(z, tile), expected.mean[one], decoded[one], tolerance)
    assert ours.decode(expected.mean[one], tile).shape == x.shape


@pytest.mark.parametrize("tile", [16, 24, 40, 56, 64, 104])
@torch.no_grad()
def test_every_size_of_tile_gives_the_whole_picture(tile: int) -> None:
    ours = vae_pair(torch.float32)[1]
    z = torch.randn(1, 16, 13, 9, generator=torch.Generator().manual_seed(0))
    whole, parts = ours.decode(z), ours.decode(z, tile)
    assert parts.shape == whole.shape == (1, 3, 104, 72) and parts.abs().max() <= 1
    assert (parts - whole).abs().mean() < 0.1
    assert ours.encode(whole, tile).mean.shape == z.shape
    assert torch.equal(parts, whole) == (tile == 104), "only a picture that fits into one tile is the same"


@pytest.mark.parametrize("tile", range(2, 9))
@pytest.mark.parametrize("size", [(1, 1), (2, 9), (7, 16), (17, 5), (12, 13)])
def test_shares_of_overlapping_tiles_add_up_to_one(tile: int, size: tuple[int, int]) -> None:
    x = torch.rand(1, 2, size[0], size[1], generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(tiled(lambda part: part.clone(), x, tile, 1, 1), x)
    doubled = F.interpolate(x, scale_factor=2)
    torch.testing.assert_close(tiled(lambda part: F.interpolate(part, scale_factor=2), x, tile, 1, 2), doubled)
    torch.testing.assert_close(tiled(lambda part: F.avg_pool2d(part, 2), doubled, tile, 2, 1), x)


@torch.no_grad()
def test_memory_of_tiles_does_not_grow_with_the_picture() -> None:
    """Beside the picture itself: one tile, and the margins of one row of tiles."""
    ours = vae_pair(torch.float32)[1]
    beside = {}
    for name, height, tile in (("small", 128, 64), ("large", 512, 64), ("whole", 512, None)):
        with LiveBytes() as live:
            out = ours.decode(torch.zeros(1, 16, height // 8, 16), tile)
        beside[name] = live.peak - out.nbytes
    assert beside["large"] < 1.1 * beside["small"] and beside["large"] < 0.2 * beside["whole"]


@pytest.mark.parametrize("tile", [0, 8, 20, -64])
def test_impossible_tiles_are_refused(tile: int) -> None:
    ours = vae_pair(torch.float32)[1]
    with pytest.raises(InputError, match=rf"tile of {tile} pixels .* multiple of 8 from 16 up"):
        ours.decode(torch.zeros(1, 16, 2, 2), tile)
    with pytest.raises(InputError, match="multiple of 8"):
        ours.encode(torch.zeros(1, 3, 16, 16), tile)
