"""The pixel payload."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from glyphflow.core.errors import ConfigError
from glyphflow.feed.order import is_heldout
from glyphflow.feed.pixels import PixelFeed, inked_place
from tiny_pictures import TinyRecord, TinySelection


def feed(selection: TinySelection, **changes: object) -> PixelFeed:
    settings = {"crop": 32, "area": 64 * 64, "batch_size": 4, "seed": 3, "cache_pictures": 100, "heldout_share": 0.2} | changes
    return PixelFeed([(selection, 1.0)], **settings)  # type: ignore[arg-type]


def test_batch_of_a_step_does_not_depend_on_what_was_asked_before() -> None:
    one, other = feed(TinySelection(30)), feed(TinySelection(30), cache_pictures=0)
    forwards = [one.batch(step) for step in range(12)]
    for step in reversed(range(12)):
        again = other.batch(step)
        assert again.ids == forwards[step].ids
        assert torch.equal(again.pixels, forwards[step].pixels)
    assert not torch.equal(feed(TinySelection(30), seed=4).batch(0).pixels, forwards[0].pixels)
    first = forwards[0].pixels
    assert first.shape == (4, 3, 32, 32) and first.min() >= -1 and first.max() <= 1
    assert first.is_contiguous(memory_format=torch.channels_last)


def test_pictures_are_loaded_once_while_they_fit() -> None:
    selection = TinySelection(20)
    source = feed(selection)
    for step in range(15):
        source.batch(step)
    assert len(selection.loads) == len(set(selection.loads))


def test_held_out_pictures_are_never_trained_on() -> None:
    source = feed(TinySelection(60))
    trained = {record for step in range(40) for record in source.batch(step).ids}
    held = {batch.ids[0] for batch in source.heldout(100)}
    assert held and not trained & held
    assert held == {record for record in TinySelection(60).ids if is_heldout(record, 0.2)}
    assert [b.ids for b in source.heldout(3)] == [b.ids for b in source.heldout(3)] and len(source.heldout(3)) == 3


def test_a_crop_larger_than_a_bucket_is_refused_with_both_numbers() -> None:
    with pytest.raises(ConfigError, match=r"feed\.crop = 64 .* at most 32"):
        feed(TinySelection(4), crop=64)


def two_blots() -> np.ndarray:
    """Grey with three columns of strong strokes at the top left and one at the bottom right, beside soft shading."""
    picture = np.full((64, 96, 3), 120, np.uint8)
    picture[:, :, 0] += np.arange(96, dtype=np.uint8)[None] // 4
    for column in (4, 8, 12):
        picture[6:14, column, 2] = 255
    picture[50:58, 90, 1] = 0
    return picture


def test_crops_are_placed_where_there_is_ink_in_its_proportion() -> None:
    rng, upper, lower = np.random.default_rng(0), 0, 0
    for _ in range(800):
        place = inked_place(two_blots(), 24, rng)
        assert place is not None
        crop = two_blots()[place[0] : place[0] + 24, place[1] : place[1] + 24].astype(int)
        assert crop.shape == (24, 24, 3)
        strokes = (crop[..., 2] == 255).any(), (crop[..., 1] == 0).any()
        assert any(strokes)
        upper, lower = upper + int(strokes[0]), lower + int(strokes[1])
    assert 2.5 < upper / lower < 3.6
    assert inked_place(two_blots()[20:45], 24, rng) is None  # shading is no ink


def test_share_of_crops_on_ink() -> None:
    class Blots(TinySelection):
        def load(self, index: int) -> TinyRecord:
            return TinyRecord(self.ids[index], two_blots(), {})

    def inked(share: float) -> float:
        source = PixelFeed(
            [(Blots(20), 1.0)], crop=16, area=64 * 96, batch_size=10, seed=1, text_crops=share, cache_pictures=20
        )
        pixels = torch.cat([source.batch(step).pixels for step in range(40)])
        strokes = (pixels[:, 2] > 0.95).flatten(1).any(1) | (pixels[:, 1] < -0.95).flatten(1).any(1)
        return float(strokes.float().mean())

    anywhere = inked(0.0)
    assert inked(1.0) == 1.0 and anywhere < 0.35
    assert inked(0.5) == pytest.approx((1 + anywhere) / 2, abs=0.08)


def test_whole_pictures_come_once_and_are_those_of_the_training() -> None:
    source = feed(TinySelection(30))
    held = {batch.ids[0] for batch in source.heldout(30)}
    met = [batch.ids[0] for batch in source.pictures(1000)]
    assert len(met) == len(set(met)) == 30 - len(held) and not held & set(met)
    assert [batch.ids[0] for batch in source.pictures(5)] == met[:5]
    assert {tuple(batch.pixels.shape) for batch in source.pictures(9)} <= {(1, 3, 64, 64), (1, 3, 48, 80), (1, 3, 48, 96)}
