"""Folders of pictures: each picture a row, with the captions that lie beside it or stand in a list."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from glyphflow.core.errors import InputError
from glyphflow.corpus.ingest.captions import NOTHING, Said, language_of
from glyphflow.corpus.ingest.follow import follow
from glyphflow.corpus.ingest.listing import ENDINGS as LISTS
from glyphflow.corpus.ingest.listing import MAX_LIST_BYTES, Listing, Names, NoList, read_captions, read_list
from glyphflow.corpus.ingest.shards import (
    PICTURES_PER_SHARD,
    Ingested,
    Item,
    extension_of,
    is_planned,
    open_plan,
    save_plan,
    write_shards,
)
from glyphflow.corpus.ingest.sidecars import Sidecars
from glyphflow.corpus.ingest.tally import Kinds, advice
from glyphflow.corpus.ingest.tree import Folder, Tree, key_of, pictures
from glyphflow.corpus.store import Corpus, check_name

__all__ = ["Texts", "ingest_folder", "ingest_tree", "language_of", "nothing_taken"]


def ingest_folder(
    corpus: Corpus,
    folder: Path | str,
    source: str,
    licence: str,
    per_shard: int = PICTURES_PER_SHARD,
    captions: Path | str | None = None,
) -> Ingested:
    """Add every picture below ``folder`` as rows of ``source``; captions are those of the list given, else of files.

    See :mod:`~glyphflow.corpus.ingest.sidecars` and :mod:`~glyphflow.corpus.ingest.listing` for what is read. A picture that
    cannot be read becomes a row without bytes and with the reason. A source is tied to its folder: another folder under the
    same name is an :class:`InputError`, and so is a folder without any picture. Captions that changed since are taken.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder that can be read; give the folder that holds the pictures.")
    tree = Folder(folder)
    done = ingest_tree(corpus, tree, folder, source, licence, per_shard, Path(captions) if captions is not None else None)
    if tree.loops:
        done.tally.sentences.append(
            f"Links to folders that are read already, not followed again: {len(tree.loops)} ({tree.loops[0]})."
        )
    if tree.closed:
        done.tally.sentences.append(f"Folders that cannot be read and were left out: {len(tree.closed)} ({tree.closed[0]}).")
    return done


def ingest_tree(
    corpus: Corpus,
    tree: Tree,
    place: Path,
    source: str,
    licence: str,
    per_shard: int = PICTURES_PER_SHARD,
    captions: Path | None = None,
    kind: str = "folder",
) -> Ingested:
    """Add the pictures of ``tree``, which lies at ``place`` (see :func:`ingest_folder`)."""
    check_name(source, "source")
    texts = Texts(tree, place, captions)
    with corpus.writing(f"ingesting {source!r}"):
        plan = open_plan(corpus, source, kind, place)
        shards: list[list[str]] = plan["shards"]
        for path, name in tree.packed:
            is_planned(plan, path, name)
        if not texts.pictures and not shards:
            raise nothing_taken(place, tree)
        changed = follow(corpus, source, plan, tree, texts)
        planned = {name for shard in shards for name in shard}
        fresh = sorted(texts.pictures.keys() - planned)
        shards += [fresh[start : start + per_shard] for start in range(0, len(fresh), per_shard)]
        if fresh or texts.given != plan.get("captions"):
            plan |= {"captions": texts.given} if texts.given else {}
            save_plan(corpus, source, plan)

        def read(names: list[str]) -> Iterator[Item]:
            for name in names:
                data, error = tree.read(name)
                ending = texts.pictures.get(name) or extension_of(name)
                yield Item(key_of(name), data, error, *texts.said(name), extension=ending)

        done = write_shards(corpus, source, licence, shards, len, read)
    done.tally.sentences[:0] = [*changed, *texts.told()]
    done.tally.left_out = texts.left_out()
    return done


def nothing_taken(place: Path, tree: Tree) -> InputError:
    """The error of a place that holds nothing for a corpus; it says what lies there."""
    if (place / "corpus.json").exists():
        return InputError(f"{place} is a corpus itself; write its rows with glyphflow corpus export and ingest those.")
    kinds = Kinds()
    for name in tree.names:
        kinds.add(extension_of(name) or "without ending", key_of(name))
    if not kinds:
        return InputError(f"{place} holds no files; give a folder of pictures, tars, Parquet tables, zips or pages.")
    return InputError(
        f"{place} holds no pictures that can be taken, but {kinds.listed()}; give a folder of pictures, tars, Parquet tables, "
        f"zips or pages.{advice(kinds.counts)}"
    )


@dataclass
class Texts:
    """The captions of a tree's pictures: the list that the user gave, else what lies beside a picture over what lists say."""

    tree: Tree
    place: Path
    table: Path | None
    pictures: dict[str, str] = field(init=False)  # name -> ending

    def __post_init__(self) -> None:
        self.pictures = pictures(self.tree)
        self._sidecars = Sidecars(self.tree)
        self._beside = {name for picture in self.pictures for name in self._sidecars.of(picture)}
        self._lists = Listing()
        self._unread: list[str] = []
        self._own = self._given()
        self._look_for_lists()

    @property
    def given(self) -> str | None:
        """The list that the user gave, as the plan remembers it."""
        return str(self.table.resolve()) if self.table is not None else None

    def said(self, picture: str) -> Said:
        """What is said of ``picture``."""
        if picture in self._own.said:
            return self._own.said[picture]
        return self._sidecars.said(picture, self._lists.said.get(picture, NOTHING))

    def told(self) -> list[str]:
        """Sentences about the lists."""
        said = [f"Read what {name} says of them." for name in sorted(self._lists.used)[:5]]
        said += [
            f"Rows of {name} that name no picture that is there: {count} ({first})."
            for name, count, first in (*self._own.strangers, *self._lists.strangers)[:5]
        ]
        return said + self._unread[:5]

    def left_out(self) -> Kinds:
        """The files that are neither pictures nor say anything of one."""
        kinds = Kinds()
        for name in self.tree.names:
            if name not in self.pictures and name not in self._beside and name not in self._lists.used:
                kinds.add(extension_of(name) or "without ending", key_of(name))
        return kinds

    def _given(self) -> Listing:
        own = Listing()
        if self.table is not None:
            base = self.place.resolve()
            table = self.table.resolve()
            name = table.relative_to(base).as_posix() if table.is_relative_to(base) else ""
            own.add(name, read_captions(self.table), Names(list(self.pictures), base))
        return own

    def _look_for_lists(self) -> None:
        candidates = [name for name in self.tree.names if extension_of(name) in LISTS and name not in self._beside]
        if self.table is not None or not candidates or not self.pictures:
            return
        names = Names(list(self.pictures), self.place)
        for name in candidates:
            data, _ = self.tree.read(name)
            if data is None:
                continue
            if len(data) > MAX_LIST_BYTES:
                over = f"{len(data) >> 20} MiB, over the {MAX_LIST_BYTES >> 20} of a list"
                self._unread.append(f"{key_of(name)} has {over}, and was not read.")
                continue
            try:
                self._lists.add(name, read_list(name, data), names)
            except NoList:
                continue  # a file of something else; it is counted among those left out
