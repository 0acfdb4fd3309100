"""Sizes, transparency, masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from glyphflow.core.errors import InputError
from glyphflow.generate.images import RATIOS, area_size, aspect_size, filled, mask_region, mask_tokens, rgb


def test_named_ratios_are_the_released_sizes() -> None:
    assert aspect_size("16:9", 1024 * 1024) == (928, 1664)
    assert aspect_size("1:1", 1024 * 1024) == (1328, 1328)
    for name in RATIOS:
        height, width = aspect_size(name, 1024 * 1024)
        assert height % 16 == width % 16 == 0
    assert aspect_size("1:1", 128 * 128) == (128, 128)
    assert aspect_size("2:1", 128 * 128) == (96, 176)
    assert aspect_size("21:9", 1024 * 1024) == (672, 1568)
    with pytest.raises(InputError, match="'wide' is not width:height"):
        aspect_size("wide", 128 * 128)


def test_areas_are_the_references() -> None:
    from diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_plus import calculate_dimensions

    for width, height in [(1920, 1080), (640, 480), (33, 90), (1, 1), (1000, 333), (4000, 3000), (768, 1366)]:
        for area in (384 * 384, 1024 * 1024):
            assert area_size((width, height), area) == calculate_dimensions(area, width / height)[::-1]
    assert area_size((1000, 1), 128 * 128) == (32, 4032)


def test_transparency_becomes_white_and_photographs_stand_upright() -> None:
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert rgb(clear).getpixel((0, 0)) == (255, 255, 255)
    assert rgb(np.zeros((3, 5), np.uint8)).size == (5, 3)
    lying = Image.new("RGB", (6, 2))
    lying.getexif()[0x0112] = 6  # turned by a quarter
    assert rgb(lying).size == (2, 6)


def test_filled_keeps_the_ratio() -> None:
    image = Image.fromarray(np.tile(np.arange(40, dtype=np.uint8)[:, None, None] * 6, (1, 20, 3)))
    wide = np.asarray(filled(image, 40, 60))
    assert wide.shape == (40, 60, 3)
    assert np.array_equal(wide[:, 20:40], np.asarray(image))
    assert np.array_equal(wide[:, 0], wide[:, 20]) and np.array_equal(wide[:, -1], wide[:, 39])


def test_masks() -> None:
    mask = Image.new("L", (64, 32))
    mask.paste(200, (8, 8, 16, 16))
    mask.paste(100, (32, 0, 64, 32))  # below half
    tokens = mask_tokens(mask, 3)
    assert tokens.shape == (8, 12) and tokens.dtype == torch.bool
    assert tokens[0].reshape(3, 4)[:, 3].all() and tokens.sum() == 3
    assert mask_region(mask.point(lambda value: 255 * (value > 128)), 4, 64, 64) == (4, 4, 20, 20)


def test_regions_are_the_references() -> None:
    from diffusers.image_processor import VaeImageProcessor

    rng = np.random.default_rng(0)
    for _ in range(60):
        width, height = (int(n) for n in rng.integers(40, 200, 2))
        mask = Image.new("L", (width, height))
        left, top = (int(rng.integers(0, side - 10)) for side in (width, height))
        mask.paste(255, (left, top, int(rng.integers(left + 1, width + 1)), int(rng.integers(top + 1, height + 1))))
        padding, target = int(rng.integers(0, 40)), [int(n) * 16 for n in rng.integers(1, 8, 2)]
        ours = mask_region(mask, padding, target[1], target[0])
        assert ours == VaeImageProcessor.get_crop_region(mask, target[0], target[1], padding)
