"""A small corpus on disk, with photographs and edits, and the segments of a run that reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from glyphflow.corpus import Corpus
from glyphflow.corpus.ingest.edits import ingest_edits
from glyphflow.corpus.ingest.pictures import ingest_folder
from glyphflow.feed.settings import FeedSettings
from glyphflow.feed.staged import Segment

AREA = 64 * 64


def picture(number: int, width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(number)
    image = Image.new("RGB", (width, height), tuple(int(v) for v in rng.integers(0, 256, 3)))
    ImageDraw.Draw(image).text((4, 8), str(number), fill="white", font_size=24)
    return image


def make_corpus(directory: Path, photos: int = 30, edits: int = 9) -> Path:
    """``photos`` square and wide pictures with one or two captions, and ``edits`` from one or two references."""
    folder = directory / "pictures"
    folder.mkdir(parents=True)
    for n in range(photos):
        picture(n, 64 if n % 3 else 128, 64).save(folder / f"{n:03d}.png")
        captions = {"en": f'the number "{n}" in white' + " and more words" * (n % 5), "zh": f"白色数字“{n}”"}
        (folder / f"{n:03d}.json").write_text(json.dumps(captions if n % 4 else {"en": captions["en"]}))
    lines = []
    other = directory / "edits"
    other.mkdir()
    for n in range(edits):
        references = [f"r{n}-{k}.png" for k in range(1 + n % 2)]
        for k, name in enumerate(references):
            picture(1000 + 10 * n + k, 64, 64 + 64 * k).save(other / name)
        picture(2000 + n, 64, 64).save(other / f"t{n}.png")
        lines.append(json.dumps({"references": references, "instruction": f"make it say {n}", "target": f"t{n}.png"}))
    (other / "edits.jsonl").write_text("\n".join(lines) + "\n")
    corpus = Corpus.create(directory / "corpus")
    ingest_folder(corpus, folder, "photos", "CC0")
    ingest_edits(corpus, other / "edits.jsonl", "edits", "CC0")
    return corpus.directory


def settings(corpus: Path, cache: Path | None = None, **changes: Any) -> FeedSettings:
    values = {
        "sources": [{"name": "all", "corpus": str(corpus), "cache": str(cache) if cache else None}],
        "resolutions": [{"area": AREA, "batch_size": 4, "share": 3}, {"area": 4 * AREA, "batch_size": 2}],
        "tasks": {"t2i": 0.6, "ti2i": 0.2, "i2i": 0.2},
        "heldout_share": 0.1,
    }
    return FeedSettings.model_validate(values | changes)


def segments(*stages: tuple[int, FeedSettings]) -> list[Segment]:
    found, start = [], 0
    for number, (steps, each) in enumerate(stages):
        found.append(Segment(name=f"stage-{number}", start=start, steps=steps, settings=each))
        start += steps
    return found
