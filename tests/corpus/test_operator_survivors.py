"""The operators for survivors in a corpus: a shard of known pictures through the real runner."""

from __future__ import annotations

import importlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpus_pictures import encoded
from PIL import Image, ImageDraw, ImageFont
from skimage import data

from glyphflow.core.errors import ConfigError
from glyphflow.corpus import Corpus
from glyphflow.corpus.ingest.pictures import ingest_folder
from glyphflow.corpus.ingest.sources import cut
from glyphflow.corpus.operator import Row, Shard
from glyphflow.corpus.operators import BUILDERS, make_operator
from glyphflow.corpus.operators.text import character_height, columns, density, is_picture
from glyphflow.corpus.runner.pools import compute
from glyphflow.corpus.runner.stage import run
from glyphflow.corpus.specs import Renderer, add_specs, spec_line
from glyphflow.perception.ocr import OCR
from glyphflow.render import RenderSpec

CHEAP = ("safety", "faces", "codes", "mosaic", "detail", "quality", "aesthetics", "embedding")
DRAWN = [RenderSpec("word", seed, 256, 256) for seed in range(2)]
Columns = Callable[..., dict[str, dict[str, Any]]]


def _sign() -> Image.Image:
    picture = Image.new("RGB", (640, 320), (240, 240, 235))
    pen = ImageDraw.Draw(picture)
    pen.text((40, 40), "Harbour Museum", font=ImageFont.load_default(56), fill=(20, 40, 90))
    pen.text((40, 250), "www.example.com", font=ImageFont.load_default(20), fill=(20, 40, 90))
    return picture


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Pictures of known content, one broken, one tiny, and two renders."""
    import zxingcpp

    place = tmp_path_factory.mktemp("known") / "pictures"
    place.mkdir()
    coded = Image.fromarray(data.chelsea())
    coded.paste(Image.fromarray(np.array(zxingcpp.create_barcode("hello", zxingcpp.BarcodeFormat.QRCode).to_image(scale=4))))
    pictures = {
        "astronaut": Image.fromarray(data.astronaut()),
        "coffee": Image.fromarray(data.coffee()),
        "coded": coded,
        "sign": _sign(),
        "tiny": Image.new("RGB", (6, 5), (9, 9, 9)),
    }
    for name, picture in pictures.items():
        (place / f"{name}.jpg").write_bytes(encoded(picture))
    (place / "broken.jpg").write_bytes(cut(encoded(pictures["coffee"]), 0.4))
    (place / "coffee.json").write_text(json.dumps({"en": "a cup of coffee", "zh": "一杯咖啡"}))
    (place / "coded.json").write_text(json.dumps({"en": "a rocket is launched"}))
    corpus = Corpus.create(place.parent / "corpus")
    ingest_folder(corpus, place, "known", "CC0", per_shard=4)
    add_specs(corpus, "drawn", DRAWN)
    return corpus


@pytest.fixture(scope="module")
def measured(made: Corpus) -> Columns:
    """Run an operator; gives its columns by key."""

    def measure(name: str, **options: Any) -> dict[str, dict[str, Any]]:
        run(made, name, options, workers=2)
        found = {}
        for shard in made.shards():
            columns = made.columns(name, shard)
            assert columns is not None
            for number, key in enumerate(made.index(shard, ("key",))["key"]):
                found[key.removesuffix(".jpg")] = {column: values[number] for column, values in columns.items()}
        return found

    return measure


def test_every_name_of_the_table_is_a_builder() -> None:
    for name, place in BUILDERS.items():
        module, _, function = place.rpartition(".")
        assert callable(getattr(importlib.import_module(module), function)), name


def test_an_unknown_operator_or_option_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'sharpness'.*detail"):
        make_operator("sharpness")
    with pytest.raises(ConfigError, match=r"'fast'.*brisque"):
        make_operator("quality", fast=True)
    with pytest.raises(ConfigError, match="neither"):
        make_operator("aesthetics", head="head.pth")


@pytest.mark.parametrize("name", CHEAP)
def test_a_broken_picture_costs_its_row_and_identity_is_stable(measured: Columns, name: str) -> None:
    rows = measured(name)
    assert len(rows) == 8
    assert "damaged JPEG" in rows["broken"]["error"]
    assert all(row["error"] is None for key, row in rows.items() if key != "broken")
    one, again = make_operator(name), make_operator(name)
    assert one.identity == again.identity
    assert json.loads(json.dumps(one.identity)) == dict(one.identity)
    assert set(one.types) <= set(rows["coffee"])


def test_what_is_measured_is_what_is_to_be_seen(measured: Columns) -> None:
    assert measured("faces")["astronaut"]["count"] == 1
    assert 0.02 < measured("faces")["astronaut"]["largest"] < 0.05
    codes = measured("codes")
    assert [codes[key]["count"] for key in ("coded", "coffee", "astronaut", "sign")] == [1, 0, 0, 0]
    assert json.loads(codes["coded"]["found"])[0]["text"] == "hello"
    assert 0 < codes["coded"]["share"] < 0.2
    assert measured("embedding")["coffee"]["labels"][0] == "espresso"
    vector = np.frombuffer(measured("embedding")["coffee"]["vector"], "<f2")
    assert vector.shape == (1280,)
    assert np.linalg.norm(vector.astype(np.float32)) == pytest.approx(1, abs=1e-2)
    assert measured("quality")["tiny"]["unnaturalness"] is None
    assert measured("quality")["astronaut"]["unnaturalness"] < 8
    assert measured("aesthetics")["astronaut"]["learned"] is None
    assert max(row["nsfw"] or 0 for row in measured("safety").values()) < 0.5


@pytest.mark.parametrize("name", CHEAP)
def test_threads_change_nothing(made: Corpus, measured: Columns, name: str) -> None:
    rows = measured(name)
    operator = make_operator(name)
    shard = "known-00000"
    with Shard(made, shard) as opened:
        alone = compute(operator, [Row(opened, number) for number in range(4)])
    for key, found in zip(made.index(shard, ("key",))["key"], alone, strict=True):
        for column, value in found.items():
            told = rows[key.removesuffix(".jpg")][column]
            assert told == (pytest.approx(value, rel=1e-6) if isinstance(value, float | list) and column != "labels" else value)


def test_a_round_thing_is_no_character() -> None:
    coffee, sign = data.coffee(), np.asarray(_sign())
    on_coffee, on_sign = OCR().read([coffee, sign])
    assert [line.text for line in on_coffee] == ["8"]  # the cup
    assert all(is_picture(line, *coffee.shape[:2]) for line in on_coffee)
    assert not any(is_picture(line, *sign.shape[:2]) for line in on_sign)


def test_text_and_watermark_read_signs_and_believe_renders(measured: Columns) -> None:
    rows = measured("text")
    sign = rows["sign"]
    assert [line["text"] for line in json.loads(sign["lines"])] == ["Harbour Museum", "www.example.com"]
    assert (sign["count"], sign["characters"], sign["split"], sign["language"]) == (2, 28, "english", "en")
    assert 14 < sign["smallest_px"] < 32
    assert sign["smallest_share"] == pytest.approx(sign["smallest_px"] / 320)
    assert 0.08 < sign["density"] < 0.25
    assert rows["coffee"]["split"] == "non-text"
    assert rows["coffee"]["density"] < 0.1
    assert rows["coffee"]["language"] is None
    for number, spec in enumerate(DRAWN):
        exact, row = Renderer().draw(spec_line(spec)), rows[str(number)]
        assert [line["text"] for line in json.loads(row["lines"])] == [line.text for line in exact.lines]
        assert row["smallest_px"] == pytest.approx(min(line.size_px for line in exact.lines))
    marks = measured("watermark")
    assert json.loads(marks["sign"]["lines"]) == ["www.example.com"]
    assert marks["coffee"]["count"] == 0
    assert marks["coffee"]["repetition"] < 0.06
    assert all(marks[key]["count"] is None and marks[key]["repetition"] is not None for key in ("0", "1"))


def test_alignment_takes_the_least_fitting_caption(measured: Columns) -> None:
    rows = measured("alignment")
    each = json.loads(rows["coffee"]["captions"])
    assert rows["coffee"]["bridge"] == pytest.approx(min(each["en"]["bridge"], each["zh"]["bridge"]), abs=1e-4)
    assert rows["coffee"]["bridge"] > 0.3 > 0.15 > rows["coded"]["bridge"]
    assert rows["sign"]["bridge"] is None
    assert rows["coffee"]["siglip2"] is None


def test_alignment_by_models_of_the_user(measured: Columns, tmp_path: Path) -> None:
    from glyphflow.perception.alignment import DualEncoder
    from perception.tiny_encoders import chinese_clip, siglip

    siglip(tmp_path / "siglip")
    chinese_clip(tmp_path / "chinese")
    rows = measured("alignment", siglip2=str(tmp_path / "siglip"), chinese_clip=str(tmp_path / "chinese"), batch=3)
    coffee = json.loads(rows["coffee"]["captions"])
    assert set(coffee["en"]) == {"siglip2"}
    assert set(coffee["zh"]) == {"siglip2", "chinese_clip"}
    encoder = DualEncoder(tmp_path / "siglip")
    picture = np.asarray(Image.open(io.BytesIO(encoded(Image.fromarray(data.coffee())))))
    (expected,) = encoder.pictures([picture]) @ encoder.texts(["a cup of coffee"]).T
    assert coffee["en"]["siglip2"] == pytest.approx(float(expected[0]), abs=2e-3)  # decoders differ by a level here and there
    assert rows["coded"]["chinese_clip"] is None
    assert rows["coded"]["siglip2"] is not None


def test_density_counts_overlapping_boxes_once() -> None:
    box = ((0, 0), (100, 0), (100, 50), (0, 50))
    assert density([box], 100, 200) == 0.25
    assert density([box, box], 100, 200) == density([box], 100, 200)
    assert density([], 100, 200) == 0
    small = ((0, 10), (4000, 10), (4000, 106), (0, 106))  # on a grid of 512 px
    assert density([small], 4000, 4000) == pytest.approx(96 / 4000, rel=0.1)
    slanted = ((50, 10), (90, 50), (50, 90), (10, 50))
    assert density([slanted], 100, 100) == pytest.approx(0.32, rel=0.03)


def test_characters_are_measured_across_the_line_whatever_its_direction() -> None:
    assert character_height("Harbour", ((0, 0), (200, 0), (200, 30), (0, 30))) == 30
    assert character_height("海港博物馆", ((0, 0), (30, 0), (30, 200), (0, 200))) == 30  # vertical
    assert character_height("I", ((0, 0), (10, 0), (10, 40), (0, 40))) == 40
    slanted = ((0, 0), (120, 160), (96, 178), (-24, 18))  # 200 px long, 30 px high
    assert character_height("Harbour", slanted) == pytest.approx(30)


def test_a_picture_without_lines_has_no_smallest_character() -> None:
    found = columns([], 100, 100)
    assert (found["count"], found["split"], found["smallest_px"], found["language"]) == (0, "non-text", None, None)
