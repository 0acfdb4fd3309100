"""What changed in a folder since it was ingested: new captions are taken, other pictures and files that are gone are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

from glyphflow.core.hashing import sha256_bytes
from glyphflow.corpus.ingest.captions import Said
from glyphflow.corpus.ingest.metadata import write_metadata
from glyphflow.corpus.ingest.shards import shard_name
from glyphflow.corpus.ingest.tally import Kinds
from glyphflow.corpus.ingest.tree import Tree, key_of
from glyphflow.corpus.store import Corpus

# Stages that read the captions of the index: what they measured of other captions is measured again.
_READ_CAPTIONS = ("captions", "alignment", "categories", "annotate")


class Texts(Protocol):
    """What is said of the pictures that there are."""

    pictures: dict[str, str]

    @property
    def given(self) -> str | None: ...

    def said(self, picture: str) -> Said: ...


def follow(corpus: Corpus, source: str, plan: dict[str, Any], tree: Tree, texts: Texts) -> list[str]:
    """Take the captions that are other ones now into rows that are there already; gives the sentences about what changed.

    A row keeps its picture: pixels are written once.
    """
    changes = Kinds()
    listed = plan.get("captions")
    if listed and not texts.given:  # captions of a list that is not given now are not overwritten by what lies beside
        changes.add("list", Path(listed).name)
    there = set(tree.names)
    for number, names in enumerate(plan["shards"]):
        shard = shard_name(source, number)
        if corpus.index_path(shard).exists():
            _follow_shard(corpus, shard, names, tree, there, texts, changes)
    return _sentences(changes)


def _follow_shard(
    corpus: Corpus, shard: str, names: list[str], tree: Tree, there: set[str], texts: Texts, changes: Kinds
) -> None:
    index = corpus.index(shard)
    written = corpus.index_path(shard).stat().st_mtime_ns
    news: dict[int, Said] = {}
    for row, name in enumerate(names):
        if index["key"][row] != key_of(name):  # forgotten
            continue
        if name not in there:
            changes.add("gone", key_of(name))
            continue
        if _is_other(tree, name, index["size"][row], index["sha256"][row], written):
            changes.add("picture", key_of(name))
        if "list" in changes.counts:
            continue
        said = texts.said(name)
        if said.captions and json.loads(index["captions"][row] or "{}") != dict(said.captions):
            changes.add("caption", key_of(name))
            news[row] = said
        elif not said.captions and index["captions"][row] not in ("{}", None):
            changes.add("caption gone", key_of(name))
    if news:
        _take(corpus, shard, names, index, news, texts)


def _is_other(tree: Tree, name: str, size: int, sha256: str, written: int) -> bool:
    """Whether the picture is another one: of another size, or younger than its row and of other bytes."""
    told = tree.stat(name)
    if told is None:
        return False
    now, changed = told
    if now != size:
        return True
    return changed >= written and sha256_bytes(tree.read(name)[0] or b"") != sha256


def _take(
    corpus: Corpus, shard: str, names: list[str], index: dict[str, list[Any]], news: dict[int, Said], texts: Texts
) -> None:
    """Replace the index of ``shard``; what was measured of its captions goes first, so that a kill leaves nothing that lies."""
    for stage in _READ_CAPTIONS:
        for table in (corpus.directory / "columns").glob(f"{stage}@*/{shard}.parquet"):
            table.unlink(missing_ok=True)
    for row, said in news.items():
        index["captions"][row] = json.dumps(dict(said.captions), ensure_ascii=False)
        index["licence"][row] = said.licence or index["licence"][row]
    values = [texts.said(name).metadata if index["key"][row] else {} for row, name in enumerate(names)]
    write_metadata(corpus, shard, index["id"], values)
    corpus.write_index(shard, [{name: column[row] for name, column in index.items()} for row in range(len(names))])


def _sentences(changes: Kinds) -> list[str]:
    words = {
        "caption": "Captions that changed since they were ingested: {} ({}). The new ones are taken; measure and curate again.",
        "caption gone": "Captions that are gone: {} ({}). Their rows keep them.",
        "picture": "Pictures that changed since they were ingested: {} ({}). Their rows keep the first bytes; ingest the "
        "new ones under other names and forget the old rows.",
        "gone": "Pictures that are gone: {} ({}). Their rows stay until glyphflow corpus forget takes them out.",
        "list": "The captions came from a list ({1}); give it with --captions again where it changed.",
    }
    return [words[kind].format(*changes.counts[kind]) for kind in words if kind in changes.counts]
