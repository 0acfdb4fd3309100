"""Order and buckets: arithmetic that a restart, another layout or another machine must repeat."""

from __future__ import annotations

import collections

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glyphflow.feed.buckets import bucket_of, bucket_sizes, fit
from glyphflow.feed.order import Interleave, Serving, is_heldout, record_keys
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


KEYS = record_keys([f"record-{n}" for n in range(700)])


@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 60), batch=st.integers(1, 16), seed=st.integers(0, 5), sort=st.booleans())
def test_every_pass_serves_every_record_once(count: int, batch: int, seed: int, sort: bool) -> None:
    def serving() -> Serving:
        return Serving(KEYS[:count], batch, seed, "x", lengths=lengths if sort else None)

    def lengths(members: np.ndarray, epoch: int) -> np.ndarray:
        return (members * 7 + epoch) % 30

    order = serving()
    served = [pick for number in range(-(-3 * count // batch)) for pick in order.picks(number)]
    for epoch in range(3):
        assert sorted(p.member for p in served if p.epoch == epoch) == list(range(count))
    number = 2 * count // batch
    assert serving().picks(number) == order.picks(number)  # reached directly or one after the other


@settings(max_examples=60, deadline=None)
@given(
    batches=st.lists(st.integers(0, 12), min_size=1, max_size=4),
    sets=st.lists(st.sets(st.integers(0, 39), min_size=1), min_size=4, max_size=4),
    sizes=st.lists(st.integers(1, 9), min_size=4, max_size=4),
)
def test_a_change_of_records_or_batch_size_finishes_the_pass_that_is_going_on(
    batches: list[int], sets: list[set[int]], sizes: list[int]
) -> None:
    """Whatever changes: a record is never served again while another one of its stream has been served less often since."""
    last = np.zeros(40, np.int64)
    passes: dict[int, list[int]] = {}
    for served, chosen, size in zip(batches, sets, sizes, strict=False):
        members = np.asarray(sorted(chosen))
        order = Serving(KEYS[members], size, 1, "x", last=last[members], lengths=lambda m, e: (m * 7 + e) % 30)
        before = last[members]
        behind = members[before < before.max()] if before.max() else members
        picks = [pick for number in range(served) for pick in order.picks(number)]
        first = [int(members[p.member]) for p in picks][: len(behind)]
        assert set(first) <= set(behind.tolist())  # those who are behind come first
        for pick in picks:
            passes.setdefault(pick.epoch, []).append(int(members[pick.member]))
        last[members] = order.after(served)
    for epoch, records in passes.items():
        assert len(records) == len(set(records)), f"pass {epoch} repeats a record"


def test_records_of_half_the_weight_take_part_in_half_of_the_passes() -> None:
    weights = np.asarray([1.0] * 100 + [0.5] * 100)
    order = Serving(KEYS[:200], 10, 0, "x", weights=weights)
    served = [pick for number in range(3000) for pick in order.picks(number)]
    assert len({(p.epoch, p.member) for p in served}) == len(served)
    heavy = sum(p.member < 100 for p in served)
    assert 0.64 < heavy / len(served) < 0.69
    assert Serving(KEYS[:200], 10, 0, "x", weights=weights).picks(2500) == order.picks(2500)
    after = Serving(KEYS[:200], 10, 0, "x", weights=weights, last=order.after(777))
    first = {(p.epoch, p.member) for n in range(777) for p in order.picks(n)}
    assert not first & {(p.epoch, p.member) for n in range(50) for p in after.picks(n)}


def test_batches_hold_texts_of_similar_length_when_lengths_are_known() -> None:
    lengths = np.random.default_rng(0).integers(1, 100, 640)

    def padding(order: Serving) -> float:
        batches = [lengths[[p.member for p in order.picks(n)]] for n in range(20)]
        return float(np.mean([b.max() - b.mean() for b in batches]))

    sorting = Serving(KEYS[:640], 16, 0, "x", lengths=lambda members, epoch: lengths[members])
    assert padding(sorting) < 0.3 * padding(Serving(KEYS[:640], 16, 0, "x"))


@settings(max_examples=30, deadline=None)
@given(weights=st.lists(st.floats(0.01, 10), min_size=1, max_size=12))
def test_streams_keep_their_shares_at_every_moment(weights: list[float]) -> None:
    turns, steps = Interleave(weights), 400
    shares = np.asarray(weights) / sum(weights)
    served = np.cumsum([np.eye(len(weights))[turns.at(step)[0]] for step in range(steps)], axis=0)
    due = shares * np.arange(1, steps + 1)[:, None]
    assert np.abs(served - due).max() <= 1 + len(weights) / 2 * shares.max()
    assert (turns.served(steps) == served[-1]).all() and turns.served(steps).sum() == steps
    assert [Interleave(weights).at(step) for step in (399, 7)] == [turns.at(step) for step in (399, 7)]


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
