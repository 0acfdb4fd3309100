from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from corpus_pictures import encoded, photo

from glyphflow.core.errors import ConfigError, InputError
from glyphflow.corpus import Corpus, add_specs
from glyphflow.corpus.annotate import ANNOTATION_TYPES, KEYS, annotate, text_split
from glyphflow.corpus.curate import curate, decisions, summarise
from glyphflow.corpus.ingest import ingest_folder
from glyphflow.corpus.measure import measure
from glyphflow.corpus.page import page
from glyphflow.corpus.query import query
from glyphflow.corpus.recipe import CorpusRecipe, RenderSet, Rule, Stage, load_recipe, packaged_recipes
from glyphflow.corpus.sources import FAULTS, collect
from glyphflow.perception.ocr import OCRLine

Folder = Callable[..., Path]


def _stage(*rules: Rule) -> Stage:
    return Stage(name="F1", title="first", rules=rules)


def _clarity(least: float) -> Stage:
    return _stage(
        Rule(filter="Broken Files", column="pixels.error", empty=True, reason="{value}"),
        Rule(filter="Clarity", column="pixels.clarity", min=least, reason="clarity {value}"),
    )


@pytest.fixture
def corpus(folder: Folder, tmp_path: Path) -> Corpus:
    """Six photographs and four renders, measured."""
    made = Corpus.create(tmp_path / "corpus")
    ingest_folder(made, folder(6), "mine", "x", per_shard=4)
    add_specs(made, "words", RenderSet(name="words", template="word", count=4).specs(), per_shard=3)
    measure(made)
    return made


def test_a_view_states_the_first_failing_rule_with_its_value(corpus: Corpus) -> None:
    clarity = sorted(
        value for shard in corpus.shards() for value in (corpus.columns("pixels", shard, ("clarity",)) or {})["clarity"]
    )
    least = clarity[4] + 1e-3
    done = curate(corpus, [_clarity(least)], "sharp")
    assert (done.total, done.kept, done.refused["F1", "Clarity"]) == (10, 5, 5)
    for row in decisions(corpus, "sharp"):
        measured = (corpus.columns("pixels", row["shard"]) or {})["clarity"][row["row"]]
        assert row["id"] == corpus.index(row["shard"])["id"][row["row"]]
        if row["kept"]:
            assert measured >= least and row["rule"] is None and row["value"] is None
        else:
            assert (row["stage"], row["rule"], row["value"]) == ("F1", "Clarity", measured)
            assert row["detail"] == f"clarity {measured:.4g}"
    assert len(corpus.records("sharp")) == 5 and len(corpus.records()) == 10
    assert summarise(corpus, "sharp") == done


def test_changing_a_threshold_opens_no_picture(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> bytes:
        raise AssertionError("a picture was opened")

    monkeypatch.setattr(Corpus, "payload", refuse)
    assert curate(corpus, [_clarity(0.0)], "sharp").kept == 10
    assert curate(corpus, [_clarity(1e9)], "sharp").kept == 0
    assert curate(corpus, [_clarity(0.0)], "sharp").kept == 10


def test_the_same_decision_is_not_written_again(corpus: Corpus) -> None:
    curate(corpus, [_clarity(1.0)], "sharp")
    path = corpus.view_path("sharp", corpus.shards()[0])
    before = path.stat().st_ino
    curate(corpus, [_clarity(1.0)], "sharp")
    assert path.stat().st_ino == before
    curate(corpus, [_clarity(2.0)], "sharp")
    assert path.stat().st_ino != before


def test_rules_can_spare_renders_and_wait_for_their_columns(corpus: Corpus) -> None:
    impossible = Rule(filter="Clarity", column="pixels.clarity", min=1e9, kinds=("photo",), reason="{value}")
    later = Rule(filter="Token Length", column="annotate.caption_tokens", max=5, optional=True, reason="{value}")
    done = curate(corpus, [_stage(impossible, later)], "renders")
    assert done.kept == 4 and done.skipped == ("Token Length",)
    with pytest.raises(ConfigError, match="has not run on every shard"):
        curate(corpus, [_stage(later.model_copy(update={"optional": False}))], "renders")
    with pytest.raises(ConfigError, match=r"has only .*clarity"):
        curate(corpus, [_stage(Rule(filter="X", column="pixels.charity", min=1, reason=""))], "renders")
    with pytest.raises(InputError, match="has no view 'nothing'"):
        corpus.records("nothing")


def test_a_view_that_misses_new_rows_is_refused(corpus: Corpus) -> None:
    curate(corpus, [_clarity(0.0)], "sharp")
    add_specs(corpus, "later", RenderSet(name="later", template="word", count=1).specs())
    with pytest.raises(InputError, match="before the shard 'later-00000' was added"):
        corpus.records("sharp")


def test_rule_conditions() -> None:
    def rule(**conditions: object) -> Rule:
        return Rule.model_validate({"filter": "f", "column": "a.b", "reason": ""} | conditions)

    assert rule(min=1).allows(1) and not rule(min=1).allows(0.9) and rule(min=1).allows(None)
    assert rule(max=1).allows(1) and not rule(max=1).allows(2)
    assert rule(empty=True).allows(None) and rule(empty=True).allows("") and not rule(empty=True).allows("x")
    assert not rule(empty=False).allows(None) and rule(empty=False).allows("x")
    assert rule(equals="en").allows("en") and not rule(equals="en").allows("zh")
    with pytest.raises(ValueError, match="no condition"):
        rule()


def test_renders_are_drawn_when_read_the_same_in_every_thread(corpus: Corpus) -> None:
    selection = corpus.records()
    order = [number % 10 for number in range(40)]
    with ThreadPoolExecutor(4) as pool:
        records = list(pool.map(selection.load, order))
    for number, record in zip(order, records, strict=True):
        again = selection.load(number)
        assert np.array_equal(record.image, again.image) and record.captions == again.captions
        assert (record.image.shape[1], record.image.shape[0]) == selection.sizes[number]
        assert record.captions and record.id == selection.ids[number]
    assert Counter(record.source for record in records) == {"mine": 24, "words": 16}


def test_specs_added_twice_are_one_and_others_under_the_name_are_refused(tmp_path: Path) -> None:
    corpus = Corpus.create(tmp_path / "corpus")
    specs = RenderSet(name="words", template="word", count=5).specs()
    assert add_specs(corpus, "words", specs, per_shard=2) == 5
    ids = corpus.records().ids
    assert add_specs(corpus, "words", specs, per_shard=2) == 0
    assert corpus.records().ids == ids and len(set(ids)) == 5
    with pytest.raises(InputError, match="another name"):
        add_specs(corpus, "words", RenderSet(name="words", template="word", seed=1, count=5).specs(), per_shard=2)


def _reader(images: Sequence[np.ndarray]) -> list[list[OCRLine]]:
    box = ((10.0, 10.0), (110.0, 10.0), (110.0, 30.0), (10.0, 30.0))
    sure, unsure, letter = OCRLine("OPEN 24", box, 0.99), OCRLine("0PEM", box, 0.5), OCRLine("O", box, 0.99)
    return [[sure, unsure, letter, OCRLine("www.example.com", box, 0.95), OCRLine("guess", box, 0.99, True)] for _ in images]


def test_annotation_is_the_reports_json_for_kept_rows_only(corpus: Corpus) -> None:
    curate(
        corpus, [_stage(Rule(filter="Key", column="index.key", equals="picture-000.jpg", kinds=("photo",), reason=""))], "kept"
    )
    assert annotate(corpus, "kept", _reader, "a test's reader") == 10
    assert annotate(corpus, "kept", _reader, "a test's reader") == 0
    seen = 0
    for shard in corpus.shards():
        columns, kept = corpus.columns("annotate", shard), corpus.view("kept", shard)["kept"]
        assert columns is not None and set(columns) == {"id", *ANNOTATION_TYPES}
        for number, keep in enumerate(kept):
            text = columns["annotation"][number]
            assert (text is not None) == keep
            if text is None:
                continue
            said = json.loads(text)
            assert tuple(said) == KEYS and said["Abnormal Element"] in ("yes", "no")
            assert said["Caption"] == columns["caption_en"][number]
            if shard.startswith("mine"):
                seen += 1
                assert said["Caption"] == 'picture number 0, with the text "OPEN 24"'
                assert said["Watermark List"] == ["www.example.com"] and said["Image Type"] == "photograph"
                assert columns["smallest_text"][number] == pytest.approx(20 / 160)
                assert columns["text_split"][number] == "English"
            else:
                assert columns["caption_zh"][number]
    assert seen == 1
    photograph = next(row for row in corpus.records("kept").rows if row.source == "mine")
    assert photograph.captions["en"].endswith('"OPEN 24"')  # what is trained on quotes the text


def test_text_splits() -> None:
    assert [text_split(text) for text in ("", "hello", "你好", "你好 hi", "привет", "2024")] == [
        "Non-Text", "English", "Chinese", "Chinese", "Other Language", "Other Language",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """The packaged photographs and their faults with a few renders, curated by the demo's own recipe."""
    pytest.importorskip("skimage")
    pytest.importorskip("sklearn")
    place = tmp_path_factory.mktemp("packaged")
    collect(place / "pictures")
    corpus = Corpus.create(place / "corpus")
    ingest_folder(corpus, place / "pictures", "packages", "x")
    recipe = load_recipe("demo-corpus")
    for part in recipe.render:
        if not part.missing_font():
            add_specs(corpus, part.name, part.model_copy(update={"count": 2}).specs())
    measure(corpus)
    curate(corpus, recipe.through("F2"), "clean")
    return corpus


def test_the_demo_recipe_refuses_each_fault_for_what_it_is(packaged: Corpus) -> None:
    keys = {
        row: key for shard in packaged.shards() for row, key in zip(*packaged.index(shard, ("id", "key")).values(), strict=True)
    }
    refused = {keys[row["id"]]: row["rule"] for row in decisions(packaged, "clean") if not row["kept"]}
    expected = {
        "cut-in-half.jpg": "Broken Files",
        "last-bytes-missing.jpg": "Broken Files",
        "only-700-bytes.jpg": "Broken Files",
        "hole-of-zeros.jpg": "Broken Files",
        "a-web-page.jpg": "Broken Files",
        "cut.png": "Broken Files",
        "tiny-file.jpg": "File Size",
        "small.jpg": "Resolution",
        "copy.jpg": "Deduplication",
        "halved.jpg": "Deduplication",
        "re-encoded.jpg": "Deduplication",
        "turned.jpg": "Rotation",
        "blurred.jpg": "Clarity",
        "too-dark.jpg": "Luma",
        "too-bright.jpg": "Luma",
        "garish.jpg": "Saturation",
        "noise.jpg": "Texture",
        "flat.jpg": "File Size",
    }
    assert set(expected) == set(FAULTS)
    assert {name: refused.get(f"faults/{name}") for name in FAULTS} == expected
    assert sum(not key.startswith("faults/") for key in refused) <= 12
    assert len(packaged.records("clean")) >= 60


def test_the_page_holds_everything_itself(packaged: Corpus) -> None:
    text = page(packaged, "clean")
    assert text.count("<figure") > 40 and "data:image/jpeg;base64," in text
    assert "http://" not in text and "https://" not in text
    for name in ("Broken Files", "Deduplication", "Clarity", "hole-of-zeros.jpg", "min 14"):
        assert name in text


def test_sql_sees_index_stages_and_views(packaged: Corpus) -> None:
    answer = query(
        packaged, 'select count(*) as n from view_clean join "index" using (id) join pixels using (id)', pretty=False
    )
    total = len(decisions(packaged, "clean"))
    assert answer == f"n\n{total}"
    with pytest.raises(InputError, match="cannot be answered"):
        query(packaged, "select nothing from nowhere")


def test_recipes_load_and_their_mistakes_are_sentences(tmp_path: Path) -> None:
    demo = load_recipe("demo-corpus")
    assert sum(part.count for part in demo.render) >= 2000
    assert [stage.name for stage in demo.stages] == ["F1", "F2", "F3", "F4"]
    with pytest.raises(ConfigError, match="no stage 'F9'"):
        demo.through("F9")
    with pytest.raises(ConfigError, match="packaged"):
        load_recipe("no-such-corpus")
    (tmp_path / "recipe.yaml").write_text("render:\n  - {name: a, template: word, count: 3, sede: 1}\n")
    with pytest.raises(ConfigError, match="sede"):
        load_recipe(tmp_path / "recipe.yaml")
    with pytest.raises(ValueError, match="named 'a'"):
        CorpusRecipe(render=(RenderSet(name="a", template="word", count=1),) * 2)


def test_every_spec_of_the_recipes_is_drawn(tmp_path: Path) -> None:
    corpus = Corpus.create(tmp_path / "corpus")
    for recipe in packaged_recipes():
        for part in load_recipe(recipe).render:
            if not part.missing_font():
                add_specs(corpus, f"{recipe}-{part.name}", part.model_copy(update={"count": 3}).specs())
    selection = corpus.records()
    for number in range(len(selection)):
        record = selection.load(number)
        assert set(record.captions) >= {"en", "zh"} and record.image.std() > 0


def test_photographs_without_captions_are_named_by_their_files(tmp_path: Path) -> None:
    place = tmp_path / "pictures"
    place.mkdir()
    for number, name in enumerate(("IMG_1234.jpg", "red-barn_02.jpg", "小猫.jpg")):
        (place / name).write_bytes(encoded(photo(number)))
    corpus = Corpus.create(tmp_path / "corpus")
    ingest_folder(corpus, place, "mine", "x")
    measure(corpus)
    curate(corpus, [_clarity(0.0)], "all")
    annotate(corpus, "all", None, "none")
    captions = {row.captions.get("en"): row.captions.get("zh") for row in corpus.records("all").rows}
    assert captions == {"a photograph": "一张照片", "red barn": None, None: "小猫"}


def test_a_damaged_picture_that_a_lax_view_keeps_is_annotated_with_the_reason(tmp_path: Path) -> None:
    place = tmp_path / "pictures"
    place.mkdir()
    (place / "cut.jpg").write_bytes(encoded(photo(1))[:4000])
    (place / "good.jpg").write_bytes(encoded(photo(2)))
    corpus = Corpus.create(tmp_path / "corpus")
    ingest_folder(corpus, place, "mine", "x")
    measure(corpus)
    curate(corpus, [_stage(Rule(filter="Key", column="index.key", empty=False, reason=""))], "all")
    assert annotate(corpus, "all", None, "none") == 2
    columns = corpus.columns("annotate", "mine-00000")
    assert columns is not None and columns["caption_en"] == [None, "good"]
    assert columns["error"][0].startswith("damaged JPEG") and columns["error"][1] is None


def test_an_optional_set_is_left_out_where_its_font_is_missing() -> None:
    params = {"fonts": ["space-mono-bold"]}
    assert RenderSet(name="a", template="word", count=1, params=params, optional=True).missing_font() is None
    (colour,) = (part for part in load_recipe("demo-corpus").render if part.optional)
    assert colour.missing_font() in (None, "system-colour-emoji")
