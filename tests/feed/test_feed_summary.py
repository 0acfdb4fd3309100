"""What a run learns from is told before its first step, and a bad record costs itself only."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from glyphflow.core.errors import ConfigError
from glyphflow.corpus import Corpus
from glyphflow.corpus.ingest.pictures import ingest_folder
from glyphflow.feed.buckets import bucket_of, bucket_sizes, cut_share
from glyphflow.feed.cache import LatentCache
from glyphflow.feed.encode import Encoders
from glyphflow.feed.producing import encode_feed
from glyphflow.feed.settings import FeedSettings
from glyphflow.feed.staged import Segment, StagedFeed
from glyphflow.feed.summary import changes, contents, summary
from tiny import tiny_pipeline

AREA = 64 * 64
PICTURES = {  # name: (size, caption); 3:1 is the widest bucket
    "a.png": ((64, 64), "a plain red square"),
    "b.png": ((64, 64), "一个红色的方块"),
    "c.png": ((64, 64), ""),
    "small.png": ((20, 20), "ein kleines Quadrat auf einem weißen Grund mit einer schwarzen Linie"),
    "wide.png": ((640, 160), 'a sign that says "GRAND OPENING"'),
    "banner.png": ((1600, 160), 'a banner that says "SALE"'),
}


def make(directory: Path) -> Path:
    folder = directory / "pictures"
    folder.mkdir(parents=True)
    for name, (size, caption) in PICTURES.items():
        Image.new("RGB", size, (len(name) * 20, 10, size[0] % 256)).save(folder / name)
        if caption:
            (folder / name).with_suffix(".txt").write_text(caption, encoding="utf-8")
    corpus = Corpus.create(directory / "corpus")
    ingest_folder(corpus, folder, "mine", "CC0")
    return corpus.directory


def feed(corpus: Path, cache: Path | None = None, **changes_: object) -> StagedFeed:
    values = {
        "sources": [{"name": "mine", "corpus": str(corpus), "cache": str(cache) if cache else None}],
        "resolutions": [{"area": AREA, "batch_size": 2}],
        "heldout_share": 0.0,
    }
    settings = FeedSettings.model_validate(values | changes_)
    return StagedFeed([Segment(name="all", start=0, steps=10, settings=settings)], 0)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("summary"))


def test_the_share_that_a_crop_cuts_away() -> None:
    assert cut_share((64, 64), (64, 64)) == 0
    assert cut_share((200, 100), (100, 100)) == pytest.approx(0.5)
    assert cut_share((100, 400), (200, 200)) == pytest.approx(0.75)


def test_the_table_counts_captions_and_names_what_is_cut(corpus: Path) -> None:
    lines = summary(feed(corpus), 0.0)
    names, numbers = lines[1].split("  "), lines[2].split()
    # source, side, pictures, held out, passes (20 samples of 5 pictures), captions by kind, enlarged, cropped, left out
    assert names[0].strip() == "source" and numbers == ["mine", "64", "5", "0", "4", "1", "2", "1", "1", "1", "1", "1"]
    text = "\n".join(lines[3:])
    assert "1 of 5 pictures have no caption" in text and "small.png" in text and "enlarged more than 1.5 times" in text
    lost = cut_share((640, 160), bucket_of((640, 160), bucket_sizes(AREA)))
    assert "most of all wide.png" in text and f"{lost:.0%} is cut away" in text
    assert "may cut off words that the captions quote, in 1 pictures: wide.png" in text and '"GRAND OPENING"' in text
    assert "1 pictures are left out" in text and "banner.png" in text and "feed.crop_limit = 0.5" in text
    assert "nothing is held out" in text


def test_a_recipe_decides_how_much_may_be_cut(corpus: Path) -> None:
    kept = {i for _, stretch in feed(corpus, crop_limit=1.0).stretches() for s in stretch.streams for i in s.members.tolist()}
    fewer = {i for _, stretch in feed(corpus, crop_limit=0.1).stretches() for s in stretch.streams for i in s.members.tolist()}
    assert (len(kept), len(fewer)) == (6, 4)
    folder = corpus.parent / "only"
    folder.mkdir()
    Image.new("RGB", (1600, 160)).save(folder / "x.png")
    alone = Corpus.create(corpus.parent / "banners")
    ingest_folder(alone, folder, "banners", "CC0")
    with pytest.raises(ConfigError, match="crop_limit"):
        summary(feed(alone.directory), 0.0)


def test_changed_records_are_named(corpus: Path, tmp_path: Path) -> None:
    before = contents(feed(corpus))
    other = contents(feed(make(tmp_path)))
    assert changes(before, before) == []
    assert changes(before, other | {"mine": other["mine"] | {"captions": "x"}}) == ["captions of mine have changed"]
    more = {"mine": before["mine"] | {"records": 7, "ids": "y"}}
    assert changes(before, more) == ["mine held 6 records and holds 7 now, not the same ones"]


def test_a_caption_over_the_limit_costs_its_record_only(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, caption in (("good.png", "a word"), ("long.png", "many words " * 1200)):
        Image.new("RGB", (64, 64), (len(caption) % 256, 1, 2)).save(folder / name)
        (folder / name).with_suffix(".txt").write_text(caption)
    corpus = Corpus.create(tmp_path / "corpus")
    ingest_folder(corpus, folder, "mine", "CC0")
    model = tiny_pipeline(tmp_path / "model")
    encoders, said = Encoders(model, torch.device("cpu"), torch.float32), []
    for _ in range(2):
        said.clear()
        encode_feed(feed(corpus.directory, tmp_path / "cache"), encoders, say=said.append)
        assert len(said) == 1 and "1 records are left out" in said[0] and "long.png" in said[0] and "1024" in said[0]
    cache = LatentCache(tmp_path / "cache", AREA)
    assert len(cache.complete) == 1 and len(cache.skipped) == 1
    batch = feed(corpus.directory, tmp_path / "cache").batch(0)
    assert set(batch.ids) == set(cache.places)


def test_of_two_equally_near_buckets_the_one_of_that_very_area_counts() -> None:
    # 272 x 96 and 256 x 96 are both log(9 / 8) away from 3:1 at 24,576 pixels.
    assert bucket_of((256, 96), bucket_sizes(256 * 96)) == (256, 96)
    assert bucket_sizes(1024 * 1024)[-2:] == ((592, 1776), (1776, 592))  # as the caches of earlier versions have them
