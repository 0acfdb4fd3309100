"""Pictures before the vision tower: pixels as transformers makes them, positions as worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from glyphflow.core.errors import ConfigError, InputError
from glyphflow.models.vision import Picture, Preprocessing, expand, positions
from tiny import tiny_encoder

SIZES = [(1, 1), (40, 3), (3, 40), (13, 2000), (28, 28), (57, 57), (384, 384), (512, 288), (631, 97), (1400, 1100), (200, 1)]


def noise(size: tuple[int, int], mode: str = "RGB", seed: int = 0) -> Image.Image:
    channels = len(Image.new(mode, (1, 1)).getbands())
    data = torch.randint(0, 256, (*size, channels), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Image.frombytes(mode, size, data.numpy().tobytes())


@pytest.mark.parametrize("size", SIZES)
def test_pixels_equal_transformers(size: tuple[int, int]) -> None:
    image = noise(size)
    theirs = Qwen2VLImageProcessorPil()(image, return_tensors="pt")
    how = Preprocessing()
    picture = how.picture(image)
    assert [1, *(2 * side for side in picture.grid)] == theirs["image_grid_thw"][0].tolist()
    assert torch.equal(how.patches(picture), theirs["pixel_values"])


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1"])
def test_every_mode_becomes_the_same_rgb(mode: str) -> None:
    image = noise((70, 50)).convert(mode) if mode in "P1" else noise((70, 50), mode)
    if mode == "P":
        image.info["transparency"] = 3
    theirs = Qwen2VLImageProcessorPil()(image, return_tensors="pt")["pixel_values"]
    assert torch.equal(Preprocessing().patches(Preprocessing().picture(image)), theirs)


def test_limits_of_pixels_come_from_the_file(tmp_path: Path) -> None:
    image = noise((300, 200))
    for settings in ({"min_pixels": 3136, "max_pixels": 20000}, {"size": {"shortest_edge": 90000, "longest_edge": 12845056}}):
        Qwen2VLImageProcessorPil(**settings).save_pretrained(tmp_path)
        how = Preprocessing.from_directory(tmp_path)
        assert how is not None
        theirs = Qwen2VLImageProcessorPil.from_pretrained(tmp_path)(image, return_tensors="pt")
        assert torch.equal(how.patches(how.picture(image)), theirs["pixel_values"])
        how.save(tmp_path / "ours")
        assert Preprocessing.from_directory(tmp_path / "ours") == how
        again = Qwen2VLImageProcessorPil.from_pretrained(tmp_path / "ours")(image, return_tensors="pt")
        assert torch.equal(again["pixel_values"], theirs["pixel_values"])


def test_a_released_style_file_and_a_broken_one(tmp_path: Path) -> None:
    assert Preprocessing.from_directory(tmp_path) is None
    file = tmp_path / "preprocessor_config.json"
    file.write_text('{"min_pixels": 3136, "max_pixels": 12845056, "size": {"longest_edge": null}, "processor_class": "X"}')
    how = Preprocessing.from_directory(tmp_path)
    assert how is not None
    assert how.resized(1024, 1024) == (1036, 1036)
    assert Preprocessing().resized(1024, 1024) == (980, 980)
    file.write_text('{"min_pixels": "few"}')
    with pytest.raises(ConfigError, match="min_pixels"):
        Preprocessing.from_directory(tmp_path)
    file.write_text('{"min')
    with pytest.raises(InputError, match="preprocessor_config"):
        Preprocessing.from_directory(tmp_path)


def test_a_narrow_picture_is_refused_with_its_ratio() -> None:
    with pytest.raises(InputError, match=r"3 x 603 pixels.* ratio of 201 .* at most 200"):
        Preprocessing().picture(Image.new("RGB", (3, 603)))


def grid(rows: int, columns: int) -> Picture:
    return Picture(Image.new("RGB", (1, 1)), "", (rows, columns))  # type: ignore[arg-type]


def test_positions_by_hand() -> None:
    """Two words, a picture of 2 x 3 tokens, a word, a picture of 3 x 1, two words; 9 is the picture's token."""
    pictures = [grid(2, 3), grid(3, 1)]
    ids = expand([5, 6, 9, 7, 9, 8, 8], 9, pictures)
    assert ids == [5, 6, 9, 9, 9, 9, 9, 9, 7, 9, 9, 9, 8, 8]
    # The first picture starts at 2 and spans max(2, 3) = 3, so the word behind it is at 5; the second spans 6 to 8.
    assert positions(ids, 9, pictures).tolist() == [
        [0, 1, 2, 2, 2, 2, 2, 2, 5, 6, 6, 6, 9, 10],
        [0, 1, 2, 2, 2, 3, 3, 3, 5, 6, 7, 8, 9, 10],
        [0, 1, 2, 3, 4, 2, 3, 4, 5, 6, 6, 6, 9, 10],
    ]
    assert positions([4, 4, 4], 9, []).tolist() == [[0, 1, 2]] * 3
    assert positions(expand([9, 9], 9, [grid(1, 1), grid(1, 2)]), 9, [grid(1, 1), grid(1, 2)]).tolist() == [
        [0, 1, 1],
        [0, 1, 1],
        [0, 1, 2],
    ]


def test_positions_equal_transformers_when_it_is_told_the_types() -> None:
    model = tiny_encoder().model.model
    pictures = [grid(7, 4), grid(1, 9), grid(5, 5)]
    ids = expand([10, 5, 11, 12, 5, 6, 5, 13], 5, pictures)
    tokens = torch.tensor([ids])
    grids = torch.tensor([[1, 2 * p.grid[0], 2 * p.grid[1]] for p in pictures])
    theirs, delta = model.get_rope_index(tokens, mm_token_type_ids=(tokens == 5).int(), image_grid_thw=grids)
    ours = positions(ids, 5, pictures)
    assert torch.equal(ours, theirs[:, 0])
    assert int(ours.max()) + 1 - len(ids) == int(delta)
