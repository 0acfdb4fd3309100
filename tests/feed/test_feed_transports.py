"""Transports: the same bytes by every way, also when producers are killed; what waits, what fails, and what is given back."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from feed_corpus import AREA, make_corpus, segments, settings
from feed_plans import Arithmetic, arithmetic_plan

import glyphflow.feed.producing as producing
from glyphflow.core.errors import ConfigError, InputError, StorageError
from glyphflow.feed.amendments import AmendmentLog
from glyphflow.feed.batches import EncodedBatch, tensor_fields
from glyphflow.feed.encode import Encoders
from glyphflow.feed.order import Part
from glyphflow.feed.producing import encode_feed
from glyphflow.feed.staged import Segment, Sources, StagedFeed
from glyphflow.feed.transport import FeedLog, Orders, encoded_plan, open_transport
from glyphflow.plan.producers import read_rates
from tiny import tiny_pipeline

STEPS = 50


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline(tmp_path_factory.mktemp("encoders") / "model")


@pytest.fixture(scope="module")
def encoders(model: Path) -> Encoders:
    return Encoders(model, torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("feed"))


def stages(corpus: Path, cache: Path | None = None) -> list[Segment]:
    weighted = settings(corpus, cache, captions={"en": 0.7, "zh": 0.3}, drop_condition=0.3)
    return segments((20, settings(corpus, cache)), (30, weighted))


@pytest.fixture(scope="module")
def expected(corpus: Path, encoders: Encoders) -> list[EncodedBatch]:
    """The batches made in this process, one after the other."""
    feed = StagedFeed(stages(corpus), 1, sources=Sources(lambda: encoders))
    return [feed.batch(step) for step in range(STEPS)]


@pytest.fixture(scope="module")
def cache(corpus: Path, encoders: Encoders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("caches") / "cache"
    encode_feed(StagedFeed(stages(corpus, path), 1), encoders, 8)
    return path


def assert_same(found: Any, wanted: Any) -> None:
    """Byte for byte, tensors and everything else."""
    for name, value in vars(wanted).items():
        if not isinstance(value, torch.Tensor):
            assert getattr(found, name) == value, name
    ours, theirs = tensor_fields(found), tensor_fields(wanted)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name].dtype == theirs[name].dtype and ours[name].stride() == theirs[name].stride(), name
        assert torch.equal(ours[name], theirs[name]), f"{name} of step {wanted.step}"


def test_batches_hold_all_tasks_with_references_in_their_own_buckets(expected: list[EncodedBatch], encoders: Encoders) -> None:
    tasks = {batch.tasks[0] for batch in expected}
    assert tasks == {"t2i", "ti2i", "i2i"}
    for batch in expected:
        (task,) = set(batch.tasks)
        (shapes,) = {tuple(each) for each in batch.shapes}
        tokens = [height * width for _, height, width in shapes]
        assert batch.latents.shape[1] == tokens[0] and batch.fingerprint == encoders.fingerprint
        assert batch.tokens == len(batch.ids) * (sum(tokens) + batch.embeds.shape[1])
        if task == "t2i":
            assert batch.references is None and len(shapes) == 1
        else:
            assert batch.references is not None and batch.references.shape[1] == sum(tokens[1:])
        if task == "i2i":
            assert torch.equal(batch.latents, batch.references)
    assert {len(batch.shapes[0]) for batch in expected if batch.tasks[0] == "ti2i"} == {2, 3}  # one reference and two


def test_files_give_the_batches_that_encoding_on_the_way_gives(corpus: Path, cache: Path, expected: list[EncodedBatch]) -> None:
    with open_transport("files", encoded_plan(stages(corpus, cache), 1)) as transport:
        for wanted in expected:
            assert_same(transport.next()[0], wanted)


@pytest.mark.slow
def test_local_gives_the_same_bytes_while_producers_are_killed(
    corpus: Path, model: Path, expected: list[EncodedBatch], tmp_path: Path
) -> None:
    dice, kept = random.Random(3), []
    plan = encoded_plan(stages(corpus), 1, encoders=model)
    with open_transport("local", plan, producers=2, log=tmp_path / "feed.jsonl") as transport:
        assert [batch.ids for batch in transport.heldout(3)]
        for step, wanted in enumerate(expected):
            if step in (7, 30):
                os.kill(dice.choice(transport._team._workers).process.pid, signal.SIGKILL)  # type: ignore[attr-defined]
            batch, waited = transport.next()
            assert waited >= 0
            kept.append(batch)  # every slot stays in use: the ring has to grow
            assert_same(batch, wanted)
    for batch, wanted in zip(kept, expected, strict=True):
        assert_same(batch, wanted)  # and nothing of it was overwritten, even now that the transport is closed
    log = [json.loads(line) for line in (tmp_path / "feed.jsonl").read_text().splitlines()]
    sides = [entry["side"] for entry in log if "side" in entry]  # the others name producers that were lost
    assert sides.count(64) > sides.count(128) > 0 and read_rates(tmp_path / "feed.jsonl").keys() == {64, 128}


@pytest.mark.slow
def test_ray_gives_the_same_bytes_while_actors_are_killed(
    corpus: Path, model: Path, expected: list[EncodedBatch], monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))  # actors have one, and add up in another order
    plan = encoded_plan(stages(corpus), 1, encoders=model)
    with open_transport("ray", plan, producers=2) as transport:
        for step, wanted in enumerate(expected):
            if step in (9, 31):
                ray.kill(transport._actors[step % 2].handle)  # type: ignore[attr-defined]
            assert_same(transport.next()[0], wanted)


def test_kills_at_any_time_lose_and_repeat_nothing(tmp_path: Path) -> None:
    """One of two parts, in batches larger than a slot is at first, whose slots are used again and again."""
    whole, dice = Arithmetic(4, 256, 0.0, -1, -1, str(tmp_path)), random.Random(5)
    plan = arithmetic_plan(tmp_path / "marks", side=256, seconds=0.01)
    with open_transport("local", plan, start=5, part=Part(1, 2), producers=2) as transport:
        for step in range(5, 65):
            assert_same(transport.next()[0], whole.batch(step, Part(1, 2)))
            if step in (15, 45):
                os.kill(dice.choice(transport._team._workers).process.pid, signal.SIGKILL)  # type: ignore[attr-defined]
        assert len(transport._ring._all) <= 8  # type: ignore[attr-defined]
    assert len(list((tmp_path / "marks").iterdir())) == 4


def test_an_error_is_raised_at_its_step_and_a_step_that_kills_is_given_up(tmp_path: Path) -> None:
    with open_transport("local", arithmetic_plan(tmp_path, fail_at=1, die_at=3), producers=1) as transport:
        assert transport.next()[0].step == 0
        with pytest.raises(InputError, match="Step 1 cannot be made"):
            transport.next()
        assert transport.next()[0].step == 2  # whoever asks again gets the next one
        with pytest.raises(InputError, match=r"died 3 times at step 3 .*exit code 7"):
            transport.next()


def test_changes_reach_producers_at_their_step_and_their_number_follows(tmp_path: Path) -> None:
    log = AmendmentLog(tmp_path / "run" / "amendments.jsonl")
    plan = arithmetic_plan(tmp_path / "marks")
    wanted = {"now": 1}
    with open_transport("local", plan, producers=lambda step: wanted["now"], amendments=log) as transport:
        for step in range(3):
            assert transport.next()[0].ids[0] == f"{step}-0-0"
        entry = AmendmentLog(log.path).append(None, {"mixture.people": 0.5})
        assert entry.from_step >= 16
        wanted["now"] = 2
        for step in range(3, 40):
            assert transport.next()[0].ids[0] == f"{step}-0-{int(step >= entry.from_step)}"
        assert len(transport._team) == 2  # type: ignore[attr-defined]
    assert len(list((tmp_path / "marks").iterdir())) == 2


def test_auto_hires_as_many_as_keep_the_consumer_fed() -> None:
    orders = Orders(0, Part(), None, 2, "auto", None, FeedLog(None), limit=6)
    assert orders.wanted(0) == 1
    orders._left = time.perf_counter() - 0.1  # the consumer worked 0.1 s
    orders.made(0, 4, None, 0.25, 1)  # and a batch takes a producer 0.25 s
    orders.handed_over(0.0)
    assert orders.wanted(1) == 3
    orders.made(1, 4, None, 100.0, 3)
    orders._left = time.perf_counter() - 0.1
    orders.handed_over(0.0)
    assert orders.wanted(2) == 6  # and no more than the machine has


def test_a_consumer_waits_for_shards_that_are_still_written(
    corpus: Path, encoders: Encoders, expected: list[EncodedBatch], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(producing, "SHARD_RECORDS", 8)
    path = tmp_path / "cache"

    def produce(part: Part) -> None:
        encode_feed(StagedFeed(stages(corpus, path), 1), Encoders(encoders.root, torch.device("cpu"), torch.float32), 0, part)

    both = [threading.Thread(target=produce, args=(Part(rank, 2),)) for rank in range(2)]
    for thread in both:
        thread.start()
    while not list(path.glob("area-*/*.safetensors")):
        time.sleep(0.01)
    with open_transport("files", encoded_plan(stages(corpus, path), 1)) as transport:
        for wanted in expected:
            assert_same(transport.next()[0], wanted)
    for thread in both:
        thread.join()
    assert all((path / f"area-{area}" / "complete.json").exists() for area in (AREA, 4 * AREA))


def test_what_nobody_encodes_is_named_and_not_waited_for(corpus: Path, cache: Path, tmp_path: Path) -> None:
    copy = tmp_path / "cache"
    shutil.copytree(cache, copy)
    for shard in (copy / f"area-{AREA}").glob("*.safetensors"):
        shard.unlink()
    with (
        open_transport("files", encoded_plan(stages(corpus, copy), 1)) as transport,
        pytest.raises(InputError, match=r"lacks record .* at 4096 pixels and no process fills it; run glyphflow encode"),
    ):
        transport.next()


def test_a_damaged_shard_is_named_put_aside_and_made_again(
    corpus: Path, cache: Path, encoders: Encoders, expected: list[EncodedBatch], tmp_path: Path
) -> None:
    copy = tmp_path / "cache"
    shutil.copytree(cache, copy)
    shards = sorted((copy / f"area-{AREA}").glob("*.safetensors"))
    for shard in shards:  # one bit, in the middle of the latents or texts
        data = bytearray(shard.read_bytes())
        data[len(data) // 2] ^= 16
        shard.write_bytes(data)
    with (
        open_transport("files", encoded_plan(stages(corpus, copy), 1)) as transport,
        pytest.raises(InputError, match=r"shard .*\.safetensors is damaged \(record .* does not match its checksum\)"),
    ):
        for _ in range(STEPS):
            transport.next()
    assert list(copy.glob("area-*/*.damaged"))
    encode_feed(StagedFeed(stages(corpus, copy), 1), encoders, check=True)
    with open_transport("files", encoded_plan(stages(corpus, copy), 1)) as transport:
        for wanted in expected:
            assert_same(transport.next()[0], wanted)


def test_a_full_disk_is_one_sentence_and_encoding_goes_on_where_it_stopped(
    corpus: Path, cache: Path, encoders: Encoders, tmp_path: Path
) -> None:
    path = tmp_path / "cache"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))
    try:
        with pytest.raises(StorageError, match=r"Could not write .*\.safetensors: .*run the same command again"):
            encode_feed(StagedFeed(stages(corpus, path), 1), encoders, 8)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(path.glob("area-*/.*.tmp"))
    encode_feed(StagedFeed(stages(corpus, path), 1), encoders, 8)
    names = [sorted(one.name for one in each.glob("area-*/*.safetensors")) for each in (path, cache)]
    assert names[0] == names[1]  # named by what they hold


def test_other_encoders_and_other_captions_than_the_cache_has_are_noticed(
    corpus: Path, cache: Path, encoders: Encoders, tmp_path: Path
) -> None:
    wrong = [
        stage.model_copy(update={"settings": stage.settings.model_copy(update={"fingerprint": "0123"})})
        for stage in stages(corpus, cache)
    ]
    with (
        open_transport("files", encoded_plan(wrong, 1)) as transport,
        pytest.raises(ConfigError, match=f"encoders {encoders.fingerprint}, and this run is for 0123"),
    ):
        transport.next()
    other = tmp_path / "feed"
    shutil.copytree(corpus.parent, other)
    moved = stages(other / "corpus", cache)
    feed = StagedFeed(moved, 1)
    records = Sources().records(moved[0].settings.sources[0], None, AREA)
    row = records.selection.rows[0]  # type: ignore[union-attr]
    assert feed.record_ids(0) == StagedFeed(stages(corpus, cache), 1).record_ids(0)
    records.captions[0]["raw_en"] = "something else"  # type: ignore[index]
    block = producing.Block(cache, AREA, records, range(len(records.ids)), copies=False)
    changed = producing._missing(block, producing.LatentCache(cache, AREA))
    assert changed == [0] and records.ids[0] == row.id
