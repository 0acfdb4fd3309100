"""Encoding and the encoded payload, with toy encoders."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from glyphflow.core.errors import ConfigError, InputError
from glyphflow.core.files import read_json, write_json
from glyphflow.feed.cache import LatentCache
from glyphflow.feed.content import is_filled
from glyphflow.feed.encode import Encoders, encoder_fingerprint
from glyphflow.feed.order import Part
from glyphflow.feed.producing import Block, encode_blocks, encode_selection
from glyphflow.feed.records import selection_records
from glyphflow.feed.settings import FeedSettings
from glyphflow.feed.staged import Segment, StagedFeed
from glyphflow.models import VAE, image_to_tensor, pack_latents
from tiny import tiny_pipeline
from tiny_pictures import TinyRecord, TinySelection

AREA = 64 * 64


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline(tmp_path_factory.mktemp("encoders") / "model")


@pytest.fixture(scope="module")
def encoders(model: Path) -> Encoders:
    return Encoders(model, torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def cache(encoders: Encoders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("caches") / "numbers"
    assert encode_selection(TinySelection(60, broken=(7,)), encoders, path, AREA) == 59
    return path


def open_feed(cache: Path, seed: int = 1, **changes: object) -> StagedFeed:
    sources, sizes = [{"name": "numbers", "cache": cache}], [{"area": AREA, "batch_size": 8}]
    settings = FeedSettings.model_validate({"sources": sources, "resolutions": sizes, "heldout_share": 0.1} | changes)
    return StagedFeed([Segment(name="all", start=0, steps=100, settings=settings)], seed)


def test_a_cached_sample_is_what_the_encoders_say(cache: Path, model: Path, encoders: Encoders) -> None:
    opened = LatentCache(cache, AREA)
    assert "number-007" not in opened.places  # unreadable, left out
    sample = opened.sample("number-004")
    record = TinySelection(60).load(4)
    vae = VAE.from_pretrained(model / "vae", torch.float32)
    expected = vae.standardise(vae.encode(image_to_tensor(record.image)[None]).mode())[0]
    assert torch.allclose(sample.latents[0].float(), expected, atol=0.02, rtol=0.01)
    assert set(sample.texts) == {"en", "zh"}
    assert torch.equal(sample.texts["zh"], encoders.text(record.captions["zh"]))
    assert set(opened.sample("number-003").texts) == {"en"}


def shards(cache: Path) -> list[Path]:
    return sorted(cache.glob("area-*/*.safetensors"))


def test_a_picture_gives_the_same_bits_alone_and_among_others(model: Path) -> None:
    pictures = [TinySelection(40).load(n).image for n in range(40)]
    together = Encoders(model, torch.device("cpu"), torch.float32).pictures(pictures)
    alone = Encoders(model, torch.device("cpu"), torch.float32)
    for picture, found in zip(pictures, together, strict=True):
        assert torch.equal(alone.pictures([picture])[0], found)


def test_encoding_continues_after_a_stop_and_gives_the_same_bytes(cache: Path, encoders: Encoders, tmp_path: Path) -> None:
    copy = tmp_path / "cache"
    shutil.copytree(cache, copy)
    (shard,) = shards(copy)
    before = shard.read_bytes()
    selection = TinySelection(60, broken=(7,))
    assert encode_selection(selection, encoders, copy, AREA) == 59
    assert selection.loads == []  # nothing to do, nothing read
    shard.write_bytes(before[:100])  # damaged: put aside and made again
    assert encode_selection(selection, encoders, copy, AREA) == 59
    assert shard.read_bytes() == before
    assert len(list(copy.glob("area-*/*.damaged"))) == 1


def test_whoever_waits_for_one_cache_sees_that_its_process_is_at_another(encoders: Encoders, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    seen: set[tuple[bool, bool]] = set()

    class Watching(TinySelection):
        def load(self, index: int) -> TinyRecord:
            seen.add((is_filled(first), is_filled(second)))
            return super().load(index)

    records = selection_records("numbers", Watching(6))
    encode_blocks([Block(path, AREA, records, range(6), copies=False) for path in (first, second)], encoders, Part())
    assert seen == {(True, True)} and not is_filled(first)


def test_a_cache_of_other_encoders_or_records_is_refused(cache: Path, model: Path, encoders: Encoders, tmp_path: Path) -> None:
    other_model = tiny_pipeline(tmp_path / "other", seed=5)
    other = Encoders(other_model, torch.device("cpu"), torch.float32)
    with pytest.raises(ConfigError, match=f"{encoders.fingerprint}.*{other.fingerprint}"):
        encode_selection(TinySelection(60), other, cache, AREA)
    with pytest.raises(ConfigError, match=f"{encoders.fingerprint}.*for {other.fingerprint}"):
        open_feed(cache, fingerprint=other.fingerprint).batch(0)


def test_the_fingerprint_knows_the_latent_statistics(model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(model, copy)
    config = read_json(copy / "vae" / "config.json")
    write_json(copy / "vae" / "config.json", config | {"latents_mean": [0.5] * 16})
    plain = Encoders(model, torch.device("cpu"), torch.float32)
    assert Encoders(copy, torch.device("cpu"), torch.float32).fingerprint != plain.fingerprint


@pytest.mark.parametrize(("part", "same"), [("decoder", True), ("post_quant_conv", True), ("encoder", False)])
def test_a_tuned_decoder_keeps_the_fingerprint(part: str, same: bool, model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(model, copy)
    vae = VAE.from_pretrained(copy / "vae", torch.float32)
    with torch.no_grad():
        next(iter(vae.get_submodule(part).parameters())).view(-1)[-1] += 1
    vae.save_pretrained(copy / "vae")
    assert (encoder_fingerprint(copy) == encoder_fingerprint(model)) is same


def test_an_unfinished_cache_is_refused(cache: Path, tmp_path: Path) -> None:
    copy = tmp_path / "cache"
    shutil.copytree(cache, copy)
    (copy / f"area-{AREA}" / "complete.json").unlink()
    with pytest.raises(InputError, match="not complete"):
        open_feed(copy).batch(0)


def test_batch_of_a_step_is_a_pure_function(cache: Path) -> None:
    one, other = open_feed(cache), open_feed(cache)
    forwards = [one.batch(step) for step in range(20)]
    for step in (19, 3, 3, 11, 0):
        again = other.batch(step)
        assert again.ids == forwards[step].ids and again.shapes == forwards[step].shapes
        assert torch.equal(again.latents, forwards[step].latents) and torch.equal(again.embeds, forwards[step].embeds)
    assert [b.ids for b in forwards] != [open_feed(cache, seed=2).batch(step).ids for step in range(20)]


def test_a_batch_has_one_bucket_packed_latents_and_masked_padding(cache: Path) -> None:
    opened, shapes = LatentCache(cache, AREA), set()
    for step in range(8):
        batch = open_feed(cache).batch(step)
        (shape,) = {tuple(s[0]) for s in batch.shapes}
        shapes.add(shape)
        assert batch.latents.shape == (8, shape[1] * shape[2], 64)
        assert torch.equal(batch.latents[0], pack_latents(opened.sample(batch.ids[0]).latents[0][None])[0])
        if batch.mask is not None:
            assert batch.mask.any(dim=1).all() and not batch.embeds[~batch.mask].any()
    assert len(shapes) == 2  # square and wide pictures both come


def test_conditions_are_dropped_sample_by_sample(cache: Path) -> None:
    opened, source = LatentCache(cache, AREA), open_feed(cache, drop_condition=0.5)
    empty = len(opened.empty)

    def dropped(batch_step: int) -> list[bool]:
        batch = source.batch(batch_step)
        rows = batch.mask if batch.mask is not None else torch.ones(batch.embeds.shape[:2], dtype=torch.bool)
        return [
            int(row.sum()) == empty and torch.equal(embed[:empty], opened.empty)
            for row, embed in zip(rows, batch.embeds, strict=True)
        ]

    found = [dropped(step) for step in range(40)]
    share = sum(map(sum, found)) / 320
    assert 0.4 < share < 0.6
    assert any(0 < sum(row) < 8 for row in found)  # not one coin for the batch
    source = open_feed(cache, drop_condition=0.0)
    assert not any(any(dropped(step)) for step in range(10))


def test_caption_variants_follow_their_weights(cache: Path) -> None:
    source = open_feed(cache, captions={"zh": 1.0}, drop_condition=0.0)
    opened = LatentCache(cache, AREA)
    batch = source.batch(0)
    for row, record in enumerate(batch.ids):
        embeds = opened.sample(record).texts
        expected = embeds.get("zh", opened.empty)  # a record without that caption trains without condition
        assert torch.equal(batch.embeds[row, : len(expected)], expected)
    with pytest.raises(ConfigError, match=r"'fr'.*en, zh"):
        open_feed(cache, captions={"fr": 1.0}).batch(0)


def test_held_out_samples_are_not_trained_on(cache: Path) -> None:
    source = open_feed(cache)
    held = {record for batch in source.heldout(100) for record in batch.ids}
    trained = {record for step in range(30) for record in source.batch(step).ids}
    assert held and not held & trained
