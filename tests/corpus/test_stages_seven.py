"""The packaged recipe over a corpus so small that every view can be told by hand."""

from __future__ import annotations

import importlib.resources
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from column_corpus import column_corpus

from glyphflow.core.errors import ConfigError
from glyphflow.corpus import Corpus
from glyphflow.corpus.decide.curate import ViewSummary, curate, curate_all, decisions
from glyphflow.corpus.operators import BUILDERS
from glyphflow.corpus.operators.categories import load_taxonomy
from glyphflow.corpus.recipe import load_recipe
from glyphflow.corpus.runner.stage import GLOBAL

STAGES = load_recipe("seven-stages-corpus").stages
VIEWS = [stage.view for stage in STAGES]

# A photograph that passes everything.
GOOD: dict[str, Any] = {
    "index.captions": '{"en": "a red barn"}', "index.error": None, "pixels.error": None, "header.bytes": 90_000,
    "header.short_side": 800, "header.orientation": 1, "duplicates.duplicate_of": None, "safety.nsfw": 0.01,
    "pixels.clarity": 400.0, "pixels.luma": 0.5, "pixels.saturation": 0.4, "pixels.entropy": 7.0, "pixels.texture": 9.0,
    "embedding.vector": b"\x00\x3c\x00\x00", "faces.largest": 0.0, "annotate.recaption_en": "a red barn on a hill",
    "annotate.recaption_zh": None, "annotate.fused_en": "a red barn in Wales", "annotate.fused_zh": None,
    "annotate.abnormal": False, "captions.raw_tokens": 3, "captions.raw_refusal": None, "captions.raw_boilerplate": None,
    "captions.recaption_tokens": 6, "captions.recaption_refusal": None, "captions.recaption_boilerplate": None,
    "captions.fused_tokens": 5, "captions.fused_refusal": None, "captions.fused_boilerplate": None,
    "alignment.chinese_clip": 0.4, "alignment.siglip2": 0.1, "alignment.bridge": 0.2, "text.split": "non-text",
    "text.characters": 0, "text.density": 0.0, "text.smallest_share": None, "text.lines": "[]", "detail.dark_clipped": 0.0,
    "detail.bright_clipped": 0.0, "detail.sharpness": 500.0, "detail.blockiness": 0.1, "quality.unnaturalness": 5.0,
    "aesthetics.hand": 6.0, "watermark.count": 0, "watermark.repetition": 0.02, "codes.count": 0, "mosaic.share": 0.0,
    "categories.domain": "nature", "categories.branch": "nature/objects", "categories.node": "nature/objects",
    "categories.score": 0.9, "categories.mentions": " nature/objects ",
}  # fmt: skip
TYPES = {
    "text.smallest_share": "float32",
    **{f"{stage}.error": "string" for stage in ("index", "pixels")},
    **dict.fromkeys(("duplicates.duplicate_of", "annotate.recaption_zh", "annotate.fused_zh"), "string"),
    **{f"captions.{name}_{what}": "string" for name in ("raw", "recaption", "fused") for what in ("refusal", "boilerplate")},
}
CHINESE = {
    "text.split": "chinese",
    "text.characters": 10,
    "text.smallest_share": 0.1,
    "text.lines": json.dumps([{"text": "山水画展今日开幕欢迎"}], ensure_ascii=False),
}
NO_RAW = {"index.captions": "{}"}  # and so every caption that there is can be taken away by its own filters
NO_OTHERS = {"annotate.recaption_en": None, "annotate.fused_en": None}

# Name -> what is different about it, and (stage, filter) of the refusal.
REFUSED: dict[str, tuple[dict[str, Any], tuple[str, str]]] = {
    "unreadable": ({"index.error": "permission denied"}, ("F1", "Broken Files")),
    "cut": ({"pixels.error": "damaged JPEG"}, ("F1", "Broken Files")),
    "spacer": ({"header.bytes": 2999}, ("F1", "File Size")),
    "small": ({"header.short_side": 191}, ("F1", "Resolution")),
    "copy": ({"duplicates.duplicate_of": "good-0"}, ("F1", "Deduplication")),
    "nude": ({"safety.nsfw": 0.41}, ("F1", "NSFW")),
    "turned": ({"header.orientation": 6}, ("F2", "Rotation")),
    "blurred": ({"pixels.clarity": 13.9}, ("F2", "Clarity")),
    "dark": ({"pixels.luma": 0.04}, ("F2", "Luma")),
    "bright": ({"pixels.luma": 0.97}, ("F2", "Luma")),
    "garish": ({"pixels.saturation": 0.95}, ("F2", "Saturation")),
    "flat": ({"pixels.entropy": 2.0}, ("F2", "Entropy")),
    "noise": ({"pixels.texture": 40.0}, ("F2", "Texture")),
    "other-zh": (NO_OTHERS | {"alignment.chinese_clip": 0.2}, ("F3", "Chinese CLIP")),
    "other-en": (NO_OTHERS | {"alignment.siglip2": 0.0}, ("F3", "SigLIP 2")),
    "other-object": (NO_OTHERS | {"alignment.bridge": -0.2}, ("F3", "Bridge")),
    "article": (NO_OTHERS | {"captions.raw_tokens": 151}, ("F3", "Token Length")),
    "refusal": (NO_RAW | {"annotate.fused_en": None, "captions.recaption_refusal": "I cannot"}, ("F3", "Invalid Caption")),
    "address": (NO_OTHERS | {"captions.raw_boilerplate": "an address"}, ("F3", "Invalid Caption")),
    "letter": ({"text.split": "english", "text.characters": 801}, ("F4", "Intensive Text")),
    "classic": (CHINESE | {"text.characters": 301}, ("F4", "Intensive Text")),
    "list": ({"text.density": 0.7}, ("F4", "Intensive Text")),
    "footnote": ({"text.smallest_share": 0.019}, ("F4", "Small Character")),
    "black": ({"detail.dark_clipped": 0.51}, ("F5", "Image Quality")),
    "white": ({"detail.bright_clipped": 0.7}, ("F5", "Image Quality")),
    "soft": ({"detail.sharpness": 14.0}, ("F5", "Image Quality")),
    "blocks": ({"detail.blockiness": 2.5}, ("F5", "Image Quality")),
    "odd": ({"quality.unnaturalness": 26.0}, ("F5", "Image Quality")),
    "narrow": ({"header.short_side": 479}, ("F5", "Resolution")),
    "dull": ({"aesthetics.hand": 2.9}, ("F5", "Aesthetic")),
    "agency": ({"watermark.count": 1}, ("F5", "Abnormal Element")),
    "tiled": ({"watermark.repetition": 0.3}, ("F5", "Abnormal Element")),
    "ticket": ({"codes.count": 1}, ("F5", "Abnormal Element")),
    "fingers": ({"annotate.abnormal": True}, ("F5", "Abnormal Element")),
    "censored": ({"mosaic.share": 0.006}, ("F6", "Mosaic")),
}  # fmt: skip
KEPT: dict[str, dict[str, Any]] = {
    "good-0": {},
    "good-1": {},
    "good-2": {},
    "poor-raw": {"alignment.siglip2": -0.1, "captions.raw_tokens": 999, "captions.fused_refusal": "抱歉"},
    "sign": {"text.split": "english", "text.characters": 12, "text.smallest_share": 0.05,
             "text.lines": '[{"text": "OPEN all days"}]'},
    "scroll": CHINESE,
    "face": {"categories.branch": "people/portrait", "categories.node": "people/portrait", "categories.domain": "people"},
    "render": {"index.kind": "render", "text.split": "other", "text.characters": 40, "pixels.clarity": 0.0,
               "header.bytes": None, "text.lines": '[{"text": "привет"}]', "text.smallest_share": 0.015,
               "categories.domain": "synthetic", "categories.branch": "synthetic/pure", "categories.node": "synthetic/pure"},
}  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    different = KEPT | {name: changes for name, (changes, _) in REFUSED.items()}
    rows = [GOOD | changes | {"index.id": name} for name, changes in different.items()]
    shares = load_taxonomy().shares
    return column_corpus(tmp_path_factory.mktemp("seven") / "corpus", [rows[:9], rows[9:30], rows[30:]], shares, TYPES)


@pytest.fixture(scope="module")
def summaries(corpus: Corpus) -> list[ViewSummary]:
    return curate_all(corpus, STAGES)


def test_the_recipe_writes_the_views_that_pretraining_reads() -> None:
    file = importlib.resources.files("glyphflow") / "recipes/qwen-image-20b/pretrain.yaml"
    training = yaml.safe_load(file.read_text(encoding="utf-8"))["stages"]
    assert [stage["view"] for stage in training] == VIEWS
    splits: list[str] = []
    for stage, curated in zip(training, STAGES, strict=True):
        splits = [split.name for split in curated.splits] or splits
        assert sorted(stage.get("splits", splits)) == sorted(splits)
    assert all(each.operator in BUILDERS or each.operator in GLOBAL for stage in STAGES for each in stage.measure)


def test_every_filter_of_the_report_is_there_in_its_stage() -> None:
    assert [list(stage.filters) for stage in STAGES] == [
        ["Broken Files", "File Size", "Resolution", "Deduplication", "NSFW"],
        ["Rotation", "Clarity", "Luma", "Saturation", "Entropy", "Texture"],
        ["Chinese CLIP", "SigLIP 2", "Bridge", "Token Length", "Invalid Caption"],
        ["Intensive Text", "Small Character"],
        ["Image Quality", "Resolution", "Aesthetic", "Abnormal Element"],
        ["Mosaic"],
        ["Best of Category"],
    ]  # fmt: skip
    for rule in STAGES[2].rules:
        if rule.filter in ("Chinese CLIP", "SigLIP 2"):
            assert rule.captions == ("raw",)
    assert not any(rule.column == "header.short_side" for rule in STAGES[6].rules)  # no threshold at 1328p


def test_each_view_refuses_what_its_stage_and_those_before_it_refuse(corpus: Corpus, summaries: list[ViewSummary]) -> None:
    for number, summary in enumerate(summaries):
        stages = [stage.name for stage in STAGES[: number + 1]]
        expected = {name: why if why[0] in stages else None for name, (_, why) in REFUSED.items()}
        found = {row["id"]: (row["stage"], row["rule"]) if row["rule"] else None for row in decisions(corpus, summary.name)}
        assert {name: why for name, why in found.items() if name in REFUSED} == expected
        assert all(found[name] is None for name in KEPT)
        kept = len(KEPT) + sum(why is None for why in expected.values())
        assert (summary.total, summary.kept) == (len(KEPT) + len(REFUSED), kept) and summary.patched == 0
        assert sum(summary.refused.values()) == summary.total - summary.kept
        assert len(corpus.records(summary.name)) == kept


def test_reasons_quote_the_value(corpus: Corpus, summaries: list[ViewSummary]) -> None:
    rows = {row["id"]: row for row in decisions(corpus, "f7-multi-scale")}
    assert rows["spacer"]["detail"] == "the file has only 2999 bytes" and rows["spacer"]["value"] == 2999
    assert rows["blurred"]["detail"] == "blurred: clarity 13.9"
    assert rows["blurred"]["value"] == pytest.approx(13.9)
    assert rows["cut"]["detail"] == "damaged JPEG" and rows["cut"]["value"] is None
    assert rows["copy"]["detail"] == "the same picture as good-0"
    assert rows["fingers"]["detail"] == "the annotator saw something in the way" and rows["fingers"]["value"] == 1


def test_caption_filters_take_variants_and_leave_the_row(corpus: Corpus, summaries: list[ViewSummary]) -> None:
    before, after = ({row.id: row.captions for row in corpus.records(view).rows} for view in ("f2-quality", "f3-alignment"))
    everything = {"raw_en": "a red barn", "recaption_en": "a red barn on a hill", "fused_en": "a red barn in Wales"}
    assert before["poor-raw"] == before["good-0"] == after["good-0"] == everything
    assert after["poor-raw"] == {"recaption_en": "a red barn on a hill"}
    refused = {row["id"]: row["refused_captions"] for row in decisions(corpus, "f3-alignment") if row["kept"]}
    assert {name: variants for name, variants in refused.items() if variants} == {"poor-raw": "raw,fused"}


def test_splits_are_those_of_the_last_stage_that_splits(corpus: Corpus, summaries: list[ViewSummary]) -> None:
    found = {view: dict(zip((s := corpus.records(view)).ids, s.labels("split"), strict=True)) for view in VIEWS}
    assert set(found["f3-alignment"].values()) == {""}
    for view in ("f4-text", "f5-high-resolution"):
        assert {name: found[view][name] for name in KEPT} == {
            "good-0": "non-text", "good-1": "non-text", "good-2": "non-text", "poor-raw": "non-text", "sign": "english",
            "scroll": "chinese", "face": "non-text", "render": "other",
        }  # fmt: skip
    for view in ("f6-balance", "f7-multi-scale"):
        assert {name: found[view][name] for name in KEPT} == {
            "good-0": "general", "good-1": "general", "good-2": "general", "poor-raw": "general", "sign": "text",
            "scroll": "text", "face": "portrait", "render": "text",
        }  # fmt: skip
    assert summaries[5].splits == {"general": 4, "text": 3, "portrait": 1}
    again = [row["id"] for row in decisions(corpus, "f6-balance") if row["recaption"]]
    assert again == ["face"]


def test_weights_follow_the_shares(corpus: Corpus, summaries: list[ViewSummary]) -> None:
    # Kept: 6 of nature/objects, one each of people/portrait and synthetic/pure; shares 21.67, 3.68 and 2 of these three.
    total = 21.67 + 3.68 + 2.0
    expected = {"good-0": 21.67 / total / (6 / 8), "face": 3.68 / total / (1 / 8), "render": max(0.5, 2.0 / total / (1 / 8))}
    selection = corpus.records("f6-balance")
    weights = dict(zip(selection.ids, selection.weights, strict=True))
    assert {name: weights[name] for name in expected} == pytest.approx(expected, rel=1e-6)
    assert set(corpus.records("f5-high-resolution").weights) == {1.0}


def test_labels_tell_domain_text_and_task(corpus: Corpus, summaries: list[ViewSummary]) -> None:
    selection = corpus.records("f7-multi-scale")
    domains = dict(zip(selection.ids, selection.labels("domain"), strict=True))
    assert (domains["good-0"], domains["face"], domains["render"]) == ("nature", "people", "synthetic")
    texts = dict(zip(selection.ids, selection.labels("text"), strict=True))
    assert (texts["good-0"], texts["sign"], texts["scroll"], texts["render"]) == ("none", "line", "line", "word")
    assert set(selection.labels("task")) == {"t2i"}


def test_one_pass_and_stage_after_stage_give_the_same_bytes(
    corpus: Corpus, summaries: list[ViewSummary], tmp_path: Path
) -> None:
    def content() -> dict[str, bytes]:
        files = sorted((corpus.directory / "views").rglob("*.parquet"))
        return {str(path.relative_to(corpus.directory)): path.read_bytes() for path in files}

    together = content()
    for number, stage in enumerate(STAGES, 1):
        (corpus.directory / "views" / stage.view / "view.json").unlink()
        assert curate(corpus, STAGES[:number], stage.view) == summaries[number - 1]
    assert content() == together


def test_rows_that_were_not_measured_are_an_error_and_not_a_pass(tmp_path: Path) -> None:
    lacking = {name: value for name, value in GOOD.items() if not name.startswith("detail.")}
    rows = [GOOD | {"index.id": "a"}, lacking | {"index.id": "b"}]
    corpus = column_corpus(tmp_path / "corpus", [rows], load_taxonomy().shares, TYPES)
    curate(corpus, STAGES[:4], "f4-text")
    with pytest.raises(ConfigError, match=r"detail.dark_clipped, which is not measured for 1 rows"):
        curate(corpus, STAGES[:5], "f5-high-resolution")
    refused = [GOOD | {"index.id": "a"}, lacking | {"index.id": "b", "text.density": 0.9}]
    corpus = column_corpus(tmp_path / "again", [refused], load_taxonomy().shares, TYPES)
    assert curate(corpus, STAGES[:5], "f5-high-resolution").kept == 1  # what an earlier stage refused need not be measured
