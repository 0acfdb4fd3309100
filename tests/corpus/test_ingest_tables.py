"""Tables as other tools write them: pictures in every form, captions in every form, and one bad row among good ones."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from packed import rows_of, small

from glyphflow.core.errors import InputError
from glyphflow.corpus import Corpus
from glyphflow.corpus.ingest.cells import bytes_of
from glyphflow.corpus.ingest.edits import ingest_edits
from glyphflow.corpus.ingest.files import ingest_parquet
from glyphflow.corpus.ingest.shards import Ingested

PICTURES = [small(n) for n in range(3)]
CAPTIONS = ["a", "b", "c"]


def _ingest(tmp_path: Path, table: pa.Table, **options: Any) -> tuple[Ingested, list[dict[str, Any]]]:
    (tmp_path / "in").mkdir(exist_ok=True)
    pq.write_table(table, tmp_path / "in" / "t.parquet", **options)
    corpus = Corpus.create(tmp_path / "corpus")
    done = ingest_parquet(corpus, tmp_path / "in" / "t.parquet", "s", "x")
    return done, list(rows_of(corpus).values())


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


FORMS: dict[str, dict[str, Any]] = {
    "bytes": {"jpg": pa.array(PICTURES, pa.binary())},
    "large bytes": {"JPG": pa.array(PICTURES, pa.large_binary())},
    "name and bytes": {"image": ["x1.jpg", "x2.jpg", "x3.jpg"], "bytes": pa.array(PICTURES, pa.binary())},
    "number and bytes": {"image": [1, 2, 3], "bytes": pa.array(PICTURES, pa.binary())},
    "base64": {"image": [_base64(each) for each in PICTURES]},
    "base64 for addresses": {"image": [base64.urlsafe_b64encode(each).decode().rstrip("=") for each in PICTURES]},
    "base64 in lines": {"image": [base64.encodebytes(each).decode() for each in PICTURES]},
    "base64 as bytes": {"image": pa.array([base64.b64encode(each) for each in PICTURES], pa.binary())},
    "data URI": {"image": [f"data:image/jpeg;base64,{_base64(each)}" for each in PICTURES]},
    "struct": {"anything": [{"bytes": each, "path": None} for each in PICTURES]},
    "struct and a path before": {"image": [{"bytes": each, "path": f"{n}.png"} for n, each in enumerate(PICTURES)]},
    "list of structs": {"images": [[{"bytes": each, "path": None}] for each in PICTURES]},
    "list of bytes": {"images": pa.array([[each] for each in PICTURES], pa.list_(pa.binary()))},
    "unsigned numbers": {"image": pa.array([list(each) for each in PICTURES], pa.list_(pa.uint8()))},
    "signed numbers": {"image": pa.array([np.frombuffer(each, np.int8).tolist() for each in PICTURES], pa.list_(pa.int8()))},
    "wide numbers": {"image": [list(each) for each in PICTURES]},
    "dictionary": {"image": pa.array(PICTURES, pa.binary()).dictionary_encode()},
}


@pytest.mark.parametrize("form", FORMS)
def test_a_picture_is_found_in_every_form(tmp_path: Path, form: str) -> None:
    done, rows = _ingest(tmp_path, pa.table({**FORMS[form], "caption": CAPTIONS}))
    assert done.added == done.total == 3
    assert [row["data"] for row in rows] == PICTURES
    assert [row["captions"] for row in rows] == [{"en": each} for each in CAPTIONS]


@pytest.mark.parametrize(
    ("captions", "first"),
    [
        (pa.array([b"a", b"b", b"c"], pa.binary()), {"en": "a"}),
        ([["a", "other"], ["b"], ["c"]], {"en": "a"}),
        ([["", "a"], ["b"], ["c"]], {"en": "a"}),
        ([{"en": "a", "zh": "猫"}, None, None], {"en": "a", "zh": "猫"}),
        (['{"en": "a", "zh": "猫"}', "b", "c"], {"en": "a", "zh": "猫"}),
        (['["a", "b"]', "b", "c"], {"en": "a"}),
        (["[a] in brackets", "b", "c"], {"en": "[a] in brackets"}),
        ([[{"raw": "a", "tokens": ["a"]}], [], []], {"en": "a"}),
        (pa.array(["a", "b", "c"], pa.large_string()), {"en": "a"}),
        (pa.array(["a", "b", "c"]).dictionary_encode(), {"en": "a"}),
        ([None, "b", "c"], {}),
    ],
)
def test_captions_in_every_form(tmp_path: Path, captions: Any, first: dict[str, str]) -> None:
    _, rows = _ingest(tmp_path, pa.table({"jpg": pa.array(PICTURES, pa.binary()), "caption": captions}))
    assert rows[0]["captions"] == first and [row["data"] for row in rows] == PICTURES


def test_tables_made_from_webdataset_tars(tmp_path: Path) -> None:
    table = {
        "jpg": PICTURES,
        "txt": CAPTIONS,
        "json": ['{"license": "CC0", "score": 3}', "{}", ""],
        "__key__": ["k0", "k1", "k2"],
    }
    _, rows = _ingest(tmp_path, pa.table(table))
    assert [row["captions"] for row in rows] == [{"en": each} for each in CAPTIONS]
    assert (rows[0]["licence"], rows[0]["key"]) == ("CC0", "t.parquet/0/k0")


def test_a_list_of_pictures_is_a_row_each(tmp_path: Path) -> None:
    images = [[{"bytes": small(n), "path": None} for n in range(4)], [], [{"bytes": small(5), "path": None}]]
    done, rows = _ingest(tmp_path, pa.table({"images": images, "caption": CAPTIONS}))
    assert done.added == done.total == 6
    assert [row["data"] for row in rows] == [*(small(n) for n in range(4)), None, small(5)]
    assert [row["captions"]["en"] for row in rows] == ["a", "a", "a", "a", "b", "c"]
    assert len({row["id"] for row in rows}) == 6


def test_pictures_in_other_columns_are_told(tmp_path: Path) -> None:
    table = pa.table({"image": [{"bytes": each, "path": None} for each in PICTURES],
                      "conditioning_image": [{"bytes": small(9), "path": None}] * 3})  # fmt: skip
    done, rows = _ingest(tmp_path, table)
    assert [row["data"] for row in rows] == PICTURES
    assert "not taken (conditioning_image): 3" in " ".join(done.tally.told())


def test_other_columns_are_kept(tmp_path: Path) -> None:
    table = {"jpg": PICTURES, "caption": CAPTIONS, "aesthetic": [4.5, 5.0, 6.5], "tags": [["x"], [], ["y", "z"]],
             "vector": [[0.5] * 64] * 3, "thumb": pa.array([b"\x00\xff"] * 3, pa.binary())}  # fmt: skip
    pq.write_table(pa.table(table), tmp_path / "t.parquet")
    corpus = Corpus.create(tmp_path / "corpus")
    ingest_parquet(corpus, tmp_path / "t.parquet", "s", "x")
    columns = corpus.columns("metadata", "s-00000")
    assert columns is not None and columns["aesthetic"] == [4.5, 5.0, 6.5] and json.loads(columns["tags"][2]) == ["y", "z"]
    assert set(columns) == {"id", "aesthetic", "tags"}


# -- one bad row ----------------------------------------------------------------------------------------------------------


def _unchecked(texts: Sequence[bytes]) -> pa.Array:
    """A column of strings whose bytes nobody looked at, as writers in Java and C++ make them."""
    ends = np.cumsum([0, *map(len, texts)]).astype(np.int32)
    return pa.StringArray.from_buffers(len(texts), pa.py_buffer(ends.tobytes()), pa.py_buffer(b"".join(texts)))


def test_a_text_that_is_not_utf8_costs_itself(tmp_path: Path) -> None:
    pictures = [small(n) for n in range(6)]
    texts = [b"one", b"caf\xe9 au lait", b"three", b"\xff\xfe\x81\x00\x81", b"five", "六".encode()]
    _, rows = _ingest(tmp_path, pa.table({"jpg": pictures, "caption": _unchecked(texts), "id": _unchecked(texts)}))
    assert [row["data"] for row in rows] == pictures
    assert [row["captions"] for row in rows] == [
        {"en": "one"}, {"en": "café au lait"}, {"en": "three"}, {}, {"en": "five"}, {"zh": "六"},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("a\0b.jpg", "NUL"),
        ("a/x.jpg", "circle"),
        ("../x.jpg", "leads out of the folder"),
        ("/etc/passwd", "leads out of the folder"),
        ("https://example.com/x.jpg", "is an address and no file"),
        ("x" * 400 + ".jpg", "File name too long"),
        ("none.jpg", "No such file"),
        ("", "the row holds no picture"),
    ],
)
def test_a_bad_path_costs_its_row(tmp_path: Path, path: str, reason: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("a")
    for n in range(3):
        (folder / f"{n}.jpg").write_bytes(small(n))
    _, rows = _ingest(tmp_path, pa.table({"path": ["0.jpg", path, "./2.jpg"]}))
    assert [row["data"] for row in rows] == [small(0), None, small(2)] and reason in rows[1]["error"]
    if path:
        edits = [{"references": [each], "instruction": "do", "target": "0.jpg"} for each in ("0.jpg", path, "2.jpg")]
        (folder / "e.jsonl").write_text("".join(json.dumps(edit) + "\n" for edit in edits))
        corpus = Corpus.create(tmp_path / "edits")
        ingest_edits(corpus, folder / "e.jsonl", "e", "x")
        found = rows_of(corpus)
        assert reason in found["line-000002/0.jpg"]["error"]
        assert found["line-000003/0.jpg"]["data"] == small(0)


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    table = pa.Table.from_arrays(
        [pa.array(PICTURES, pa.binary()), pa.array(CAPTIONS), pa.array(["x", "y", "z"])], names=["jpg", "caption", "caption"]
    )
    _, rows = _ingest(tmp_path, table)
    assert [(row["data"], row["captions"]["en"]) for row in rows] == list(zip(PICTURES, CAPTIONS, strict=True))


@pytest.mark.parametrize("column", ["jpg", "caption"])
def test_a_damaged_page_costs_what_lies_behind_it_in_its_column_and_group(tmp_path: Path, column: str) -> None:
    pictures = [small(n) for n in range(12)]
    captions = [f"caption {n} " + "x" * 500 for n in range(12)]
    options = {"row_group_size": 4, "compression": "none", "use_dictionary": False, "data_page_size": 1, "write_batch_size": 1}
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"jpg": pictures, "caption": captions}), path, **options)
    place = pq.ParquetFile(path).metadata.row_group(1).column(0 if column == "jpg" else 1)
    data = bytearray(path.read_bytes())
    middle = place.data_page_offset + place.total_compressed_size // 2
    data[middle - 300 : middle + 900] = b"\xff" * 1200
    path.write_bytes(data)
    corpus = Corpus.create(tmp_path / "corpus")
    ingest_parquet(corpus, path, "s", "x")
    rows = list(rows_of(corpus).values())
    good = [row["data"] == pictures[n] for n, row in enumerate(rows)]
    said = [row["captions"].get("en") == captions[n] for n, row in enumerate(rows)]
    assert all(good[:4]) and all(good[8:]) and all(said[:4]) and all(said[8:])
    assert all(said) if column == "jpg" else all(good)
    assert not all(good) or not all(said)


# -- whole tables ---------------------------------------------------------------------------------------------------------


def test_a_table_without_pictures_is_refused_with_its_columns(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has the columns url, text, and none of them holds pictures; download"):
        _ingest(tmp_path, pa.table({"url": ["http://x/y.jpg"], "text": ["a"]}))


def test_a_folder_of_tables_as_hugging_face_lays_it_out(tmp_path: Path) -> None:
    folder = tmp_path / "in" / "data"
    folder.mkdir(parents=True)
    for n in range(2):
        image = [{"bytes": small(n), "path": None}]
        pq.write_table(pa.table({"image": image, "text": [f"text {n}"]}), folder / f"train-0000{n}-of-00002.parquet")
    pq.write_table(pa.table({"url": ["u"]}), tmp_path / "in" / "urls.parquet")
    corpus = Corpus.create(tmp_path / "corpus")
    done = ingest_parquet(corpus, tmp_path / "in", "s", "x")
    rows = rows_of(corpus)
    assert {key: row["data"] for key, row in rows.items()} == {
        f"data/train-0000{n}-of-00002.parquet/0": small(n) for n in range(2)
    }
    assert "tables without pictures (urls.parquet)" in " ".join(done.tally.told())


@pytest.mark.parametrize(
    "value", ["photo.jpg", "Zm9v", "a" * 200, "data:,", "", 7, None, [1, 2], {"bytes": None, "path": None}]
)
def test_what_is_no_picture_is_none(value: Any) -> None:
    assert not bytes_of(value)[0]
