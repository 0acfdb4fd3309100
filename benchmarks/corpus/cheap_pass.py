"""From bytes to columns: `python -m benchmarks.corpus.cheap_pass FOLDER [--photos DIR] [--cleanvision PYTHON] [--rounds 3]`.

All sides see the same JPEGs (benchmarks/corpus/pictures.py) and take turns; given is the median CPU time of one thread:

* ours: header, one strict scaled decode, six metrics, the perceptual hash and 25 window hashes of every picture, as columns
* the bound: the same scaled decode and nothing else
* usual: six filters that each open and decode the picture with Pillow, numpy, scikit-image and OpenCV (a tenth of the pictures)
* cleanvision with its defaults (one process), in the environment whose Python is given; its CPU time includes no import

The runner is timed on a corpus of these pictures, reading and tables included: with one thread, with two, and two processes
that share nothing, which shows what two cores of this machine give at best (wall time, in turn, fastest). The header stage runs
on a corpus of 4,000 rows.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from benchmarks.common import Clock, machine, table, take_turns
from benchmarks.corpus.pictures import arguments, load
from benchmarks.corpus.storage import corpus_of
from glyphflow.corpus import Corpus
from glyphflow.corpus.decode import decode_rgb
from glyphflow.corpus.operators.metrics import SHORT_SIDE, pixel_metrics
from glyphflow.corpus.runner.stage import run

CLEANVISION = """
import json, sys, time
from cleanvision import Imagelab
import contextlib, io
lab = Imagelab(data_path=sys.argv[1])
start = time.process_time()
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    lab.find_issues(n_jobs=1, verbose=False)
print(json.dumps(time.process_time() - start))
"""


def ours(data: bytes) -> dict[str, object]:
    return pixel_metrics(decode_rgb(data, short_side=SHORT_SIDE))


def bound(data: bytes) -> object:
    return simplejpeg.decode_jpeg(data, "RGB", min_height=SHORT_SIDE, min_width=SHORT_SIDE)


def usual(path: Path) -> list[float]:
    from skimage.measure import shannon_entropy

    def opened(mode: str) -> np.ndarray:
        with Image.open(path) as picture:
            return np.asarray(picture.convert(mode))

    gray = opened("L").astype(np.uint8)
    hashed = cv2.dct(cv2.resize(opened("L"), (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32))[:8, :8]
    return [
        float(cv2.Laplacian(opened("L"), cv2.CV_64F).var()),
        float(opened("RGB").astype(np.float64).mean()),
        float(opened("HSV")[..., 1].mean()),
        float(shannon_entropy(opened("L"))),
        float(np.abs(cv2.Sobel(gray, cv2.CV_64F, 1, 0)).mean()),
        float((hashed > np.median(hashed)).sum()),
    ]


def rows_a_second(corpus: Corpus, stage: str, workers: int, clock: Clock) -> float:
    """Of one run of ``stage`` over all of ``corpus``."""
    for path in corpus.directory.glob(f"columns/{stage}@*/*.parquet"):
        path.unlink()
    start = clock()
    rows = run(corpus, stage, workers=workers)
    return rows / (clock() - start)


def two_processes(pictures: list[bytes], pool: Any) -> float:
    """Pictures a second of wall time when each of two processes does half of them."""
    start = time.perf_counter()
    pool.map(_half, (0, 1), chunksize=1)
    return len(pictures) / (time.perf_counter() - start)


_PICTURES: list[bytes] = []


def _half(which: int) -> None:
    for data in _PICTURES[which::2]:
        ours(data)


def cleanvision(python: Path, folder: Path) -> float:
    """CPU seconds of its defaults over the pictures of ``folder``."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(python), "-c", CLEANVISION, str(folder)], capture_output=True, text=True, check=True, env=environment
    )
    return float(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--cleanvision", type=Path, help="the Python of an environment that has cleanvision")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    cv2.setNumThreads(1)
    pictures = load(given.folder, given.photos)
    some = sorted(given.folder.glob("*.jpg"))[:: max(1, len(pictures) // 40)]
    works = {
        "ours": lambda: [ours(data) for data in pictures],
        "the bound: scaled decode alone": lambda: [bound(data) for data in pictures],
        f"six filters the usual way ({len(some)} pictures)": lambda: [usual(path) for path in some],
    }
    times = take_turns(works, given.rounds, time.process_time)
    rates = {name: (len(some) if "usual" in name else len(pictures)) / seconds for name, seconds in times.items()}
    if given.cleanvision:
        rates["cleanvision, its defaults"] = len(pictures) / min(cleanvision(given.cleanvision, given.folder) for _ in range(2))
    print(machine("simplejpeg", "numba", "opencv-python-headless", "pillow"))
    print()
    print(
        table(
            ("what", "pictures/s/core", "ours is"),
            [(name, f"{rate:.0f}", f"{rates['ours'] / rate:.2f}x") for name, rate in rates.items()],
        )
    )
    _PICTURES[:] = pictures
    with tempfile.TemporaryDirectory() as place, multiprocessing.get_context("fork").Pool(2) as pool:
        corpus = corpus_of(Path(place), pictures, len(pictures))
        rates = {"one thread": 0.0, "two threads": 0.0, "two processes that share nothing": 0.0}
        for _ in range(given.rounds + 1):
            found = [rows_a_second(corpus, "pixels", workers, time.perf_counter) for workers in (1, 2)]
            found.append(two_processes(pictures, pool))
            rates = {name: max(rate, new) for (name, rate), new in zip(rates.items(), found, strict=True)}
    first = rates["one thread"]
    print()
    print(
        table(
            ("the runner, wall time", "pictures/s", "beside one"),
            [(n, f"{r:.0f}", f"{r / first:.2f}x") for n, r in rates.items()],
        )
    )
    with tempfile.TemporaryDirectory() as place:
        corpus = corpus_of(Path(place), pictures, 4000)
        headers = sorted(rows_a_second(corpus, "header", 1, time.process_time) for _ in range(3 * given.rounds))
        middle = headers[len(headers) // 2]
        print(f"\nHeader stage: {middle:,.0f} rows/s of CPU time (fastest {headers[-1]:,.0f}), tables included")


if __name__ == "__main__":
    main()
