"""Order and buckets: arithmetic that a restart, another layout or another machine must repeat."""

from __future__ import annotations

import collections

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glyphflow.feed.buckets import bucket_of, bucket_sizes, fit
from glyphflow.feed.order import EpochOrder, Interleave, is_heldout
from glyphflow.feed.prefetch import Prefetch


def test_nine_buckets_of_the_report_keep_area_and_ratio() -> None:
    for area in (128 * 128, 256 * 256, 1328 * 1328):
        sizes = bucket_sizes(area)
        assert len(sizes) == 9
        for (width, height), ratio in zip(sizes, (1, 2 / 3, 3 / 2, 3 / 4, 4 / 3, 9 / 16, 16 / 9, 1 / 3, 3), strict=True):
            assert width % 16 == height % 16 == 0
            assert 0.75 < width * height / area < 1.3
            assert 0.8 < width / height / ratio < 1.25


def test_pictures_go_to_the_bucket_of_their_ratio_and_are_covered_not_squeezed() -> None:
    buckets = bucket_sizes(128 * 128)
    assert bucket_of((640, 640), buckets) == (128, 128)
    wide = bucket_of((1920, 1080), buckets)
    assert wide[0] / wide[1] == pytest.approx(16 / 9, rel=0.1)
    picture = np.zeros((100, 400, 3), np.uint8)
    picture[:, 200] = 255
    out = fit(picture, (128, 128))
    assert out.shape == (128, 128, 3)
    assert out[:, 60:70].max() > 128 and out[:, :50].max() == 0  # the centre, not the whole width
    assert fit(out, (128, 128)) is out


@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 60), batch=st.integers(1, 16), seed=st.integers(0, 5), lengths=st.booleans())
def test_every_epoch_serves_every_record_once(count: int, batch: int, seed: int, lengths: bool) -> None:
    def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return rng.integers(0, 2, count), rng.integers(1, 30, count)

    order = EpochOrder(count, batch, seed, "x", draw if lengths else None)
    served = [pick for number in range(-(-3 * count // batch)) for pick in order.picks(number)]
    for epoch in range(3):
        assert sorted(p.position for p in served if p.epoch == epoch)[:count] == list(range(count))
    again = EpochOrder(count, batch, seed, "x", draw if lengths else None)
    number = 2 * count // batch
    assert again.picks(number) == order.picks(number)  # reached directly or one after the other


def test_batches_hold_texts_of_similar_length_when_lengths_are_known() -> None:
    lengths = np.random.default_rng(0).integers(1, 100, 640)

    def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(640, np.int64), lengths

    def padding(order: EpochOrder) -> float:
        batches = [lengths[[p.position for p in order.picks(n)]] for n in range(20)]
        return float(np.mean([b.max() - b.mean() for b in batches]))

    assert padding(EpochOrder(640, 16, 0, "x", draw)) < 0.3 * padding(EpochOrder(640, 16, 0, "x"))


def test_streams_are_served_in_proportion_at_every_moment() -> None:
    turns = Interleave([5.0, 3.0, 1.0])
    streams = [turns.at(step)[0] for step in range(900)]
    assert collections.Counter(streams) == {0: 500, 1: 300, 2: 100}
    for end in range(1, 900):
        assert abs(streams[:end].count(2) - end / 9) <= 1
    counts: collections.Counter[int] = collections.Counter()
    for step, stream in enumerate(streams):
        assert turns.at(step) == (stream, counts[stream])
        counts[stream] += 1
    assert Interleave([5.0, 3.0, 1.0]).at(777) == turns.at(777)


def test_held_out_records_are_a_property_of_the_id() -> None:
    held = [n for n in range(2000) if is_heldout(f"record-{n}", 0.1)]
    assert 150 < len(held) < 250
    assert all(is_heldout(f"record-{n}", 0.3) for n in held)
    assert not any(is_heldout(f"record-{n}", 0.0) for n in range(100))


def test_prefetch_keeps_order_and_raises_where_the_error_is() -> None:
    def make(step: int) -> int:
        if step == 8:
            raise ValueError("step 8")
        return step * step

    with Prefetch(make, 5) as feed:
        assert [feed.next()[0] for _ in range(3)] == [25, 36, 49]
        with pytest.raises(ValueError, match="step 8"):
            feed.next()
    with Prefetch(lambda step: step, 0) as feed:  # leaving early ends the thread although the queue is full
        feed.next()
    assert not feed._thread.is_alive()
