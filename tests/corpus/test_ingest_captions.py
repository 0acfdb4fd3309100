"""Captions beside pictures and in lists, under the names and in the forms that other tools give them."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpus_pictures import encoded, photo

from glyphflow.core.errors import ConfigError, InputError
from glyphflow.corpus import Corpus
from glyphflow.corpus.decide.curate import curate
from glyphflow.corpus.ingest.any import ingest
from glyphflow.corpus.ingest.captions import Said, from_json, from_mapping, from_text
from glyphflow.corpus.ingest.csv_rows import decode_damaged, rows_of
from glyphflow.corpus.ingest.listing import Names, NoList, read_list
from glyphflow.corpus.ingest.sidecars import named_by_folder
from glyphflow.corpus.query import query
from glyphflow.corpus.recipe import Rule, Stage

PICTURE = encoded(photo(1, 64, 48))


def _put(place: Path, files: Mapping[str, bytes | str | Any]) -> Path:
    """Write ``files`` below ``place``: None is a picture, a list or an object JSON."""
    for name, content in files.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            content = PICTURE
        elif not isinstance(content, bytes | str):
            content = json.dumps(content)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return place


def _told(place: Path, **options: Any) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Captions by key after an ingest of ``place``, and what the ingest said."""
    corpus = Corpus.create(place.parent / f"{place.name}-corpus")
    done = ingest(corpus, place, "s", "x", **options)
    captions = {}
    for shard in corpus.shards():
        index = corpus.index(shard)
        captions |= dict(zip(index["key"], map(json.loads, index["captions"]), strict=True))
    return captions, done.tally.told()


def _metadata(place: Path) -> list[dict[str, Any]]:
    corpus = Corpus.open(place.parent / f"{place.name}-corpus")
    columns = corpus.columns("metadata", corpus.shards()[0]) or {}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def test_captions_lie_beside_pictures_under_every_usual_name(tmp_path: Path) -> None:
    nfd, nfc = (unicodedata.normalize(form, "café") for form in ("NFD", "NFC"))
    place = _put(tmp_path / "p", {
        "kohya.jpg": None, "kohya.caption": "from .caption",
        "gallery.jpg": None, "gallery.jpg.json": {"caption": "from .jpg.json"},
        "other.png": None, "other.png.txt": "from .png.txt",
        "upper.JPG": None, "upper.TXT": "from .TXT",
        "dots.v1.2.jpg": None, "dots.v1.2.txt": "with dots",
        f"{nfd}.jpg": None, f"{nfc}.txt": "composed",
        "both.jpg": None, "both.txt": "a caption", "both.json": {"zh": "一只猫", "license": "CC0-1.0", "score": 2},
        "Case.jpg": None, "Case.txt": "large", "case.jpg": None, "case.txt": "small",
        "empty.jpg": None, "empty.txt": "  \n", "none.jpg": None,
    })  # fmt: skip
    captions, told = _told(place)
    assert captions == {
        "kohya.jpg": {"en": "from .caption"}, "gallery.jpg": {"en": "from .jpg.json"}, "other.png": {"en": "from .png.txt"},
        "upper.JPG": {"en": "from .TXT"}, "dots.v1.2.jpg": {"en": "with dots"}, f"{nfd}.jpg": {"en": "composed"},
        "both.jpg": {"en": "a caption", "zh": "一只猫"}, "Case.jpg": {"en": "large"}, "case.jpg": {"en": "small"},
        "empty.jpg": {}, "none.jpg": {},
    }  # fmt: skip
    assert told[0] == "9 with a caption, 2 without (empty.jpg)."
    assert [row["score"] for row in _metadata(place)].count(2) == 1


def test_encodings_are_read_and_named_and_what_cannot_be_told_is_no_caption() -> None:
    assert from_text("一只猫坐在垫子上".encode("gb18030")) == Said(
        {"zh": "一只猫坐在垫子上"}, notes=("a text that is not UTF-8 was read as gb18030",)
    )
    assert from_text("\ufeffa cat".encode("utf-16-le")) == Said({"en": "a cat"})
    broken = from_text("猫 ".encode() + b"\xff\xfe\x00\xc3")
    assert broken.captions == {} and broken.notes[0].startswith("a caption file is none: ")
    assert from_json('{"caption": "café crème"}'.encode("latin-1")).captions == {"en": "café crème"}
    assert from_json(b"{half").notes == ("a .json beside a picture is no JSON",)
    assert from_text(b"x" * 200_000).captions == {} and from_text(b"x" * 200_000).notes


def test_named_values_give_captions_licence_and_the_rest() -> None:
    said = from_mapping(
        {"Caption": "a cat", "License": "CC0", "Score": 0.5, "text": "more", "none": None, "tags": []}, ("path",)
    )
    assert said == Said({"en": "a cat"}, "CC0", {"Score": 0.5, "text": "more"})
    assert from_mapping({"captions": ["one", "two"]}) == Said({"en": "one"}, None, {"captions": ["one", "two"]})
    assert from_mapping({"caption": ["no", "text"], "en": 5}).captions == {}
    assert from_mapping({"file": "a.jpg", "text": "t"}, ("file",)) == Said({"en": "t"})
    assert from_mapping({"text": "caf\udce9"}).notes == ("a caption in a list is in no encoding that can be told",)


def test_metadata_columns_keep_their_kind_and_never_collide_with_ours(tmp_path: Path) -> None:
    place = _put(tmp_path / "p", {
        "1.jpg": None, "1.json": {"id": 7, "score": 1, "tags": ["a"], "nested": {"b": 1}, "ok": True, "mixed": 1},
        "2.jpg": None, "2.json": {"SCORE": 0.5, "mixed": "x", "big": 1 << 80},
    })  # fmt: skip
    _told(place)
    first, second = _metadata(place)
    ours = Corpus.open(tmp_path / "p-corpus").index("s-00000")["id"]
    assert [first["id"], second["id"]] == ours
    assert {name: value for name, value in first.items() if name != "id"} == {
        "id_": 7, "score": 1.0, "tags": '["a"]', "nested": '{"b": 1}', "ok": True, "mixed": "1", "big": None,
    }  # fmt: skip
    assert (second["score"], second["mixed"], second["big"], second["ok"]) == (0.5, "x", str(1 << 80), None)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.jsonl", '{"file_name": "1.jpg", "text": "a cat", "score": 3}\n{"file_name": "sub/2.jpg", "text": "狗"}\n'),
        ("metadata.csv", "file_name,text,score\n./1.jpg,a cat,3\nsub\\2.jpg,狗,\n"),
        ("table.tsv", "Image\tCaption\tscore\n1.jpg\ta cat\t3\n2.jpg\t狗\t\n"),
        ("train.json", [{"image": "1.jpg", "caption": "a cat", "score": 3}, {"image": "sub/2.jpg", "caption": "狗"}]),
        ("captions.json", {"1.jpg": {"caption": "a cat", "score": 3}, "sub/2": "狗"}),
        ("m.ndjson", '\ufeff{"image": {"path": "1.jpg"}, "prompt": "a cat", "score": 3}\r\n{"img": "2.jpg", "zh": "狗"}'),
    ],
)  # fmt: skip
def test_lists_are_found_beside_the_pictures(tmp_path: Path, name: str, content: Any) -> None:
    place = _put(tmp_path / "p", {"1.jpg": None, "sub/2.jpg": None, name: content})
    captions, told = _told(place)
    assert captions == {"1.jpg": {"en": "a cat"}, "sub/2.jpg": {"zh": "狗"}}
    assert told == ["2 with a caption.", f"Read what {name} says of them."]
    assert [row["score"] for row in _metadata(place)] == [3, None]


def test_a_table_of_names_is_a_list_and_not_a_source_of_pictures(tmp_path: Path) -> None:
    place = _put(tmp_path / "p", {"1.jpg": None, "2.jpg": None})
    pq.write_table(pa.table({"file_name": ["1.jpg"], "text": ["a cat"], "tags": [["a"]]}), place / "metadata.parquet")
    assert _told(place)[0] == {"1.jpg": {"en": "a cat"}, "2.jpg": {}}


def test_coco_gives_the_first_caption_and_keeps_the_others(tmp_path: Path) -> None:
    lists = {
        "licenses": [{"id": 4, "name": "CC BY"}],
        "images": [{"id": n, "file_name": f"{n}.jpg", "license": 4, "height": 9} for n in (1, 2)],
        "annotations": [
            {"image_id": 1, "caption": "a cat"}, {"image_id": 1, "caption": "a feline"}, {"image_id": 2, "category_id": 8},
        ],
        "categories": [{"id": 8, "name": "dog"}],
    }  # fmt: skip
    files = {"train2017/1.jpg": None, "train2017/2.jpg": None, "val2017/1.jpg": None}
    place = _put(tmp_path / "p", {**files, "annotations/captions_train2017.json": lists})
    assert _told(place)[0] == {"train2017/1.jpg": {"en": "a cat"}, "train2017/2.jpg": {}, "val2017/1.jpg": {}}
    first, second, third = _metadata(place)
    assert first["other_captions"] == '["a feline"]' and second["categories"] == '["dog"]' and third["height"] is None
    assert Corpus.open(tmp_path / "p-corpus").index("s-00000")["licence"] == ["CC BY", "CC BY", "x"]


def test_conversations_give_their_first_answer() -> None:
    llava = {
        "image": "1.jpg",
        "conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "a cat"}],
    }
    chat = {"images": ["2.jpg"], "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "a dog"}]}
    rows = read_list("chat.json", json.dumps([llava, chat]).encode())
    assert [(files, dict(said.captions)) for files, said in rows] == [
        (("1.jpg",), {"en": "a cat"}),
        (("2.jpg",), {"en": "a dog"}),
    ]


def test_a_caption_of_several_pictures_is_none_and_rows_of_nobody_are_counted(tmp_path: Path) -> None:
    rows = [{"file_names": ["1.jpg", "2.jpg"], "text": "both"}, {"file_name": "gone.jpg", "text": "lost"}]
    place = _put(tmp_path / "p", {"1.jpg": None, "2.jpg": None, "metadata.jsonl": "\n".join(map(json.dumps, rows))})
    captions, told = _told(place)
    assert captions == {"1.jpg": {}, "2.jpg": {}}
    assert "A caption in a list speaks of several pictures and is none: 2 (1.jpg)." in told
    assert "Rows of metadata.jsonl that name no picture that is there: 1 (gone.jpg)." in told


def test_folders_of_trainers_name_what_has_no_caption(tmp_path: Path) -> None:
    place = _put(tmp_path / "p", {
        "10_sks dog/1.png": None, "10_sks dog/2.png": None, "10_sks dog/2.txt": "sks dog on grass", "2019_may/3.png": None,
    })  # fmt: skip
    captions, told = _told(place)
    assert captions == {
        "10_sks dog/1.png": {"en": "sks dog"},
        "10_sks dog/2.png": {"en": "sks dog on grass"},
        "2019_may/3.png": {},
    }
    assert any(each.endswith("NUMBER_WORDS: 1 (10_sks dog/1.png).") for each in told)
    assert [row["repeats"] for row in _metadata(place)] == [10, 10, None]
    assert named_by_folder("a/5_7/1.jpg", Said()) == Said()


def test_a_quote_or_a_byte_too_many_costs_its_own_row() -> None:
    header, rows = rows_of('file,text\n0.jpg,"an unclosed quote\n1.jpg,"fine, ""yes"""\n2.jpg,"two\nlines"\n\n3.jpg,a, b, c\n')
    assert header == ["file", "text"]
    assert [row["text"] for row in rows] == ['"an unclosed quote', 'fine, "yes"', "two\nlines", "a, b, c"]
    inside = "a\u2028b\x85c\x0cd\x1ce"
    assert [row["b"] for row in rows_of(f"a;b\r\n1;{inside}\r2;x\x00")[1]] == [inside, "x"]
    assert rows_of("\n \n") [0] == []  # fmt: skip
    text, _ = decode_damaged(
        "file,text\n1.jpg,猫和狗\n".encode() + b"2.jpg,caf\xe9 cr\xe8me\n3.jpg,\xff\xfe\xc3\x81\x00\x02\n4.jpg,x\n"
    )
    said = {row["file"]: from_mapping(row, ("file",)) for row in rows_of(text)[1]}
    assert [dict(said[f"{n}.jpg"].captions) for n in (1, 2, 3, 4)] == [{"zh": "猫和狗"}, {"en": "café crème"}, {}, {"en": "x"}]
    assert said["3.jpg"].notes


def test_names_of_lists_are_found_as_people_mean_them(tmp_path: Path) -> None:
    nfd = unicodedata.normalize("NFD", "b é.jpg")
    names = Names(["a/1.jpg", "a/IMG_2.JPG", nfd, "x/3.jpg", "y/3.jpg"], tmp_path)
    assert names.find("1.jpg", "a/metadata.csv") == names.find("./a/1.jpg") == names.find("a\\1.jpg") == "a/1.jpg"
    assert names.find("../a/1.jpg", "lists/l.csv") == names.find(str(tmp_path.resolve() / "a/1.jpg")) == "a/1.jpg"
    assert names.find("/data/set/a/1.jpg") == names.find("a/1") == "a/1.jpg"
    assert names.find("img_2.jpg") == "a/IMG_2.JPG" and names.find("b é.jpg") == nfd
    assert names.find("3.jpg") is None and names.find("y/3.jpg") == "y/3.jpg" and names.find("2.jpg") is None
    assert names.find("3.jpg", "captions_y.json") == "y/3.jpg"


def test_the_list_that_is_given_counts_and_wrong_ones_say_what_is_lacking(tmp_path: Path) -> None:
    place = _put(tmp_path / "p", {"1.jpg": None, "1.txt": "beside", "2.jpg": None, "2.txt": "beside"})
    (tmp_path / "l.jsonl").write_text(json.dumps({"file": "1.jpg", "text": "listed"}))
    assert _told(place, captions=tmp_path / "l.jsonl")[0] == {"1.jpg": {"en": "listed"}, "2.jpg": {"en": "beside"}}
    for name, content in (("a.csv", "a,b\n1,2"), ("b.json", '{"x": 1}'), ("c.txt", "x"), ("d.csv", ""), ("e.json", "{")):
        (tmp_path / name).write_text(content)
        with pytest.raises(InputError):
            ingest(Corpus.create(tmp_path / "c"), place, "s", "x", tmp_path / name)
    with pytest.raises(InputError, match="cannot be read"):
        ingest(Corpus.create(tmp_path / "c"), place, "s", "x", tmp_path / "gone.csv")
    with pytest.raises(NoList):
        read_list("x.parquet", b"PAR1")
    with pytest.raises(InputError, match=r"is a list of captions and holds no pictures; give the folder .* --captions"):
        ingest(Corpus.create(tmp_path / "c"), tmp_path / "l.jsonl", "s", "x")


def test_values_that_came_with_pictures_can_decide(tmp_path: Path) -> None:
    listed = [{"file_name": "1.jpg", "score": 6.5}, {"file_name": "2.jpg", "score": 4.5}, {"file_name": "3.jpg", "tag": "x"}]
    place = _put(
        tmp_path / "p", {"1.jpg": None, "2.jpg": None, "3.jpg": None, "metadata.jsonl": "\n".join(map(json.dumps, listed))}
    )
    _told(place)
    corpus = Corpus.open(tmp_path / "p-corpus")
    ingest(corpus, _put(tmp_path / "bare", {"4.jpg": None}), "t", "x")  # a shard without any such value
    rule = Rule(filter="Score", column="metadata.score", min=5, reason="the score {value} is low")
    assert curate(corpus, [Stage(name="F1", title="t", rules=(rule,))], "good").refused == {("F1", "Score"): 1}
    assert corpus.view("good", "s-00000")["kept"] == [True, False, True] and corpus.view("good", "t-00000")["kept"] == [True]
    assert query(corpus, "select count(*) from metadata where score > 5", pretty=False).endswith("\n1")
    for column, reason in (("metadata.tag", "holds texts"), ("metadata.other", "has only id, score, tag")):
        with pytest.raises(ConfigError, match=reason):
            curate(corpus, [Stage(name="F1", title="t", rules=(rule.model_copy(update={"column": column}),))], "good")


def test_a_json_of_something_else_is_no_list(tmp_path: Path) -> None:
    files = {"main.png": None, "package.json": {"name": "p", "version": "1", "main": "index.js", "author": {"name": "x"}}}
    captions, told = _told(_put(tmp_path / "p", files))
    assert captions == {"main.png": {}} and told[-1] == "Left out: 1 .json (package.json)."
    line = '{"file_name": "1.jpg", "text": "一只猫坐在垫子上"}'.encode("gb18030")
    captions, told = _told(_put(tmp_path / "q", {"1.jpg": None, "metadata.jsonl": line}))
    assert (
        captions == {"1.jpg": {"zh": "一只猫坐在垫子上"}} and "A text that is not UTF-8 was read as gb18030: 1 (1.jpg)." in told
    )
