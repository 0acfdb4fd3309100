"""A new column, and reading what passes: `python -m benchmarks.corpus.storage FOLDER [--photos DIR] [--rounds 15]`.

A corpus of 4,000 rows in 4 shards (the 400 pictures, ten times). Adding a score to every row; reading the pictures of the 1 %
with the highest scores, and of the 10 %; 200 pictures at random. The same from Parquet files that hold the pixels: a new column
rewrites them, a filter reads whole row groups (of 100). Files are in the page cache on both sides; medians of wall time, sides
in turn.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.common import machine, table, take_turns
from benchmarks.corpus.pictures import arguments, load
from glyphflow.corpus import Corpus
from glyphflow.corpus.ingest.shards import Item, open_plan, save_plan, write_shards
from glyphflow.corpus.tables import write_table


def corpus_of(place: Path, pictures: list[bytes], rows: int, per_shard: int = 1000) -> Corpus:
    """A corpus of ``rows`` rows that repeat ``pictures``."""
    corpus = Corpus.create(place / "corpus")
    plan = [range(start, min(start + per_shard, rows)) for start in range(0, rows, per_shard)]
    with corpus.writing("a measurement"):
        save_plan(corpus, "mine", open_plan(corpus, "mine", "folder", place))
        write_shards(
            corpus, "mine", "x", plan, len, lambda part: (Item(str(row), pictures[row % len(pictures)]) for row in part)
        )
    return corpus


def add_column(corpus: Corpus, score: np.ndarray, version: int) -> None:
    """What a stage does when it has its numbers."""
    mark, start = corpus.begin_stage("score", {"stage": "score", "version": version}), 0
    for shard in corpus.shards():
        ids = corpus.arrow(shard, ("id",)).column("id")
        values = {"id": ids, "score": score[start : start + len(ids)]}
        write_table(corpus.column_path("score", mark, shard), values, {"id": "string", "score": "float"})
        start += len(ids)


def read_above(corpus: Corpus, least: float) -> list[memoryview]:
    """The pictures whose score is at least ``least``."""
    places = []
    for shard in corpus.shards():
        passing = np.flatnonzero(corpus.arrow(shard, ("score",), "score").column("score").to_numpy() >= least)
        if len(passing):
            offsets, sizes = (each[passing].tolist() for each in corpus.places(shard))
            places += [(shard, offset, size) for offset, size in zip(offsets, sizes, strict=True)]
    return corpus.payloads(places)


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    pictures = load(given.folder, given.photos)
    score = np.random.default_rng(0).random(4000).astype(np.float32)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        corpus = corpus_of(place, pictures, len(score))
        tables = []
        for start in range(0, 4000, 1000):
            rows = pa.table(
                {"jpg": [pictures[row % 400] for row in range(start, start + 1000)], "score": score[start : start + 1000]}
            )
            pq.write_table(rows, place / f"{start}.parquet", row_group_size=100, compression="none")
            tables.append(place / f"{start}.parquet")
        pixels = {path: path.stat().st_mtime_ns for path in corpus.directory.glob("pixels/*")}
        version = iter(range(1_000_000))

        def rewrite() -> None:
            for path in tables:
                content = pq.read_table(path)
                pq.write_table(
                    content.append_column("more", content.column("score")), place / "new.parquet", row_group_size=100
                )

        def theirs(least: float) -> list[bytes]:
            found = []
            for path in tables:
                with pq.ParquetFile(path) as file:
                    for group in range(file.num_row_groups):
                        passing = pc.greater_equal(file.read_row_group(group, ["score"]).column("score"), least)
                        if pc.any(passing).as_py():
                            found += file.read_row_group(group, ["jpg"]).filter(passing).column("jpg").to_pylist()
            return found

        add_column(corpus, score, next(version))
        highest, high = (float(np.sort(score)[-count]) for count in (40, 400))
        assert sorted(map(bytes, read_above(corpus, highest))) == sorted(theirs(highest))
        index = [(shard, corpus.index(shard, ("offset", "size"))) for shard in corpus.shards()]
        picks = np.random.default_rng(1).integers(0, 4000, 200)

        def at_random() -> None:
            for pick in picks:
                shard, columns = index[pick // 1000]
                corpus.payload(shard, "photo", columns["offset"][pick % 1000], columns["size"][pick % 1000])

        times = take_turns(
            {
                "a score for 4,000 rows": lambda: add_column(corpus, score, next(version)),
                "the 1 % with the highest score (40)": lambda: read_above(corpus, highest),
                "the same, the first time in a process": lambda: read_above(Corpus.open(corpus.directory), highest),
                "the 10 % (400)": lambda: read_above(corpus, high),
                "200 at random, index in memory": at_random,
            },
            given.rounds,
        )
        others = take_turns({"add": rewrite, "1": lambda: theirs(highest), "10": lambda: theirs(high)}, 3)
        assert pixels == {path: path.stat().st_mtime_ns for path in pixels}, "pixels were rewritten"
        size = sum(path.stat().st_size for path in pixels)
        columns = sum(path.stat().st_size for path in corpus.directory.glob("columns/score@*/*")) / max(1, next(version))
        print(machine("pyarrow", "numpy"))
        print(f"\n{size / 1e6:.0f} MB of pictures, of which no byte was written again; a column is {columns / 1e3:.0f} KB.\n")
        rows = [(what, f"{1e3 * seconds:.2f}", "") for what, seconds in times.items()]
        theirs_ms = [f"{1e3 * others[name]:.0f}" for name in ("add", "1", "1", "10")] + ["-"]
        print(
            table(
                ("what", "ours, ms", "Parquet with pixels, ms"),
                [(a, b, c) for (a, b, _), c in zip(rows, theirs_ms, strict=True)],
            )
        )


if __name__ == "__main__":
    main()
