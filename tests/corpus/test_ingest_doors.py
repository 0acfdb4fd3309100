"""What a folder or an archive is taken for, what becomes of everything in it, and what the ingest says at its end."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpus_pictures import encoded, photo
from typer.testing import CliRunner

from glyphflow.core.errors import InputError
from glyphflow.corpus import Corpus
from glyphflow.corpus.decode import seems_cut
from glyphflow.corpus.ingest.any import ingest
from glyphflow.corpus.ingest.shards import Ingested
from glyphflow.corpus.ingest.tally import Kinds, Tally
from glyphflow.corpus.ingest.tree import Folder, pictures, same

PICTURE = encoded(photo(1, 64, 48))


def _tar(path: Path, members: Sequence[tuple[str, bytes]], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def _zip(path: Path, members: Mapping[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


def _ingest(place: Path, name: str = "corpus", **options: Any) -> tuple[Ingested, dict[str, dict[str, Any]]]:
    """An ingest, and every row by its key."""
    corpus = Corpus.create(place.parent / name)
    done = ingest(corpus, place, "s", "x", **options)
    rows = {}
    for shard in corpus.shards():
        index = corpus.index(shard)
        for row in zip(*index.values(), strict=True):
            told = dict(zip(index, row, strict=True))
            rows[told["key"]] = told | {"captions": json.loads(told["captions"])}
    return done, rows


def _nested_tars(place: Path) -> None:
    _tar(place / "part-0/00000.tar", [("1.jpg", PICTURE)])
    _tar(place / "part-1/00000.tar", [("1.jpg", PICTURE)])


def _snapshot(place: Path) -> None:
    (place / "data").mkdir(parents=True)
    (place / "README.md").write_text("# a set")
    table = pa.table({"image": [{"bytes": PICTURE, "path": None}], "text": ["a"]})
    pq.write_table(table, place / "data" / "train-00000-of-00001.parquet")


def _spark(place: Path) -> None:
    (place / "table.parquet").mkdir(parents=True)
    (place / "table.parquet" / "_SUCCESS").write_bytes(b"")
    pq.write_table(pa.table({"jpg": pa.array([PICTURE], pa.binary())}), place / "table.parquet" / "part-00000.snappy.parquet")


def _zipped(place: Path) -> None:
    _zip(place / "set.zip", {"p/1.jpg": PICTURE, "p/1.txt": b"a cat", "__MACOSX/p/._1.jpg": b"x"})


def _compressed(place: Path) -> None:
    for ending, mode in ((".tar.gz", "w:gz"), (".tgz", "w:gz"), (".tar.xz", "w:xz"), (".tar.bz2", "w:bz2")):
        _tar(place / f"set{ending}", [("./1.jpg", PICTURE), ("./1.txt", b"a cat")], mode)


@pytest.mark.parametrize(
    ("make", "keys"),
    [
        (_nested_tars, {"part-0/00000.tar/1", "part-1/00000.tar/1"}),
        (_snapshot, {"data/train-00000-of-00001.parquet/0"}),
        (_spark, {"table.parquet/part-00000.snappy.parquet/0"}),
        (_zipped, {"set.zip/p/1.jpg"}),
        (_compressed, {"set.tar.gz/1.jpg", "set.tgz/1.jpg", "set.tar.xz/1.jpg", "set.tar.bz2/1.jpg"}),
    ],
)
def test_packed_pictures_are_found_where_their_tools_put_them(tmp_path: Path, make: Any, keys: set[str]) -> None:
    make(tmp_path / "p")
    done, rows = _ingest(tmp_path / "p")
    assert rows.keys() == keys and done.added == len(keys)
    assert not any(row["error"] for row in rows.values())
    assert _ingest(tmp_path / "p")[0].added == 0


def test_pictures_have_many_endings_and_some_none(tmp_path: Path) -> None:
    place = tmp_path / "p"
    place.mkdir()
    for name in ("a.jfif", "b.JPE", "c", "d.jpg_large", "9f86d081", "e.jpg!small"):
        (place / name).write_bytes(PICTURE)
    (place / "f.webp_1").write_bytes(encoded(photo(2, 64, 48), "WEBP"))
    (place / "g.avif").write_bytes(encoded(photo(2, 64, 48), "AVIF"))
    (place / "h.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(200))
    for name in ("notes.docx", "clip.mp4", "raw.dng", "Thumbs.db", ".hidden.jpg"):
        (place / name).write_bytes(b"II*\0" + bytes(100))
    done, rows = _ingest(place)
    assert rows.keys() == {"a.jfif", "b.JPE", "c", "d.jpg_large", "9f86d081", "e.jpg!small", "f.webp_1", "g.avif"}
    assert {row["format"] for row in rows.values()} == {"jpeg", "webp", "avif"}
    left = done.tally.told()[-1]
    assert left.startswith("Left out: 1 .dng (raw.dng), 1 .docx (notes.docx), 1 .heic (h.HEIC), 1 .mp4 (clip.mp4).")
    assert "pip install pillow-heif" in left and "developed" in left
    with tarfile.open(tmp_path / "corpus" / "pixels" / "s-00000.tar") as tar:
        assert {os.path.splitext(name)[1] for name in tar.getnames()} == {".jpg", ".jfif", ".jpe", ".webp", ".avif", ".json"}  # noqa: PTH122


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    store, place = tmp_path / "store", tmp_path / "p"
    (store / "deep").mkdir(parents=True)
    (store / "deep" / "1.jpg").write_bytes(PICTURE)
    (place / "own").mkdir(parents=True)
    (place / "own" / "2.jpg").write_bytes(PICTURE)
    (place / "cats").symlink_to(store)
    (place / "own" / "up").symlink_to("..")
    (place / "again").symlink_to("own")
    (place / "gone").symlink_to("nowhere")
    assert Folder(place).names == ["cats/deep/1.jpg", "gone", "own/2.jpg"]
    done, rows = _ingest(place)
    assert rows.keys() == {"cats/deep/1.jpg", "own/2.jpg"}
    assert any("again: 2 (again)" in each for each in done.tally.told())


def test_a_place_of_which_nothing_can_be_taken_is_an_error_that_says_what_lies_there(tmp_path: Path) -> None:
    place = tmp_path / "p"
    place.mkdir()
    corpus = Corpus.create(tmp_path / "corpus")
    with pytest.raises(InputError, match="holds no files"):
        ingest(corpus, place, "s", "x")
    (place / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(9))
    (place / "b.mp4").write_bytes(b"x")
    pq.write_table(pa.table({"url": ["x"]}), place / "c.parquet")
    with pytest.raises(InputError, match=r"1 \.heic \(a\.heic\), 1 \.mp4 \(b\.mp4\), 1 \.parquet \(.*pillow-heif"):
        ingest(corpus, place, "s", "x")
    _tar(place / "empty.tar", [])
    with pytest.raises(InputError, match="holds no pictures that can be taken"):
        ingest(corpus, place, "t", "x")
    (place / "one.jpg").write_bytes(PICTURE)
    for file, reason in (("one.jpg", "is one picture"), ("b.mp4", "is none of"), ("nowhere", "does not exist")):
        with pytest.raises(InputError, match=reason):
            ingest(corpus, place / file, "u", "x")
    (tmp_path / "bad.zip").write_bytes(b"PK nothing")
    with pytest.raises(InputError, match=r"holds no picture that can be read: bad\.zip: "):
        ingest(corpus, tmp_path / "bad.zip", "u", "x")


def test_what_lies_beside_is_counted_and_a_source_keeps_its_door(tmp_path: Path) -> None:
    place = tmp_path / "p"
    _tar(place / "00000.tar", [("1.jpg", PICTURE)])
    (place / "00000_stats.json").write_text("{}")
    (place / "page.html").write_text("x")
    done, rows = _ingest(place)
    assert (
        rows.keys() == {"00000.tar/1"} and done.tally.told()[-1] == "Left out: 1 .html (page.html), 1 .json (00000_stats.json)."
    )
    only = tmp_path / "q"
    (only / "sub").mkdir(parents=True)
    (only / "sub" / "1.jpg").write_bytes(PICTURE)
    assert _ingest(only, "other")[1].keys() == {"sub/1.jpg"}
    _tar(only / "big.tar", [("2.jpg", PICTURE), ("3.jpg", PICTURE)])  # alone it would be taken for a folder of tars
    done, rows = _ingest(only, "other")
    assert rows.keys() == {"sub/1.jpg"} and done.tally.told() == ["Left out: 1 .tar (big.tar)."]


def test_archives_have_folders_lists_and_reasons(tmp_path: Path) -> None:
    place = tmp_path / "p"
    listed = json.dumps({"file_name": "b.jpg", "text": "a dog", "score": 2}).encode()
    _zip(place / "set.zip", {
        "p/a.jpg": PICTURE, "p/a.txt": b"a cat", "p/b.jpg": encoded(photo(2, 64, 48)), "p/metadata.jsonl": listed,
        "p/empty.png": b"", "p/page.jpg": b"<html>404</html>", "notes.md": b"x",
    })  # fmt: skip
    whole = _tar(place / "cut.tar.gz", [(f"{n}.jpg", os.urandom(40_000)) for n in range(4)], "w:gz").read_bytes()
    (place / "cut.tar.gz").write_bytes(whole[: len(whole) * 5 // 8])
    (place / "bad.tar.gz").write_bytes(gzip.compress(b"no tar at all" * 99))
    done, rows = _ingest(place)
    assert rows["set.zip/p/a.jpg"]["captions"] == {"en": "a cat"} and rows["set.zip/p/b.jpg"]["captions"] == {"en": "a dog"}
    assert rows["set.zip/p/empty.png"]["error"] == "the file is empty"
    assert rows["cut.tar.gz/0.jpg"]["error"] is None and rows["cut.tar.gz/1.jpg"]["error"] is None
    assert rows["cut.tar.gz/2.jpg"]["error"].startswith("the archive is damaged here")
    told = done.tally.told()
    assert any(each.startswith("cut.tar.gz is damaged: ") for each in told) and any(
        each.startswith("bad.tar.gz") for each in told
    )
    assert any(each.startswith("Left out: 1 .md (set.zip/notes.md)") for each in told)
    _zip(place / "set.zip", {"other.jpg": PICTURE})
    with pytest.raises(InputError, match=r"set\.zip had \d+ bytes when it was ingested"):
        ingest(Corpus.open(tmp_path / "corpus"), place, "s", "x")


def test_names_in_zips_are_of_the_code_page_of_who_packed_them(tmp_path: Path) -> None:
    path = _zip(tmp_path / "p.zip", {"aaaa.jpg": PICTURE, "aaaa.txt": b"a cat"})
    for name in (b"aaaa.jpg", b"aaaa.txt"):
        path.write_bytes(path.read_bytes().replace(name, "猫狗".encode("gb18030") + name[4:]))
    assert _ingest(path)[1]["p.zip/猫狗.jpg"]["captions"] == {"en": "a cat"}


def test_locked_and_broken_members_are_rows_with_the_reason(tmp_path: Path) -> None:
    path = _zip(tmp_path / "p.zip", {"a.jpg": PICTURE, "b.jpg": encoded(photo(3, 64, 48))})
    data = bytearray(path.read_bytes())
    data[data.index(PICTURE) + 100] ^= 255
    for at in (data.rindex(b"PK\x01\x02", 0, len(data)) + 8, data.rindex(b"PK\x03\x04") + 6):
        data[at] |= 1  # of the second member: encrypted
    path.write_bytes(data)
    errors = {key: row["error"] for key, row in _ingest(path)[1].items()}
    assert "CRC" in errors["p.zip/a.jpg"] and "encrypted" in errors["p.zip/b.jpg"]


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF"])
def test_a_cut_file_is_known_by_its_missing_end(form: str) -> None:
    whole = encoded(photo(4, 200, 150), form)
    assert not seems_cut(whole) and not seems_cut(whole + bytes(40)) and seems_cut(whole[: len(whole) * 2 // 3])


def test_a_cut_photograph_with_a_thumbnail_is_known() -> None:
    thumbnail = encoded(photo(5, 32, 24))
    whole = encoded(photo(5, 200, 150), exif=b"Exif\0\0" + thumbnail)
    assert whole.count(b"\xff\xd9") == 2 and not seems_cut(whole) and seems_cut(whole[:-300])


def test_the_closing_count(tmp_path: Path) -> None:
    tally = Tally()
    tally.row("a", {"en": "x"}, None, False, ("note",))
    tally.row("b", {}, None, True, ("note",))
    tally.row("c", {}, "the file is empty", False, ())
    for number in range(20):
        tally.left_out.add(f".{number:02d}", f"file.{number:02d}")
    told = tally.told()
    assert told[:4] == [
        "1 with a caption, 1 without (b).",
        "1 cannot be read: the file is empty (c).",
        "Seemingly cut off: 1 (b); glyphflow corpus measure says which are damaged.",
        "Note: 2 (a).",
    ]
    assert told[4].startswith("Left out: 1 .00 (file.00), ") and told[4].endswith(", 12 of 12 other kinds (file.08).")
    assert Kinds().listed() == "" and same("./a//b\\c.jpg") == "a/b/c.jpg"


def test_the_command_prints_the_count_and_fails_where_nothing_was_taken(tmp_path: Path) -> None:
    from glyphflow.cli.main import app

    place = tmp_path / "p"
    place.mkdir()
    (place / "1.jpg").write_bytes(PICTURE)
    (place / "2.jpg").write_bytes(b"")
    command = ["corpus", "ingest", str(tmp_path / "corpus"), str(place), "--source", "s"]
    first, again = CliRunner().invoke(app, command), CliRunner().invoke(app, command)
    assert first.exit_code == again.exit_code == 0
    assert (
        "2 new rows of 's', 2 in all.\n  0 with a caption, 1 without (1.jpg).\n  1 cannot be read: the file is empty"
        in first.output
    )
    assert "0 new rows of 's', 2 in all.\n" in again.output
    (tmp_path / "q").mkdir()
    (tmp_path / "q" / "a.docx").write_bytes(b"x")
    failed = CliRunner().invoke(app, [*command[:3], str(tmp_path / "q"), "--source", "t"])
    assert isinstance(failed.exception, InputError) and "1 .docx (a.docx)" in str(failed.exception)
    assert pictures(Folder(tmp_path / "q")) == {}


def test_a_corpus_inside_the_folder_is_no_part_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "p"
    (place / "sub").mkdir(parents=True)
    (place / "sub" / "1.jpg").write_bytes(PICTURE)
    corpus = Corpus.create(place / "corpus")
    assert ingest(corpus, place, "s", "x").added == 1
    done = ingest(corpus, place, "t", "x")
    assert done.added == 1 and done.tally.told() == ["0 with a caption, 1 without (sub/1.jpg)."]
    with pytest.raises(InputError, match="is a corpus itself"):
        ingest(corpus, place / "corpus", "u", "x")


def test_a_folder_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "p" / "shut").mkdir(parents=True)
    (tmp_path / "p" / "1.jpg").write_bytes(PICTURE)
    scan = os.scandir

    def refuse(path: str) -> Any:
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr("os.scandir", refuse)
    told = _ingest(tmp_path / "p")[0].tally.told()
    assert told[-1].startswith("Folders that cannot be read and were left out: 1 (") and told[-1].endswith(
        "shut: Permission denied)."
    )
