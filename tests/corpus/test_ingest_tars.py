"""Tars as other tools make them: several dots and pictures, links, joined and packed archives, names in other encodings."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from packed import link, rows_of, small, write_tar

from glyphflow.corpus import Corpus
from glyphflow.corpus.ingest.files import ingest_tars
from glyphflow.corpus.ingest.shards import Ingested

Rows = dict[str, dict[str, Any]]


def _ingest(place: Path) -> tuple[Ingested, Rows]:
    corpus = Corpus.create(place.with_name(place.name + "-corpus"))
    done = ingest_tars(corpus, place, "s", "x")
    return done, rows_of(corpus)


def _said(rows: Rows) -> dict[str, Any]:
    return {key: (row["data"], row["captions"]) for key, row in rows.items()}


def test_names_with_dots_are_rows_with_their_own_captions(tmp_path: Path) -> None:
    members = [(f"photo.2021.{n:02d}.jpg", small(n)) for n in range(3)]
    members += [(f"photo.2021.{n:02d}.txt", f"caption {n}".encode()) for n in range(3)]
    tar = write_tar(tmp_path / "x.tar", sorted(members))
    done, rows = _ingest(tar)
    assert done.added == done.total == 3
    assert _said(rows) == {f"x.tar/photo.2021.{n:02d}": (small(n), {"en": f"caption {n}"}) for n in range(3)}


def test_several_pictures_of_a_sample(tmp_path: Path) -> None:
    done, rows = _ingest(write_tar(tmp_path / "x.tar", [
        ("a.left.jpg", small(1)), ("a.right.jpg", small(2)), ("a.txt", b"both eyes"),
        ("b.jpg", small(3)), ("b.mask.png", small(4, "PNG")), ("b.depth.png", small(5, "PNG")), ("b.txt", b"a room"),
        ("c.jpg", small(6)), ("c.png", small(7, "PNG")), ("c.jpg.txt", b"as JPEG"),
        ("d.jpg", small(8)), ("d.2.jpg", small(9)), ("d.txt", b"the first"), ("d.2.txt", b"the second"),
        ("e.mask.png", small(10, "PNG")),
        ("f.jpg", small(11)), ("f.en.txt", b"un chat noir"), ("f.zh.txt", b"a cat"), ("f.json", b'{"score": 3}'),
    ]))  # fmt: skip
    assert _said(rows) == {
        "x.tar/a.left": (small(1), {"en": "both eyes"}),
        "x.tar/a.right": (small(2), {"en": "both eyes"}),
        "x.tar/b": (small(3), {"en": "a room"}),
        "x.tar/c": (small(6), {"en": "as JPEG"}),
        "x.tar/c.png": (small(7, "PNG"), {}),
        "x.tar/d": (small(8), {"en": "the first"}),
        "x.tar/d.2": (small(9), {"en": "the second"}),
        "x.tar/e": (small(10, "PNG"), {}),
        "x.tar/f": (small(11), {"en": "un chat noir", "zh": "a cat"}),
    }
    told = " ".join(done.tally.told())
    assert "maps of another picture are not taken (.mask.png)" in told.lower() and "(.depth.png)" in told


def test_members_of_a_sample_may_lie_apart_and_repeat(tmp_path: Path) -> None:
    _, rows = _ingest(write_tar(tmp_path / "x.tar", [
        ("./b/2.jpg", small(2)), ("./b/1.jpg", small(1)), ("./b/1.txt", b"one"), ("./b/2.txt", b"two"),
        ("./b/._1.jpg", b"resource fork"), ("__MACOSX/b/1.jpg", b"x"), ("__meta__", b"{}"), ("b/.hidden.jpg", small(9)),
        ("v1.0/1.jpg", small(3)), ("b/1.jpg", small(4)),
    ]))  # fmt: skip
    assert _said(rows) == {
        "x.tar/b/2": (small(2), {"en": "two"}),
        "x.tar/b/1": (small(1), {"en": "one"}),
        "x.tar/v1.0/1": (small(3), {}),
        "x.tar/b/1#3": (small(4), {}),
    }


def test_what_is_neither_picture_nor_text_is_told(tmp_path: Path) -> None:
    done, rows = _ingest(write_tar(tmp_path / "x.tar", [
        ("README.md", b"#"), ("a.jpg", small(1)), ("a.cls", b"7"), ("film.mp4", b"x"), ("LICENSE", b"x"), ("b.txt", b"alone"),
    ]))  # fmt: skip
    assert sorted(rows) == ["x.tar/a", "x.tar/b"] and rows["x.tar/b"]["error"] == "the sample holds no picture"
    told = next(each for each in done.tally.told() if each.startswith("Left out"))
    assert all(word in told for word in (".md", ".mp4", "without an ending"))


def test_links_inside_the_archive_are_followed(tmp_path: Path) -> None:
    _, rows = _ingest(write_tar(tmp_path / "x.tar", [
        ("./1.jpg", small(1)), ("./1.txt", b"first"), ("./2.jpg", link("./1.jpg")), ("./2.txt", link("1.txt")),
        ("d/3.jpg", link("../1.jpg", symbolic=True)), ("d/4.jpg", link("5.jpg", symbolic=True)), ("d/5.jpg", small(5)),
        ("6.jpg", link("d/4.jpg", symbolic=True)),
        ("7.jpg", link("8.jpg", symbolic=True)), ("8.jpg", link("7.jpg", symbolic=True)),
        ("9.jpg", link("/etc/passwd", symbolic=True)),
    ]))  # fmt: skip
    assert {key: row["data"] for key, row in rows.items() if row["data"]} == {
        "x.tar/1": small(1), "x.tar/2": small(1), "x.tar/d/3": small(1), "x.tar/d/4": small(5), "x.tar/d/5": small(5),
        "x.tar/6": small(5),
    }  # fmt: skip
    assert rows["x.tar/2"]["captions"] == {"en": "first"}
    assert "in a circle" in rows["x.tar/7"]["error"] and "in a circle" in rows["x.tar/8"]["error"]
    assert rows["x.tar/9"]["error"] == "the member is a link to /etc/passwd, which is not in the archive"


def test_joined_archives_are_read_to_the_end(tmp_path: Path) -> None:
    parts = [
        write_tar(tmp_path / f"{n}", [("000.txt", f"part {n}".encode()), ("000.jpg", small(n))]).read_bytes() for n in range(3)
    ]
    (tmp_path / "x.tar").write_bytes(b"".join(parts))
    _, rows = _ingest(tmp_path / "x.tar")
    assert [(row["data"], row["captions"]["en"]) for row in rows.values()] == [(small(n), f"part {n}") for n in range(3)]


def test_a_damaged_header_costs_its_member(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "x.tar", [(f"{n}.jpg", small(n)) for n in range(5)])
    with tarfile.open(tar) as opened:
        place = opened.getmembers()[2].offset
    data = bytearray(tar.read_bytes())
    data[place : place + 512] = b"\xee" * 512
    tar.write_bytes(data)
    _, rows = _ingest(tar)
    assert {key: row["data"] for key, row in rows.items() if row["data"]} == {f"x.tar/{n}": small(n) for n in (0, 1, 3, 4)}
    assert [row["error"] for row in rows.values() if row["error"]] == [
        f"the archive is damaged here: no member begins at byte {place}"
    ]


@pytest.mark.parametrize("pack", ["gz", "bz2", "xz", "zst", "gz named tar"])
def test_packed_tars(tmp_path: Path, pack: str) -> None:
    plain = write_tar(tmp_path / "plain", [(f"{n}.jpg", small(n)) for n in range(3)]).read_bytes()
    packers = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": pa.Codec("zstd").compress}
    data = packers[pack[:3].strip()](plain)
    data = data if isinstance(data, bytes) else data.to_pybytes()
    name = "x.tar" if "named" in pack else f"x.tar.{pack}"
    (tmp_path / name).write_bytes(data)
    _, rows = _ingest(tmp_path / name)
    assert {key: row["data"] for key, row in rows.items()} == {f"{name}/{n}": small(n) for n in range(3)}
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / name).write_bytes(data[: len(data) * 2 // 3])
    _, rows = _ingest(tmp_path / "cut" / name)
    assert sum("its compression is damaged" in (row["error"] or "") for row in rows.values()) == 1
    assert all(row["data"] in (None, small(0), small(1)) for row in rows.values())


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    animals = "猫狗鸟鱼"
    members = [
        ((animal + end).encode("gbk").decode("latin-1"), small(n) if end == ".jpg" else f"caption {n}".encode())
        for n, animal in enumerate(animals)
        for end in (".jpg", ".txt")
    ]
    _, rows = _ingest(write_tar(tmp_path / "x.tar", members, format=tarfile.GNU_FORMAT, encoding="latin-1"))
    assert _said(rows) == {f"x.tar/{animal}": (small(n), {"en": f"caption {n}"}) for n, animal in enumerate(animals)}
    odd = [(f"\xff\xfe{n}\x81.jpg", small(n)) for n in range(3)]
    _, rows = _ingest(write_tar(tmp_path / "odd.tar", odd, format=tarfile.GNU_FORMAT, encoding="latin-1"))
    assert [row["data"] for row in rows.values()] == [small(n) for n in range(3)]


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_and_folders(tmp_path: Path, form: int) -> None:
    long = "f" * 90 + "/" + "数据" * 40 + "/" + "n" * 120
    (tmp_path / "in" / "train").mkdir(parents=True)
    write_tar(tmp_path / "in" / "train" / "0.tar", [(f"{long}.jpg", small(1)), (f"{long}.txt", b"long")], format=form)
    write_tar(tmp_path / "in" / "1.tar", [("a.jpg", small(2))], format=form)
    _, rows = _ingest(tmp_path / "in")
    assert _said(rows) == {f"train/0.tar/{long}": (small(1), {"en": "long"}), "1.tar/a": (small(2), {})}


def test_other_values_of_a_sample_become_metadata(tmp_path: Path) -> None:
    told = json.dumps({"caption": "a cat", "url": "http://x", "similarity": 0.5}).encode()
    corpus = Corpus.create(tmp_path / "corpus")
    ingest_tars(corpus, write_tar(tmp_path / "x.tar", [("a.jpg", small(1)), ("a.json", told)]), "s", "x")
    columns = corpus.columns("metadata", "s-00000")
    assert columns is not None and columns["url"] == ["http://x"] and columns["similarity"] == [0.5]


def test_a_file_whose_own_name_is_not_utf8(tmp_path: Path) -> None:
    place = tmp_path / "in"
    place.mkdir()
    write_tar(place / "\udcff.tar", [("a.jpg", small(1))])
    _, rows = _ingest(place)
    assert {key: row["data"] for key, row in rows.items()} == {"\\xff.tar/a": small(1)}
