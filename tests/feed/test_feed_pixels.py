"""The pixel payload."""

from __future__ import annotations

import pytest
import torch

from glyphflow.core.errors import ConfigError
from glyphflow.feed.order import is_heldout
from glyphflow.feed.pixels import PixelFeed
from tiny_pictures import TinySelection


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
