"""Tars, tables, CSV captions and edits into rows; exports out again; rows that are forgotten."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpus_pictures import encoded, photo
from packed import rows_of

from glyphflow.core.errors import InputError
from glyphflow.core.hashing import sha256_bytes, sha256_file
from glyphflow.corpus import Corpus, add_specs
from glyphflow.corpus.decide.curate import curate
from glyphflow.corpus.export import arrow_batches, export_folder, export_parquet, export_webdataset
from glyphflow.corpus.forget import complete, forget, is_waiting, tombstones
from glyphflow.corpus.ingest.any import ingest
from glyphflow.corpus.ingest.edits import ingest_edits
from glyphflow.corpus.ingest.files import ingest_parquet, ingest_tars
from glyphflow.corpus.ingest.pictures import ingest_folder
from glyphflow.corpus.operators.measure import measure
from glyphflow.corpus.query import query
from glyphflow.corpus.recipe import RenderSet, Rule, Stage

Folder = Callable[..., Path]


def _tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def test_tars_as_img2dataset_writes_them_with_everything_that_goes_wrong(tmp_path: Path) -> None:
    place = tmp_path / "laion"
    place.mkdir()
    good = [encoded(photo(number)) for number in range(4)]
    described = json.dumps({"caption": "a cat", "url": "x", "license": "CC0-1.0", "width": 9}).encode()
    _tar(place / "00000.tar", [
        ("000.jpg", good[0]), ("000.txt", b"a cat"), ("000.json", described),
        ("001.txt", b"no picture"),
        ("002.png", encoded(photo(2), "PNG")), ("002.txt", "一只猫".encode()),
        ("003.jpg", b""), ("003.txt", b"x" * 10_000_000),
        ("000.jpg", good[3]), ("000.txt", b"\xff\xfe same key again"),
    ])  # fmt: skip
    whole = _tar(tmp_path / "whole.tar", [("a/000.jpg", good[1]), ("a/001.jpg", good[2])]).read_bytes()
    (place / "00001.tar").write_bytes(whole[: len(whole) // 3])
    (place / "00002.tar").write_bytes(b"<html>not found</html>" * 99)
    pq.write_table(pa.table({"url": ["x"], "status": ["success"]}), place / "00000.parquet")
    corpus = Corpus.create(tmp_path / "corpus")
    assert ingest(corpus, place, "laion", "unknown").total == 5 + 2 + 1
    rows = rows_of(corpus)
    assert rows["00000.tar/000"]["data"] == good[0] and rows["00000.tar/000#4"]["data"] == good[3]
    assert rows["00000.tar/000"]["captions"] == {"en": "a cat"} and rows["00000.tar/000"]["licence"] == "CC0-1.0"
    assert rows["00000.tar/001"]["error"] == "the sample holds no picture"
    assert rows["00000.tar/002"]["captions"] == {"zh": "一只猫"} and rows["00000.tar/002"]["format"] == "png"
    assert rows["00000.tar/003"]["error"] == "the file is empty" and rows["00000.tar/003"]["captions"] == {}
    assert rows["00001.tar/a/000"]["error"] == "the archive ends in the middle of the file"
    damaged = next(row["error"] for key, row in rows.items() if key.startswith("00002"))
    assert damaged.startswith("the archive is damaged here")
    assert len(corpus.records()) == 3
    assert ingest(corpus, place, "laion", "unknown").added == 0
    _tar(place / "00003.tar", [("9.webp", encoded(photo(9), "WEBP"))])
    assert ingest(corpus, place, "laion", "unknown").added == 1
    (place / "00003.tar").write_bytes(b"other")
    with pytest.raises(InputError, match="now it has 5"):
        ingest(corpus, place, "laion", "unknown")


def test_tars_and_tables_are_cut_into_shards_without_losing_a_row(tmp_path: Path) -> None:
    pictures = [encoded(photo(number, 64, 48)) for number in range(11)]
    tar = _tar(tmp_path / "all.tar", [(f"{number}.jpg", data) for number, data in enumerate(pictures)])
    table = pa.table({"key": [f"k{number}" for number in range(11)], "jpg": pictures, "caption": ["a cat"] * 11})
    pq.write_table(table, tmp_path / "all.parquet", row_group_size=3)
    for run, file in ((ingest_tars, tar), (ingest_parquet, tmp_path / "all.parquet")):
        corpus = Corpus.create(tmp_path / run.__name__)
        assert run(corpus, file, "mine", "x", per_shard=4).added == 11
        assert len(corpus.shards()) == 3
        rows = rows_of(corpus)
        assert [row["data"] for row in rows.values()] == pictures and len({row["id"] for row in rows.values()}) == 11


def test_tables_with_bytes_paths_and_failures(tmp_path: Path) -> None:
    data = encoded(photo(1))
    (tmp_path / "inside.png").write_bytes(encoded(photo(2), "PNG"))
    images = [{"bytes": data, "path": "a.jpg"}, {"bytes": None, "path": "inside.png"}, {"bytes": None, "path": "../out.png"}]
    images += [{"bytes": b"", "path": None}, None]
    said = {
        "en": ["a", "b", "c", "d", "e"],
        "zh": ["一", None, None, None, "x" * 200_000],
        "error_message": [None] * 4 + ["404"],
    }
    pq.write_table(pa.table({"image": images, **said}), tmp_path / "hf.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 nothing PAR1")
    corpus = Corpus.create(tmp_path / "corpus")
    assert ingest_parquet(corpus, tmp_path, "hf", "x").total == 6
    rows = rows_of(corpus)
    assert rows["hf.parquet/0"]["data"] == data and rows["hf.parquet/0"]["captions"] == {"en": "a", "zh": "一"}
    assert rows["hf.parquet/1"]["format"] == "png"
    assert "leads out" in rows["hf.parquet/2"]["error"] and rows["hf.parquet/3"]["error"] == "the file is empty"
    assert rows["hf.parquet/4"]["error"] == "404" and rows["hf.parquet/4"]["captions"] == {"en": "e"}
    assert rows["broken.parquet"]["error"].startswith("the table cannot be read")


def test_captions_from_a_csv(folder: Folder, tmp_path: Path) -> None:
    pictures = folder(3)
    lines = 'file_name,caption,licence\npicture-000.jpg,"a ""cat"", sitting",CC0-1.0\npicture-001.jpg,一只猫,\n,lost,\n'
    (tmp_path / "captions.csv").write_bytes(b"\xef\xbb\xbf" + lines.encode() + b"picture-002.jpg,caf\xe9 \xff,\n")
    corpus = Corpus.create(tmp_path / "corpus")
    ingest(corpus, pictures, "mine", "x", tmp_path / "captions.csv")
    rows = rows_of(corpus)
    assert [row["captions"] for row in rows.values()] == [{"en": 'a "cat", sitting'}, {"zh": "一只猫"}, {"en": "café ÿ"}]
    assert [row["licence"] for row in rows.values()] == ["CC0-1.0", "x", "x"]
    (tmp_path / "wrong.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="has the columns a, b; it needs one for the file"):
        ingest_folder(corpus, pictures, "mine", "x", captions=tmp_path / "wrong.csv")


def _edits(place: Path) -> Path:
    place.mkdir()
    for number, name in enumerate(("room.jpg", "lamp.jpg", "both.jpg", "red.jpg")):
        (place / name).write_bytes(encoded(photo(number, 64, 48)))
    lines: list[Any] = [
        {"references": ["room.jpg", "lamp.jpg"], "instruction": "put the lamp into the room", "target": "both.jpg"},
        {
            "references": ["both.jpg"],
            "instruction": {"en": "make it red", "zh": "变成红色"},
            "target": "red.jpg",
            "licence": "CC0",
        },
        {"references": ["gone.jpg"], "instruction": "nothing", "target": "red.jpg"},
        {"references": ["../secret.jpg"], "instruction": "nothing", "target": "red.jpg"},
        {"references": [], "instruction": "nothing", "target": "red.jpg"},
        ["no object"],
    ]
    text = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines) + "\nno json\n\n"
    (place / "edits.jsonl").write_text(text, encoding="utf-8")
    return place / "edits.jsonl"


def test_edits_name_the_rows_of_their_references_in_order(tmp_path: Path) -> None:
    file = _edits(tmp_path / "edits")
    corpus = Corpus.create(tmp_path / "corpus")
    done = ingest_edits(corpus, file, "edits", "x", per_shard=2)
    rows = rows_of(corpus)
    assert done.added == len(rows) == 5 + 7  # room, lamp, both, gone, secret; seven lines
    first, second = rows["line-000001/both.jpg"], rows["line-000002/red.jpg"]
    assert json.loads(first["references"]) == [rows["room.jpg"]["id"], rows["lamp.jpg"]["id"]]
    assert json.loads(second["references"]) == [rows["both.jpg"]["id"]] and second["licence"] == "CC0"
    assert second["captions"] == {"en": "make it red", "zh": "变成红色"} and rows["room.jpg"]["references"] is None
    assert rows["line-000003/red.jpg"]["error"] == "the reference gone.jpg: the file cannot be read: No such file or directory"
    assert rows["../secret.jpg"]["error"] == "the path leads out of the folder"
    assert [rows[f"line-{n:06d}"]["error"] for n in (5, 6, 7)] == [
        'the line has no "references" (a list of paths)', 'the line has no "target"', "the line is not JSON",
    ]  # fmt: skip
    selection = corpus.records()
    number = selection.ids.index(first["id"])
    record = selection.load(number)
    assert record.references == tuple(json.loads(first["references"])) and record.captions == first["captions"]
    assert [each.id for each in selection.load_references(number)] == list(record.references)
    assert selection.load_references(selection.ids.index(rows["room.jpg"]["id"])) == []
    assert ingest_edits(corpus, file, "edits", "x", per_shard=2).added == 0
    file.write_text("{}\n")
    with pytest.raises(InputError, match="has changed since"):
        ingest_edits(corpus, file, "edits", "x")


# -- out again ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def mixed(tmp_path: Path) -> Corpus:
    """Edits and two renders."""
    corpus = Corpus.create(tmp_path / "corpus")
    ingest_edits(corpus, _edits(tmp_path / "edits"), "edits", "x")
    add_specs(corpus, "words", RenderSet(name="words", template="word", count=2).specs())
    return corpus


def test_exports_hold_the_original_bytes_and_come_back(mixed: Corpus, tmp_path: Path) -> None:
    selection = mixed.records()
    bytes_of = {row["id"]: row["data"] for row in _rows_of_photos(mixed).values()}
    assert export_webdataset(selection, tmp_path / "tars", per_file=4) == len(selection) == 7
    with tarfile.open(tmp_path / "tars" / "00000.tar") as tar:
        names = tar.getnames()
        assert len(names) == 12 and all(names[number].endswith(".jpg") for number in (0, 3, 6, 9))
        member = tar.extractfile(names[0])
        assert member is not None and member.read() == bytes_of[names[0].removesuffix(".jpg")]
    assert export_folder(selection, tmp_path / "folder") == 7
    again = Corpus.create(tmp_path / "again")
    assert ingest_folder(again, tmp_path / "folder", "again", "x").added == 7
    ours = {sha256_bytes(data) for data in bytes_of.values() if data}
    assert ours <= {row["sha256"] for row in rows_of(again).values()}
    assert export_parquet(selection, tmp_path / "tables", per_file=4) == 7
    table = pq.read_table(tmp_path / "tables" / "00000.parquet")
    assert table.column("image")[0].as_py()["bytes"] == bytes_of[table.column("id")[0].as_py()]
    assert json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]["image"] == {"_type": "Image"}
    back = Corpus.create(tmp_path / "back")
    assert ingest(back, tmp_path / "tables", "back", "x").added == 7
    assert [row["sha256"] for row in rows_of(back).values()][:4] == [sha256_bytes(bytes_of[each]) for each in selection.ids[:4]]
    assert sum(len(batch) for batch in arrow_batches(selection, 3)) == 7
    assert export_webdataset(selection, tmp_path / "tars", per_file=4) == 7  # goes on where it was
    with pytest.raises(InputError, match="another export"):
        export_webdataset(selection, tmp_path / "tars", per_file=5)
    with pytest.raises(InputError, match="other files"):
        export_folder(selection, tmp_path)


def _rows_of_photos(corpus: Corpus) -> dict[str, dict[str, Any]]:
    photos = Corpus(corpus.directory)
    photos.shards = lambda: [shard for shard in corpus.shards() if shard.startswith("edits")]  # type: ignore[method-assign]
    return rows_of(photos)


def _kept() -> list[Stage]:
    rule = Rule(filter="Clarity", column="pixels.clarity", min=0, reason="")
    return [Stage(name="F1", title="first", rules=(rule,))]


def test_forgotten_rows_leave_a_tombstone_and_nothing_else(folder: Folder, tmp_path: Path) -> None:
    pictures = folder(6)
    corpus = Corpus.create(tmp_path / "corpus")
    ingest_folder(corpus, pictures, "mine", "x", per_shard=4)
    measure(corpus)
    curate(corpus, _kept(), "all")
    before = rows_of(corpus)
    gone = before["picture-002.jpg"]
    assert forget(corpus, [gone["id"]]) == 1 and forget(corpus, [gone["id"]]) == 0
    assert tombstones(corpus) == [gone["id"]] and not is_waiting(corpus)
    for path in corpus.directory.rglob("*"):
        if path.is_file() and path.parent.name != "sources":  # the plan keeps the name, or it would be ingested again
            content = path.read_bytes()
            assert gone["data"][-400:-200] not in content and b"picture number 2" not in content
    after = rows_of(corpus)
    assert {key: row for key, row in before.items() if key != "picture-002.jpg"} == {
        key: row for key, row in after.items() if key
    }
    assert (after[""]["id"], after[""]["error"], after[""]["size"]) == (gone["id"], "forgotten", 0)
    for stage in ("header", "pixels"):
        columns = corpus.columns(stage, "mine-00000")
        assert columns is not None and columns["error"] == [None, None, "forgotten", None]
        assert all(values[2] is None for name, values in columns.items() if name not in ("id", "measured", "error"))
    assert corpus.view("all", "mine-00000")["rule"][2] == "Forgotten"
    with tarfile.open(corpus.pixels_path("mine-00000")) as tar:
        assert [name for name in tar.getnames() if name.endswith(".jpg")] == [f"mine-00000/{n:06d}.jpg" for n in (0, 1, 3)]
    assert len(corpus.records("all")) == len(corpus.records()) == 5
    assert ingest_folder(corpus, pictures, "mine", "x", per_shard=4).added == 0
    measure(corpus)
    curate(corpus, _kept(), "all")
    assert len(corpus.records("all")) == 5
    assert query(corpus, "select count(*) from pixels where error = 'forgotten'", pretty=False).endswith("\n1")
    with pytest.raises(InputError, match="has no row nothing"):
        forget(corpus, ["nothing"])


def test_renders_cannot_be_forgotten(mixed: Corpus) -> None:
    with pytest.raises(InputError, match="is a render"):
        forget(mixed, [mixed.records().ids[-1]])


_FORGET = """
import os, sys
from pathlib import Path
import glyphflow.corpus.forget as room
from glyphflow.corpus import Corpus
steps, die_at = 0, int(sys.argv[2])
def count(what):
    def run(*args, **kwargs):
        global steps
        if steps == die_at:
            os.kill(os.getpid(), 9)
        steps += 1
        return what(*args, **kwargs)
    return run
for name in ("write_json", "_blank_pictures", "_replace"):
    setattr(room, name, count(getattr(room, name)))
room.forget(Corpus.open(Path(sys.argv[1])), sys.argv[3:])
"""


def test_killed_while_forgetting_it_is_completed_by_the_next_writer(folder: Folder, tmp_path: Path) -> None:
    pictures = folder(4)
    corpora = {}
    for name in ("calm", "0", "1", "3", "5"):
        corpora[name] = Corpus.create(tmp_path / name)
        ingest_folder(corpora[name], pictures, "mine", "x", per_shard=2)
        measure(corpora[name])
    ids = [rows_of(corpora["calm"])[f"picture-00{number}.jpg"]["id"] for number in (1, 2)]
    forget(corpora["calm"], ids)
    for name, corpus in corpora.items():
        if name == "calm":
            continue
        done = subprocess.run([sys.executable, "-c", _FORGET, str(corpus.directory), name, *ids], check=False)
        assert done.returncode == -signal.SIGKILL
        assert is_waiting(corpus) == (name != "0")  # killed before it was written down, nothing happened
        assert ingest_folder(corpus, pictures, "mine", "x", per_shard=2).added == 0
        assert not is_waiting(corpus)
        if name == "0":
            assert len(corpus.records()) == 4
            forget(corpus, ids)
        assert _files(corpus) == _files(corpora["calm"])
    complete(corpora["calm"])


def _files(corpus: Corpus) -> dict[str, str]:
    return {
        str(path.relative_to(corpus.directory)): sha256_file(path)
        for path in corpus.directory.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


_INGEST = """
import sys
from pathlib import Path
from glyphflow.corpus import Corpus
from glyphflow.corpus.ingest.files import ingest_parquet, ingest_tars
corpus = Corpus.create(Path(sys.argv[1]))
ingest_tars(corpus, Path(sys.argv[2]) / "all.tar", "tars", "x", per_shard=3)
ingest_parquet(corpus, Path(sys.argv[2]) / "all.parquet", "tables", "x", per_shard=3)
"""


@pytest.mark.parametrize("shards", [1, 5])
def test_packed_sources_killed_between_shards_end_with_the_same_files(tmp_path: Path, shards: int) -> None:
    pictures = [encoded(photo(number, 64, 48)) for number in range(10)]
    _tar(tmp_path / "all.tar", [(f"{number}.jpg", data) for number, data in enumerate(pictures)])
    pq.write_table(pa.table({"jpg": pictures}), tmp_path / "all.parquet")
    die = (
        "import os, glyphflow.corpus.store as s\n"
        f"left = {shards}\n"
        "def write(self, *args, real=s.Corpus.write_index):\n"
        "    global left\n"
        "    left -= 1\n"
        "    if left < 0: os.kill(os.getpid(), 9)\n"
        "    real(self, *args)\n"
        "s.Corpus.write_index = write\n"
    )

    def run(name: str, code: str) -> int:
        return subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / name), str(tmp_path)], check=False, stderr=subprocess.DEVNULL
        ).returncode

    assert run("killed", die + _INGEST) == -signal.SIGKILL
    assert len(Corpus.open(tmp_path / "killed").shards()) == shards
    assert run("killed", _INGEST) == 0 and run("calm", _INGEST) == 0
    assert _files(Corpus.open(tmp_path / "killed")) == _files(Corpus.open(tmp_path / "calm"))
    assert os.listdir(tmp_path / "calm" / "index")  # noqa: PTH208


def test_a_corpus_of_an_older_version_without_references_stays_readable(folder: Folder, tmp_path: Path) -> None:
    corpus = Corpus.create(tmp_path / "corpus")
    ingest_folder(corpus, folder(3), "mine", "x")
    old = pq.read_table(corpus.index_path("mine-00000")).drop_columns(["references"])
    pq.write_table(old, corpus.index_path("mine-00000"))
    other = tmp_path / "other"
    other.mkdir()
    (other / "new.jpg").write_bytes(encoded(photo(9)))
    ingest_folder(corpus, other, "other", "x")
    measure(corpus)
    assert len(corpus.records()) == 4 and corpus.index("mine-00000")["references"] == [None] * 3
    assert query(corpus, 'select count(*) from "index" where "references" is null', pretty=False).endswith("\n4")
