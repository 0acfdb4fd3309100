"""A takedown reaches every copy of the bytes, names what it does not reach, and no reader gets zeros."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from packed import rows_of, small

from glyphflow.cli.main import app
from glyphflow.core.errors import InputError
from glyphflow.corpus import Corpus
from glyphflow.corpus.copies import copies
from glyphflow.corpus.export import export_folder
from glyphflow.corpus.forget import forget, left_behind
from glyphflow.corpus.ingest.any import ingest


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    """Jane twice in one source and once in another, somebody else, and an edit that starts from Jane."""
    for name, seeds in (("a", {"jane.jpg": 1, "copy.jpg": 1, "bob.jpg": 2}), ("b", {"also.jpg": 1, "more.jpg": 3})):
        (tmp_path / name).mkdir()
        for file, seed in seeds.items():
            (tmp_path / name / file).write_bytes(small(seed))
            (tmp_path / name / file).with_suffix(".txt").write_text(f"this is {file}")
    edit = {"references": ["jane.jpg"], "instruction": "a hat", "target": "bob.jpg"}
    (tmp_path / "a" / "edits.jsonl").write_text(json.dumps(edit) + "\n")
    made = Corpus.create(tmp_path / "corpus")
    ingest(made, tmp_path / "a", "a", "x")
    ingest(made, tmp_path / "b", "b", "x")
    ingest(made, tmp_path / "a" / "edits.jsonl", "edits", "x")
    return made


def _id(corpus: Corpus, key: str) -> str:
    return str(rows_of(corpus)[key]["id"]) if key != "jane.jpg" else str(corpus.index("a-00000")["id"][2])


def _held(corpus: Corpus) -> list[bytes]:
    return [
        corpus.payload(shard, "photo", index["offset"][row], size)
        for shard in corpus.shards()
        for index in [corpus.index(shard)]
        for row, size in enumerate(index["size"])
        if size
    ]


def test_every_row_of_the_same_bytes_goes(corpus: Corpus, tmp_path: Path) -> None:
    jane = _id(corpus, "jane.jpg")
    export_folder(corpus.records(), tmp_path / "out")
    target = corpus.index("edits-00000")["id"][1]
    assert forget(corpus, [jane]) == 4  # twice in a, once in b, and as the reference of the edit
    assert sorted(_held(corpus)) == sorted([small(2), small(2), small(3)])
    assert left_behind(corpus, []) == ([target], [("export", str(tmp_path / "out"))])
    assert all(small(1) not in path.read_bytes() for path in corpus.directory.rglob("*") if path.is_file())


def test_forgotten_bytes_do_not_come_back_under_another_name(corpus: Corpus, tmp_path: Path) -> None:
    forget(corpus, [_id(corpus, "jane.jpg")])
    (tmp_path / "c").mkdir()
    for name, seed in (("again.jpg", 1), ("and again.jpg", 1), ("new.jpg", 4)):
        (tmp_path / "c" / name).write_bytes(small(seed))
        (tmp_path / "c" / name).with_suffix(".txt").write_text("this is Jane")
    done = ingest(corpus, tmp_path / "c", "c", "x")
    index = corpus.index("c-00000")
    assert index["error"] == ["forgotten", "forgotten", None] and index["size"] == [0, 0, len(small(4))]
    assert len(set(index["id"])) == 3
    assert not any("again" in key or "Jane" in said for key, said in zip(index["key"][:2], index["captions"][:2], strict=True))
    assert any(each.startswith("2 cannot be read: forgotten") for each in done.tally.told())
    assert ingest(corpus, tmp_path / "c", "c", "x").added == 0


def test_a_reader_that_is_at_work_gets_the_row_or_an_error(corpus: Corpus) -> None:
    selection = corpus.records()
    number = next(n for n, row in enumerate(selection.rows) if row.captions.get("raw_en") == "this is jane.jpg")
    row = selection.rows[number]
    forget(corpus, [row.id])
    with pytest.raises(InputError, match="was forgotten"):
        selection.load(number)
    with pytest.raises(InputError, match="was forgotten"):
        corpus.payloads([(row.shard, row.offset, row.size)])
    other = next(n for n, each in enumerate(selection.rows) if each.captions.get("raw_en") == "this is bob.jpg")
    assert selection.load(other).image.shape == (32, 48, 3)


def test_a_picture_that_begins_with_zeros_is_no_forgotten_one(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "zeros.jpg").write_bytes(bytes(900))
    made = Corpus.create(tmp_path / "corpus")
    ingest(made, tmp_path / "in", "s", "x")
    assert made.payload("s-00000", "photo", made.index("s-00000")["offset"][0], 900) == bytes(900)


def test_the_command_says_what_it_took_and_what_it_left(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    export_folder(corpus.records(), tmp_path / "out")
    monkeypatch.setattr(sys, "argv", ["glyphflow", "corpus", "forget", str(corpus.directory), _id(corpus, "jane.jpg")])
    with pytest.raises(SystemExit) as stop:
        app()
    told = capsys.readouterr().out
    assert stop.value.code == 0 and "4 rows forgotten." in told
    assert "3 of them were other rows with the same bytes" in told and "1 edits start from a forgotten picture" in told
    assert f"The export {tmp_path / 'out'} was made before" in told


def test_copies_that_are_gone_are_not_named(corpus: Corpus, tmp_path: Path) -> None:
    export_folder(corpus.records(), tmp_path / "out")
    assert [kind for kind, _ in copies(corpus)] == ["export"]
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    assert copies(corpus) == []


_EXPORTS = ("webdataset", "parquet", "folder")


@pytest.mark.parametrize("form", _EXPORTS)
def test_an_export_comes_back_with_everything(tmp_path: Path, form: str) -> None:
    from glyphflow.corpus import export

    (tmp_path / "in").mkdir()
    for seed, name in enumerate(("a.jpg", "b.jpg")):
        (tmp_path / "in" / name).write_bytes(small(seed))
    edit: dict[str, Any] = {"references": ["a.jpg"], "instruction": {"en": "a hat", "zh": "帽子"}, "target": "b.jpg"}
    (tmp_path / "in" / "edits.jsonl").write_text(json.dumps({**edit, "licence": "CC0"}) + "\n")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "c.jpg").write_bytes(small(2))
    (tmp_path / "more" / "c.json").write_text(json.dumps({"en": "a wall", "caption_ja": "壁", "caption_ru": "стена"}))
    made = Corpus.create(tmp_path / "corpus")
    ingest(made, tmp_path / "in" / "edits.jsonl", "edits", "x")
    ingest(made, tmp_path / "more", "more", "CC-BY-4.0")
    assert getattr(export, f"export_{form}")(made.records(), tmp_path / "out") == 3
    back = Corpus.create(tmp_path / "back")
    assert ingest(back, tmp_path / "out", "back", "y").added == 3
    rows = {bytes(row["data"]): row for row in rows_of(back).values()}
    assert rows[small(1)]["captions"] == {"en": "a hat", "zh": "帽子"} and rows[small(1)]["licence"] == "CC0"
    assert json.loads(rows[small(1)]["references"]) == [rows[small(0)]["id"]] and rows[small(0)]["references"] is None
    assert rows[small(2)]["captions"] == {"en": "a wall", "ja": "壁", "ru": "стена"}
    assert rows[small(2)]["licence"] == "CC-BY-4.0"
    assert ingest(back, tmp_path / "out", "back", "y").added == 0
