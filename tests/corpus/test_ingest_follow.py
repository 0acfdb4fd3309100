"""What a second ingest makes of a folder that has changed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from corpus_pictures import encoded, photo

from glyphflow.corpus import Corpus
from glyphflow.corpus.forget import forget
from glyphflow.corpus.ingest.pictures import ingest_folder
from glyphflow.corpus.operators.measure import measure
from glyphflow.corpus.runner.stage import run
from glyphflow.corpus.tables import write_table

Folder = Callable[..., Path]


def _captions(corpus: Corpus) -> list[str]:
    return [text for shard in corpus.shards() for text in corpus.index(shard)["captions"]]


def test_changed_captions_are_taken_and_what_was_measured_of_them_goes(folder: Folder, tmp_path: Path) -> None:
    place, corpus = folder(5), Corpus.create(tmp_path / "corpus")
    ingest_folder(corpus, place, "mine", "x", per_shard=3)
    measure(corpus)
    for stage in ("captions", "alignment"):
        mark = corpus.begin_stage(stage, {"stage": stage})
        for shard in corpus.shards():
            ids = corpus.index(shard)["id"]
            write_table(corpus.column_path(stage, mark, shard), {"id": ids}, {"id": "string"})
    before = corpus.index("mine-00000")
    (place / "picture-001.txt").write_text("the corrected caption", encoding="utf-8")
    (place / "picture-002.json").write_text('{"zh": "新的", "licence": "CC0", "score": 4}', encoding="utf-8")
    done = ingest_folder(corpus, place, "mine", "x", per_shard=3)
    assert (done.added, done.total) == (0, 5)
    assert done.tally.told() == [
        "Captions that changed since they were ingested: 2 (picture-001.jpg). The new ones are taken; measure and curate again."
    ]
    index = corpus.index("mine-00000")
    assert json.loads(index["captions"][1]) == {"en": "the corrected caption"}
    assert json.loads(index["captions"][2]) == {"en": "picture number 2", "zh": "新的"}
    assert index["licence"] == ["x", "x", "CC0"]
    assert (corpus.columns("metadata", "mine-00000") or {})["score"] == [
        None,
        None,
        4,
    ]
    same = set(index) - {"captions", "licence"}
    assert {name: index[name] for name in same} == {name: before[name] for name in same}
    for stage in ("captions", "alignment"):  # of the other shard, and of pixels, everything stays
        assert corpus.columns(stage, "mine-00000") is None and corpus.columns(stage, "mine-00001") is not None
    assert corpus.columns("pixels", "mine-00000") is not None
    assert [record.captions for record in map(corpus.records().load, range(2))][1] == {"raw_en": "the corrected caption"}
    assert ingest_folder(corpus, place, "mine", "x", per_shard=3).tally.told() == []


def test_changed_and_missing_pictures_are_named_and_their_rows_stay(folder: Folder, tmp_path: Path) -> None:
    place, corpus = folder(5), Corpus.create(tmp_path / "corpus")
    ingest_folder(corpus, place, "mine", "x")
    before = corpus.index("mine-00000")
    (place / "picture-000.jpg").write_bytes(encoded(photo(70)))
    data = (place / "picture-001.jpg").read_bytes()
    (place / "picture-001.jpg").write_bytes(data[:-9] + b"!" + data[-8:])  # of the same size
    (place / "picture-002.jpg").unlink()
    (place / "picture-003.txt").unlink()
    (place / "new.jpg").write_bytes(encoded(photo(71)))
    done = ingest_folder(corpus, place, "mine", "x")
    told = "\n".join(done.tally.told())
    assert done.added == 1 and "0 with a caption, 1 without (new.jpg)." in told
    assert "Pictures that changed since they were ingested: 2 (picture-000.jpg). Their rows keep the first bytes;" in told
    assert "Pictures that are gone: 1 (picture-002.jpg). Their rows stay" in told
    assert "Captions that are gone: 1 (picture-003.jpg). Their rows keep them." in told
    assert corpus.index("mine-00000") == before


def test_a_picture_that_was_only_touched_is_the_same(folder: Folder, tmp_path: Path) -> None:
    place, corpus = folder(2), Corpus.create(tmp_path / "corpus")
    ingest_folder(corpus, place, "mine", "x")
    for path in place.glob("*.jpg"):
        os.utime(
            path, ns=(1, 1)
        )  # older than the corpus; the change of its times alone makes it be looked at, and it is the same
    assert ingest_folder(corpus, place, "mine", "x").tally.told() == []


def test_captions_of_a_list_are_kept_where_it_is_not_given_again(folder: Folder, tmp_path: Path) -> None:
    place, corpus = folder(2), Corpus.create(tmp_path / "corpus")
    table = tmp_path / "captions.csv"
    table.write_text("file,caption\npicture-000.jpg,listed\n")
    ingest_folder(corpus, place, "mine", "x", captions=table)
    told = ingest_folder(corpus, place, "mine", "x").tally.told()
    assert told == ["The captions came from a list (captions.csv); give it with --captions again where it changed."]
    assert _captions(corpus) == ['{"en": "listed"}', '{"en": "picture number 1"}']
    table.write_text("file,caption\npicture-000.jpg,listed anew\n")
    ingest_folder(corpus, place, "mine", "x", captions=table)
    assert _captions(corpus) == ['{"en": "listed anew"}', '{"en": "picture number 1"}']


def test_a_forgotten_row_stays_forgotten(folder: Folder, tmp_path: Path) -> None:
    place, corpus = folder(3), Corpus.create(tmp_path / "corpus")
    for name in ("picture-000", "picture-001"):
        (place / f"{name}.json").write_text('{"score": 3}')
    ingest_folder(corpus, place, "mine", "x")
    forget(corpus, [corpus.index("mine-00000")["id"][1]])
    assert (corpus.columns("metadata", "mine-00000") or {})["score"] == [3, None, None]
    (place / "picture-001.txt").write_text("a secret")
    (place / "picture-002.txt").write_text("changed")
    ingest_folder(corpus, place, "mine", "x")
    assert _captions(corpus) == ['{"en": "picture number 0"}', "{}", '{"en": "changed"}']
    assert (corpus.columns("metadata", "mine-00000") or {})["score"] == [3, None, None]


def test_captions_are_checked_anew_after_a_change(folder: Folder, tmp_path: Path) -> None:
    place, corpus = folder(2), Corpus.create(tmp_path / "corpus")
    ingest_folder(corpus, place, "mine", "x")
    run(corpus, "captions", workers=1)
    (place / "picture-000.txt").write_text("one two three four five six")
    ingest_folder(corpus, place, "mine", "x")
    run(corpus, "captions", workers=1)
    assert (corpus.columns("captions", "mine-00000") or {})["raw_tokens"] == [6, 3]
