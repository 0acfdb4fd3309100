"""SQL over corpora whose paths and values would mean something to the database."""

from __future__ import annotations

from pathlib import Path

import pytest

from glyphflow.core.errors import InputError
from glyphflow.corpus import Corpus
from glyphflow.corpus.query import query
from glyphflow.corpus.tables import write_table


def _corpus(directory: Path, shards: int = 2) -> Corpus:
    corpus = Corpus.create(directory)
    for number in range(shards):
        row = {"id": f"{number:032x}", "key": "a\tb\nc.jpg", "kind": "photo", "size": 3, "source": "s"}
        corpus.write_index(f"s-{number:05d}", [row])
    return corpus


@pytest.mark.parametrize("name", ["data [2024]", "[x", "a*b", "what?", "it's", "year=2024", "数据 {a,b}", "%41 #~$HOME"])
def test_a_path_is_no_pattern(tmp_path: Path, name: str) -> None:
    corpus = _corpus(tmp_path / name / "corpus")
    assert query(corpus, 'select shard, * from "index" order by shard', pretty=False).count("\n") == 2
    assert query(corpus, 'select shard from "index" order by 1', pretty=False) == "shard\ns-00000\ns-00001"


def test_a_value_with_line_breaks_stays_one_line(tmp_path: Path) -> None:
    corpus = _corpus(tmp_path / "corpus", 1)
    assert query(corpus, 'select key, size from "index"', pretty=False) == "key\tsize\na\\tb\\nc.jpg\t3"


def test_a_column_may_be_called_filename_and_types_may_differ_between_shards(tmp_path: Path) -> None:
    corpus = _corpus(tmp_path / "corpus")
    mark = corpus.begin_stage("told", {"stage": "told"})
    for number, (kind, value) in enumerate((("int64", 7), ("string", "x"))):
        columns = {"id": [f"{number:032x}"], "filename": ["f.jpg"], "score": [value]}
        types = {"id": "string", "filename": "string", "score": kind}
        write_table(corpus.column_path("told", mark, f"s-{number:05d}"), columns, types)
    assert query(corpus, "select filename, score, shard from told order by shard", pretty=False).splitlines()[1:] == [
        "f.jpg\t7\ts-00000",
        "f.jpg\tx\ts-00001",
    ]


@pytest.mark.parametrize("statement", ["selec", "select * from nowhere", "select '\udc80'", "select 1; selec", "\0", "("])
def test_a_mistake_is_a_sentence(tmp_path: Path, statement: str) -> None:
    with pytest.raises(InputError, match="cannot be answered"):
        query(_corpus(tmp_path / "corpus", 1), statement)


def test_a_damaged_file_is_a_sentence(tmp_path: Path) -> None:
    corpus = _corpus(tmp_path / "corpus")
    corpus.index_path("s-00001").write_bytes(b"no table")
    with pytest.raises(InputError, match="cannot be answered"):
        query(corpus, 'select * from "index"')
