"""No verb of ``glyphflow corpus`` ever prints a traceback: seeded files, options and encodings, through the command line."""

from __future__ import annotations

import io
import json
import random
import sys
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from glyphflow.cli import main as cli

SEEDS = (0, 1, 2, 3, 5, 13, 31)  # the last two found faults
_WORDS = (
    "a cat",
    "一只猫",
    "café",
    "고양이",
    "x\u2028y",
    "\0",
    "{",
    '"',
    "'; drop table",
    "-",
    "",
    "\ud83d\ude00 😀",
    "\udce9",
    "a,b\nc",
)
_NAMES = ("a", "b c", "猫", "[x]", "*", "a.b.c", "…", "-x", "é", "e\u0301", "x" * 200, "%41", "~", "a'b", "\udcff")
_ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "gb18030", "cp1252", "cp932", "euc-kr", "utf-7", "utf-32")


def _picture(rng: random.Random) -> bytes:
    file = io.BytesIO()
    size = rng.choice(((8, 8), (1, 40), (64, 48), (48, 64)))
    pixels = np.random.default_rng(rng.randrange(99)).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    mode = rng.choice(("RGB", "L", "P", "RGBA", "CMYK", "1"))
    image = Image.fromarray(pixels).convert(mode)
    image.save(file, {"RGBA": "PNG", "P": "GIF", "1": "PNG", "CMYK": "JPEG"}.get(mode, rng.choice(("JPEG", "PNG", "WEBP"))))
    data = file.getvalue()
    damage = rng.randrange(8)
    if damage == 0:
        return data[: rng.randrange(len(data))]
    if damage == 1:
        place = rng.randrange(len(data))
        return data[:place] + bytes(rng.randrange(256) for _ in range(9)) + data[place + 9 :]
    return data


def _text(rng: random.Random) -> bytes:
    words = " ".join(rng.choice(_WORDS) for _ in range(rng.randrange(4)))
    forms: tuple[Callable[[], str], ...] = (
        lambda: words,
        lambda: json.dumps({rng.choice(("caption", "en", "zh", "captions", "licence", "text", "caption_ja", "id")): words}),
        lambda: json.dumps({"captions": rng.choice(([words], {"en": words}, 7, None, [[]])), "references": [words, 1]}),
        lambda: json.dumps([words, 1, None]),
        lambda: json.dumps({"references": [rng.choice(_NAMES) + ".jpg"], "instruction": words, "target": "a.jpg"}),
        lambda: f'file,caption\na.jpg,"{words}\nb.jpg,{words}\n',
        lambda: "[" * 50 + words,
    )
    text = rng.choice(forms)()
    if rng.random() < 0.1:
        return bytes(rng.randrange(256) for _ in range(40))
    return text.encode(rng.choice(_ENCODINGS), "backslashreplace" if rng.random() < 0.5 else "replace")


def _table(rng: random.Random) -> bytes:
    count = rng.randrange(5)
    values: tuple[Callable[[], object], ...] = (
        lambda: _picture(rng),
        lambda: {"bytes": _picture(rng), "path": rng.choice(_NAMES[:13])},
        lambda: [_picture(rng)],
        lambda: list(_picture(rng)),
        lambda: rng.choice(_NAMES[:13]) + ".jpg",
        lambda: "\0/../" + rng.choice(_NAMES[:13]),
        lambda: rng.randrange(9),
        lambda: None,
        lambda: rng.random(),
        lambda: [rng.choice(_WORDS[:10])],
    )
    columns = {}
    for name in rng.sample(("image", "jpg", "path", "caption", "id", "data", "images", "zh", "url", "filename", "shard"), 4):
        kind = rng.choice(values)
        columns[name] = pa.array([kind() for _ in range(count)])
    names = [rng.choice((name, name, name, "caption")) for name in columns]
    file = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(list(columns.values()), names=names), file, row_group_size=2)
    return _perhaps_damaged(rng, file.getvalue())


def _perhaps_damaged(rng: random.Random, data: bytes) -> bytes:
    if rng.random() < 0.7 or not data:
        return data
    place = rng.randrange(len(data))
    return data[:place] if rng.random() < 0.5 else data[:place] + b"\xee" * 30 + data[place + 30 :]


def _member(rng: random.Random) -> tuple[str, bytes]:
    ending = rng.choice((".jpg", ".txt", ".json", ".left.jpg", ".mask.png", "", ".mp4", ".en.txt"))
    name = rng.choice(("", "./", "d/", "../", "/")) + rng.choice(_NAMES) + ending
    return name, _picture(rng) if ending.endswith(("jpg", "png")) else _text(rng)


def _tar(rng: random.Random) -> bytes:
    file = io.BytesIO()
    mode = rng.choice(("w", "w", "w:gz", "w:bz2", "w:xz"))
    form = rng.choice((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    with tarfile.open(fileobj=file, mode=mode, format=form, errors="surrogateescape") as tar:
        for _ in range(rng.randrange(6)):
            name, data = _member(rng)
            member = tarfile.TarInfo(name)
            member.type = rng.choice((tarfile.REGTYPE, tarfile.REGTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE))
            if member.type == tarfile.REGTYPE:
                member.size = len(data)
            else:
                member.linkname = rng.choice(_NAMES) + ".jpg"
            tar.addfile(member, io.BytesIO(data))
    return _perhaps_damaged(rng, file.getvalue() * rng.choice((1, 1, 2)))


def _zip(rng: random.Random) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w") as packed:
        warnings.simplefilter("ignore")  # two members of one name
        for _ in range(rng.randrange(5)):
            name, data = _member(rng)
            packed.writestr(name.encode("utf-8", "replace").decode(), data)
    return _perhaps_damaged(rng, file.getvalue())


_FILES: dict[str, Callable[[random.Random], bytes]] = {
    ".jpg": _picture, ".PNG": _picture, ".jfif": _picture, "": _picture, ".txt": _text, ".json": _text, ".caption": _text,
    ".jsonl": _text, ".csv": _text, ".jpg.json": _text, ".parquet": _table, ".tar": _tar, ".tar.gz": _tar, ".zip": _zip,
    ".yaml": _text,
}  # fmt: skip


def _place(rng: random.Random, folder: Path) -> Path:
    """A folder or a file as nobody means it; half of the folders hold one kind of thing, as most do."""
    folder.mkdir()
    endings = (
        list(_FILES)
        if rng.random() < 0.5
        else [rng.choice((".jpg", ".jpg", ".parquet", ".parquet", ".tar", ".tar", ".zip", ".jsonl"))] * 3 + [".txt"]
    )
    made = [folder]
    for _ in range(rng.randrange(1, 8)):
        ending = rng.choice(endings)
        below = folder / rng.choice(("", "", "d", "[d]"))
        below.mkdir(exist_ok=True)
        path = below / (rng.choice(_NAMES) + ending)
        try:
            if rng.random() < 0.1:
                path.symlink_to(rng.choice((path.name, "nowhere", ".", "..")))
            else:
                path.write_bytes(_FILES[ending](rng))
            made.append(path)
        except FileExistsError:
            pass
    packed = [path for path in made if path.suffix in (".tar", ".parquet", ".zip", ".gz", ".jsonl")]
    return rng.choice((folder, rng.choice(packed or made)))


def _commands(rng: random.Random, root: Path) -> list[list[str]]:
    corpus, place = str(root / rng.choice(("corpus", "corpus [1]", "语 料"))), str(_place(rng, root / "in"))
    word = rng.choice(_WORDS).replace("\0", "")
    sources = ("s",) * 9 + ("a/b", "", "ü")
    ingest = ["corpus", "ingest", corpus, place, "--source", rng.choice(sources)]
    if rng.random() < 0.1:
        ingest += ["--captions", str(next((root / "in").rglob("*.[cj]s*"), root / "none.csv"))]
    if rng.random() < 0.3:
        ingest += ["--licence", word]
    statements = ('select * from "index"', "select * from metadata", "select count(*) from header", word, "select 1/0")
    verbs = [
        ["corpus", "sql", corpus, rng.choice(statements)],
        ["corpus", "export", corpus, str(root / "out [1]"), "--as", rng.choice(("webdataset", "parquet", "folder", "x"))],
        ["corpus", "export", corpus, place, "--view", word],
        ["corpus", "forget", corpus, rng.choice(("0" * 32, word, "-x"))],
        ["corpus", "curate", corpus, rng.choice((place, "demo-corpus", word, "none")), "--view", rng.choice(("v", word))],
        ["corpus", "annotate", corpus, "--view", "v", "--with", rng.choice(("rules", word, "qwen:" + place))],
        ["corpus", "report", corpus, "-o", str(root / "page.html")],
        ["corpus", "render", corpus, rng.choice((place, word)), "a=b"],
        ["corpus", "measure", corpus, "--stages", rng.choice(("header", word))],
    ]
    again = ["corpus", "ingest", corpus, str(root / "out [1]"), "--source", "again"]
    return [ingest, ingest, *rng.sample(verbs, 3), verbs[1], again]


@pytest.mark.parametrize("seed", SEEDS)
def test_every_verb_ends_with_a_sentence(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(seed)
    root = tmp_path / rng.choice(("x", "data [2024]", "数据", "a*b"))
    root.mkdir()
    monkeypatch.chdir(root)
    for command in _commands(rng, root):
        monkeypatch.setattr(sys, "argv", ["glyphflow", *command])
        with pytest.raises(SystemExit) as stop:  # any other exception is the traceback that nobody may see
            cli.main()
        told = capsys.readouterr()
        assert stop.value.code in (0, 1, 2), command
        assert "Traceback" not in told.out + told.err, command
        if stop.value.code:
            assert told.err.strip().splitlines()[-1].strip(" ╰╯─│"), command
