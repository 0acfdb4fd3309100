from __future__ import annotations

import json
import os
import random
import resource
import signal
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from corpus_pictures import encoded, photo

from glyphflow.core.errors import InputError, StorageError
from glyphflow.core.files import exclusive
from glyphflow.core.hashing import sha256_bytes, sha256_file
from glyphflow.corpus import Corpus
from glyphflow.corpus.ingest.pictures import ingest_folder, language_of
from glyphflow.corpus.store import INDEX_TYPES
from warm import script

Folder = Callable[..., Path]


def _content(corpus: Path) -> dict[str, str]:
    """Every committed file of a corpus by its hash."""
    return {
        str(path.relative_to(corpus)): sha256_file(path)
        for path in sorted(corpus.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def test_rows_hold_the_original_bytes_and_any_tar_reader_finds_them(folder: Folder, tmp_path: Path) -> None:
    pictures = folder(7)
    corpus = Corpus.create(tmp_path / "corpus")
    assert ingest_folder(corpus, pictures, "mine", "CC0-1.0", per_shard=3).added == 7
    assert corpus.shards() == ["mine-00000", "mine-00001", "mine-00002"]
    for shard in corpus.shards():
        index = corpus.index(shard)
        assert set(index) == set(INDEX_TYPES)
        for number, key in enumerate(index["key"]):
            data = (pictures / key).read_bytes()
            assert corpus.payload(shard, "photo", index["offset"][number], index["size"][number]) == data
            assert index["sha256"][number] == sha256_bytes(data)
            assert json.loads(index["captions"][number]) == {"en": f"picture number {int(key[8:11])}"}
        with tarfile.open(corpus.pixels_path(shard)) as tar:
            names = tar.getnames()
            assert len(names) == 2 * len(index["id"])
            first = tar.extractfile(names[0])
            assert first is not None and sha256_bytes(first.read()) == index["sha256"][0]
    assert len(set(corpus.records().ids)) == 7


def test_second_ingest_adds_nothing_and_new_files_get_new_shards(folder: Folder, tmp_path: Path) -> None:
    pictures = folder(5)
    corpus = Corpus.create(tmp_path / "corpus")
    ingest_folder(corpus, pictures, "mine", "x", per_shard=4)
    before = _content(corpus.directory)
    assert ingest_folder(corpus, pictures, "mine", "x", per_shard=4).added == 0
    assert _content(corpus.directory) == before
    (pictures / "a-new-first.jpg").write_bytes(encoded(photo(99)))
    assert ingest_folder(corpus, pictures, "mine", "x", per_shard=4).added == 1
    after = _content(corpus.directory)
    assert {name: after[name] for name in before if not name.startswith("sources")} == {
        name: value for name, value in before.items() if not name.startswith("sources")
    }


def test_damaged_empty_and_unreadable_files_are_rows_and_harm_no_other(folder: Folder, tmp_path: Path) -> None:
    pictures = folder(3)
    (pictures / "empty.jpg").write_bytes(b"")
    (pictures / "page.jpg").write_bytes(b"<html>404</html>")
    (pictures / "gone.png").symlink_to(pictures / "nowhere.png")
    (pictures / os.fsdecode(b"caf\xe9.jpg")).write_bytes(encoded(photo(50)))
    (pictures / "picture-000.txt").write_bytes(b"\xff\xfe broken \xc3")
    (pictures / "picture-001.txt").write_bytes(b"x" * 200_000)
    (pictures / "picture-002.txt").unlink()
    (pictures / "picture-002.json").write_text('{"en": "a cat", "zh": "一只猫", "licence": "CC0-1.0", "other": [1]}')
    corpus = Corpus.create(tmp_path / "corpus")
    assert ingest_folder(corpus, pictures, "mine", "x").added == 7
    index = corpus.index("mine-00000")
    errors = dict(zip(index["key"], index["error"], strict=True))
    assert errors["empty.jpg"] == "the file is empty"
    assert errors["gone.png"] == "the file cannot be read: No such file or directory"
    assert errors["page.jpg"] is None and errors["caf\\xe9.jpg"] is None
    captions = dict(zip(index["key"], map(json.loads, index["captions"]), strict=True))
    assert captions["picture-001.jpg"] == {} and captions["picture-002.jpg"] == {"en": "a cat", "zh": "一只猫"}
    assert dict(zip(index["key"], index["licence"], strict=True))["picture-002.jpg"] == "CC0-1.0"
    selection = corpus.records()
    assert len(selection) == 4  # the page and the two files without bytes hold no picture
    assert all(selection.load(number).image.shape[2] == 3 for number in range(4))


_INGEST = """
import sys
from pathlib import Path
from glyphflow.corpus import Corpus
from glyphflow.corpus.ingest.pictures import ingest_folder
from glyphflow.corpus.operators.measure import measure
corpus = Corpus.create(Path(sys.argv[1]))
ingest_folder(corpus, Path(sys.argv[2]), "mine", "x", per_shard=4)
measure(corpus, workers=2)
"""


@pytest.mark.slow
def test_killed_at_random_points_it_ends_with_the_same_files(folder: Folder, tmp_path: Path) -> None:
    pictures = folder(48)
    (pictures / "cut.jpg").write_bytes(encoded(photo(60))[:2000])
    with script(_INGEST, tmp_path / "calm", pictures) as process:
        assert process.wait().returncode == 0
    written = sum(path.is_file() for path in (tmp_path / "calm").rglob("*"))
    rng, kills = random.Random(4), 0
    for share in sorted(rng.uniform(0.1, 0.9) for _ in range(5)):
        with script(_INGEST, tmp_path / "killed", pictures) as process:
            while process.poll() is None:
                if sum(path.is_file() for path in (tmp_path / "killed").rglob("*")) >= share * written:
                    process.send_signal(signal.SIGKILL)
                    kills += process.wait().returncode == -signal.SIGKILL
    assert kills >= 3
    with script(_INGEST, tmp_path / "killed", pictures) as process:
        assert process.wait().returncode == 0
    assert _content(tmp_path / "killed") == _content(tmp_path / "calm")


def test_what_a_killed_run_left_is_swept_and_an_uncommitted_shard_written_again(folder: Folder, tmp_path: Path) -> None:
    pictures = folder(6)
    calm, killed = Corpus.create(tmp_path / "calm"), Corpus.create(tmp_path / "killed")
    for corpus in (calm, killed):
        ingest_folder(corpus, pictures, "mine", "x", per_shard=3)
    killed.index_path("mine-00001").unlink()  # the tar was renamed, the index was not
    killed.pixels_path("mine-00001").write_bytes(b"half")
    (killed.directory / "pixels" / ".mine-00001.tar.1-aa.tmp").write_bytes(b"half")
    assert killed.shards() == ["mine-00000"]
    ingest_folder(killed, pictures, "mine", "x", per_shard=3)
    assert _content(killed.directory) == _content(calm.directory)


def test_full_disk_is_one_sentence_and_the_run_goes_on_later(folder: Folder, tmp_path: Path) -> None:
    pictures = folder(6)
    corpus = Corpus.create(tmp_path / "corpus")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))
    try:
        with pytest.raises(StorageError, match="larger than this process may write"):
            ingest_folder(corpus, pictures, "mine", "x")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert corpus.shards() == [] and not list(corpus.directory.rglob("*.tmp"))
    assert ingest_folder(corpus, pictures, "mine", "x").added == 6


def test_second_writer_is_told_who_is_at_work(folder: Folder, tmp_path: Path) -> None:
    corpus = Corpus.create(tmp_path / "corpus")
    with exclusive(corpus.directory, "a test"), pytest.raises(StorageError, match=f"process {os.getpid()} is already"):
        ingest_folder(corpus, folder(1), "mine", "x")


def test_wrong_places_and_names_are_sentences(folder: Folder, tmp_path: Path) -> None:
    pictures = folder(1)
    with pytest.raises(InputError, match="is not a corpus"):
        Corpus.create(pictures)
    with pytest.raises(InputError, match="make one with"):
        Corpus.open(tmp_path)
    corpus = Corpus.create(tmp_path / "corpus")
    with pytest.raises(InputError, match="cannot name a source"):
        ingest_folder(corpus, pictures, "a/b", "x")
    with pytest.raises(InputError, match="is not a folder"):
        ingest_folder(corpus, tmp_path / "nowhere", "mine", "x")
    ingest_folder(corpus, pictures, "mine", "x")
    with pytest.raises(InputError, match="another --source name"):
        ingest_folder(corpus, folder(1, "others"), "mine", "x")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("고양이가 매트 위에 앉아 있다", "ko"), ("東京タワーの夜景が美しい", "ja"), ("ねこ", "ja"), ("кошка на коврике", "ru"),
        ("кіт на вікні", "uk"), ("قطة على السجادة", "ar"), ("گربه روی پنجره", "fa"), ("แมวนั่งบนเสื่อ", "th"),
        ("बिल्ली चटाई पर बैठी है", "hi"), ("חתול על השטיח", "he"), ("γάτα στο χαλί", "el"), ("বিড়াল", "bn"), ("ᚠᚢᚦᚨᚱᚲ", "und"),
        ("三星 갤럭시 스마트폰을 들고 있는 사람", "ko"), ("カフェで coffee を飲む人", "ja"), ("Windows 95 安装光盘", "zh"),
        ("A café in Zürich, 2024", "en"), ('A poster with the words "禁止停车，违者罚款，后果自负"', "en"),
        ("一张海报，上面写着“Grand Opening Today Only”", "zh"), ('사진에 "OPEN DAILY FROM NINE" 라고 쓰여 있다', "ko"),
        ("“禁止停车”", "zh"), ("2024", "en"), ("😀", "en"),
    ],
)  # fmt: skip
def test_a_caption_is_stored_under_its_own_language(text: str, code: str) -> None:
    assert language_of(text) == code


def test_language_of_captions() -> None:
    assert [language_of(text) for text in ("a cat", "一只猫", 'a sign that says "你好"', '写着"HELLO"的海报上', "")] == [
        "en", "zh", "en", "zh", "en",
    ]  # fmt: skip
