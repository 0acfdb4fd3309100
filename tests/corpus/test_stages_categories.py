"""The taxonomy and what rows are put into, against pictures described in words."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from column_corpus import column_corpus

from glyphflow.core.errors import ConfigError
from glyphflow.corpus import Corpus, add_specs
from glyphflow.corpus.ingest.pictures import ingest_folder
from glyphflow.corpus.operators.categories import Classifier, Seen, Taxonomy, load_taxonomy
from glyphflow.corpus.recipe import RenderSet
from glyphflow.corpus.runner.stage import run
from glyphflow.corpus.variants import best_caption, text_level
from glyphflow.render import EDITS, TEMPLATES

PACKAGED = load_taxonomy()
CLASSIFIER = Classifier(PACKAGED)


def test_the_packaged_taxonomy_is_whole() -> None:
    assert PACKAGED.domain_shares == {"nature": 55, "design": 27, "people": 13, "synthetic": 5}
    for domain, share in PACKAGED.domain_shares.items():
        assert sum(each for branch, each in PACKAGED.shares.items() if branch.startswith(domain)) == pytest.approx(
            share, abs=0.5
        )
    assert set().union(*(node.classes for node in PACKAGED.nodes.values())) == set(range(1000))
    assert all(node.en and node.zh and any(char >= "\u4e00" for char in node.zh) for node in PACKAGED.nodes.values())
    assert {name for node in PACKAGED.nodes.values() for name in node.templates} == set(TEMPLATES)
    assert not set(EDITS) & set(TEMPLATES)


@pytest.mark.parametrize(
    ("label", "node"),
    [
        (207, "nature/animals/dogs"), (281, "nature/animals/cats"), (291, "nature/animals/mammals"), (1, "nature/animals/fish"),
        (147, "nature/animals/mammals"), (323, "nature/animals/insects"), (963, "nature/food"),
        (950, "nature/food/fruit-and-vegetables"),
        (967, "nature/food/drinks"), (985, "nature/plants"), (992, "nature/plants/fungi"), (979, "nature/landscape"),
        (978, "nature/landscape/water"), (483, "nature/cityscape/buildings"), (920, "nature/cityscape/shops"),
        (831, "nature/indoor"),
        (402, "nature/objects/instruments"), (620, "nature/objects/electronics"), (817, "nature/objects/vehicles"),
        (852, "nature/objects/sports-equipment"), (916, "design/ui"), (917, "design/arts/comics"), (922, "design/posters"),
    ],
)  # fmt: skip
def test_imagenet_classes_belong_where_a_person_would_put_them(label: int, node: str) -> None:
    domain = node.split("/")[0]
    found = CLASSIFIER.photo(Seen(classes={label: 0.9}))
    assert (found.node, found.domain) == (node, domain)


@pytest.mark.parametrize(
    ("seen", "node"),
    [
        (Seen(captions=("Two dogs run along a beach",)), "nature/animals/dogs"),
        (Seen(captions=("一碗牛肉面条放在桌子上",)), "nature/food"),
        (Seen(captions=("Portrait of an old man",)), "people/portrait"),
        (Seen(captions=("a woman walks her dog",), face=0.01), "people/activities"),
        (Seen(captions=("smiling",), face=0.2), "people/portrait"),
        (Seen(classes={750: 0.2}, face=0.2), "people/portrait"),
        (Seen(captions=("women playing tennis",)), "people/sports"),
        (Seen(captions=("traffic lights in the rain",)), "nature/cityscape/shops"),
        (Seen(captions=("a man holds a rose",), image_type="poster"), "design/posters"),
        (Seen(captions=("a watercolour of a lake",)), "design/arts/paintings"),
        (Seen(image_type="screenshot", chars=300), "design/ui"),
        (Seen(captions=("red barn",)), "nature/cityscape/buildings"),
        (Seen(chars=200), "design/other"),
        (Seen(captions=("hm",)), "nature/objects"),  # what is not clearly of people or design is nature
    ],
)
def test_evidence_decides(seen: Seen, node: str) -> None:
    found = CLASSIFIER.photo(seen)
    assert found.node == node and found.branch == "/".join(node.split("/")[:2]) and found.domain == node.split("/")[0]


def test_what_is_said_first_counts_most_and_everything_said_is_a_mention() -> None:
    late = "a horse in a wide green field " + "with nothing else to be seen " * 7 + "but a boat"
    found = CLASSIFIER.photo(Seen(captions=(late,)))
    assert found.node == "nature/animals/mammals"
    assert found.mentions == " nature/animals nature/landscape nature/objects "
    assert CLASSIFIER.photo(Seen(captions=("concatenate",))).mentions == ""  # words, not letters
    # A horse (token 1 of 40 that count) against a field (token 5): 0.9875 and 0.9375.
    score = CLASSIFIER.photo(Seen(captions=("a horse in a wide field",))).score
    assert score == pytest.approx(0.9875 * 0.9875 / (0.9875 + 0.9375))


def test_an_own_taxonomy_replaces_the_packaged_one(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(
        "nodes:\n  nature: {en: n, zh: 自}\n  nature/rest: {en: r, zh: 其, rest: true}\n"
        "  nature/tea: {en: t, zh: 茶, words: [tea, 茶]}\n"
    )
    own = Classifier(load_taxonomy(file))
    assert own.photo(Seen(captions=("a cup of tea",))).node == own.photo(Seen(captions=("绿茶",))).node == "nature/tea"
    assert own.photo(Seen(captions=("a dog",))).node == "nature/rest"
    for text, message in (
        ("nodes: {a/b: {en: x, zh: y}}", "no parent 'a'"),
        ("nodes: {a: {en: x, zh: y, labels: [12-1000]}}", "12-1000"),
        ("nodes: {a: {en: x, zh: y, wrods: [z]}}", "wrods"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=message):
            load_taxonomy(file)
    with pytest.raises(ValueError, match="no ImageNet class"):
        Taxonomy.model_validate({"nodes": {"a": {"en": "x", "zh": "y", "labels": ["dog"]}}})


def test_the_stage_reads_what_was_measured_and_follows_it(tmp_path: Path) -> None:
    row: dict[str, Any] = {"index.captions": "{}"}
    rows = [
        row | {"index.id": "cat", "embedding.classes": [281, 285], "embedding.scores": [0.6, 0.3], "faces.largest": 0.0},
        row | {"index.id": "face", "embedding.classes": [750], "embedding.scores": [0.1], "faces.largest": 0.3},
        {"index.id": "said", "index.captions": '{"zh": "一只狗"}'},
        {"index.id": "unknown", "index.captions": "{}"},
    ]
    types = {"embedding.classes": "list<int16>", "embedding.scores": "list<float32>"}
    corpus = column_corpus(tmp_path / "c", [rows], types=types)
    add_specs(corpus, "words", RenderSet(name="words", template="word", count=2).specs())
    add_specs(corpus, "slides", RenderSet(name="slides", template="slide", count=1).specs())
    assert run(corpus, "categories") == 7
    assert run(corpus, "categories") == 0
    found = {shard: corpus.columns("categories", shard) or {} for shard in corpus.shards()}
    assert found["rows-00000"]["node"] == ["nature/animals/cats", "people/portrait", "nature/animals/dogs", None]
    assert found["rows-00000"]["mentions"] == ["", "", " nature/animals ", None]
    assert found["words-00000"]["node"] == ["synthetic/pure"] * 2 and found["slides-00000"]["branch"] == ["synthetic/complex"]
    assert corpus.records().labels("domain") == ["nature", "people", "nature", "", *["synthetic"] * 3]
    # Further rows of an input are measured: its file is younger than the categories.
    path = corpus.column_path("faces", corpus.stage_fingerprint("faces") or "", "rows-00000")
    made = corpus.column_path("categories", corpus.stage_fingerprint("categories") or "", "rows-00000").stat().st_mtime_ns
    os.utime(path, ns=(made + 10**9, made + 10**9))
    assert run(corpus, "categories") == 4


def test_levels_of_text() -> None:
    levels = {"": "none", " \n": "none", "OPEN": "word", "马到成功": "word", "马到成功了": "line", "OPEN 24": "line",
              "one\ntwo": "line", "a\nb\nc": "paragraph", "word " * 17: "paragraph"}  # fmt: skip
    assert {text: text_level(text) for text in levels} == levels


def test_renders_tell_their_text_even_when_nothing_has_read_them(tmp_path: Path) -> None:
    corpus = Corpus.create(tmp_path / "c")
    one = RenderSet(name="w", template="word", count=1, params={"languages": ["zh"], "max_lines": 1})
    add_specs(corpus, "words", one.specs())
    add_specs(corpus, "pages", RenderSet(name="p", template="paragraph", count=1, width=256, height=256).specs())
    add_specs(corpus, "signs", RenderSet(name="e", template="emoji", count=1, params={"background": "plain"}).specs())
    add_specs(corpus, "pairs", RenderSet(name="r", template="edit_recolour", count=1).specs())
    selection = corpus.records()
    levels = dict(zip([row.source for row in selection.rows], selection.labels("text"), strict=True))
    assert levels["words"] in ("word", "line") and levels["pages"] == "paragraph" and levels["signs"] == "none"
    assert [row.source for row in selection.rows] == ["pages", "pairs", "pairs", "signs", "words"]
    assert selection.labels("task") == ["t2i", "t2i", "ti2i", "t2i", "t2i"]  # a pair is its source, then its target
    assert selection.weights == [1.0] * 5 and selection.labels("split") == [""] * 5


def test_the_best_caption() -> None:
    captions = {"raw_en": "r", "fused_en": "f", "recaption_zh": "z"}
    assert best_caption(captions, "en") == "f" and best_caption(captions | {"recaption_en": "c"}, "en") == "c"
    assert best_caption({"en": "truth", "recaption_en": "c"}, "en") == "truth"
    assert best_caption(captions, "zh") == "z" and best_caption({}, "en") is None


def test_captions_are_known_before_a_record_is_opened(folder: Callable[..., Path], tmp_path: Path) -> None:
    corpus = Corpus.create(tmp_path / "c")
    ingest_folder(corpus, folder(1), "mine", "x")
    add_specs(corpus, "words", RenderSet(name="words", template="word", count=1).specs())
    selection = corpus.records()
    assert selection.rows[0].captions == selection.load(0).captions == {"raw_en": "picture number 0"}
    assert selection.rows[1].captions == {} and set(selection.load(1).captions) == {"en", "zh"}  # known once it is drawn
    for name, options in (("pixels", {}), ("annotate", {"reading": False})):
        run(corpus, name, options, workers=1)
    selection = corpus.records()
    assert selection.rows[1].captions == selection.load(1).captions == corpus.records().load(1).captions
    told = "picture number 0"
    assert selection.rows[0].captions == {"raw_en": told, "recaption_en": told, "fused_en": told}
