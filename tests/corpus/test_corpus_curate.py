from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from glyphflow.core.errors import ConfigError, InputError
from glyphflow.corpus import Corpus, add_specs
from glyphflow.corpus.decide.curate import curate, decisions, summarise
from glyphflow.corpus.ingest.pictures import ingest_folder
from glyphflow.corpus.ingest.sources import FAULTS, collect
from glyphflow.corpus.operators.measure import measure
from glyphflow.corpus.query import query
from glyphflow.corpus.recipe import CorpusRecipe, RenderSet, Rule, Stage, load_recipe, packaged_recipes

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
    def passing(values: list[object], **conditions: object) -> list[bool]:
        rule = Rule.model_validate({"filter": "f", "column": "a.b", "reason": ""} | conditions)
        return rule.passes(pa.array(values)).tolist()

    assert passing([0.9, 1.0, None], min=1) == [False, True, True]
    assert passing([0, 1, 2, None], max=1) == [True, True, False, True]
    assert passing([0.5, 1.0, float("nan")], min=0.6, max=0.9) == [False, False, True]
    assert passing([None, "", "x"], empty=True) == [True, True, False]
    assert passing([None, "", "x"], empty=False) == [False, False, True]
    assert passing([None, 3], empty=True) == [True, False]
    assert passing(["en", "zh", None], equals="en") == [True, False, True]
    assert passing([True, False, None], equals=False) == [False, True, True]
    with pytest.raises(ValueError, match="says nothing"):
        passing([1])


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
    assert sum(part.count for part in demo.render) == 400  # encoding them and the training must fit into ten minutes
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


def test_an_optional_set_is_left_out_where_its_font_is_missing() -> None:
    params = {"fonts": ["space-mono-bold"]}
    assert RenderSet(name="a", template="word", count=1, params=params, optional=True).missing_font() is None
    (colour,) = (part for part in load_recipe("demo-corpus").render if part.optional)
    assert colour.missing_font() in (None, "system-colour-emoji")
