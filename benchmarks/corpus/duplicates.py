"""Near duplicates: `python -m benchmarks.corpus.duplicates [--photos DIR] [--hashes 5000000]`.

Speed: that many random 64-bit hashes and 1,000 planted copies 1 to 3 bits away; all pairs within 3 bits, on one core, CPU time.

Finding: the photographs of Debian's endless-sky-data (landscapes, scenes), mate-backgrounds (nature), lomiri-wallpapers-16.04
and -20.04 and ukui-wallpapers, installed or unpacked below --photos, once as they are, and four copies of each: halved, encoded
again at quality 40, 8 % of the width and height cut off at a random place, and that halved, too. A copy is found when it is
linked to its original. A false pair links two different originals or a copy with the original of another. Ways that were tried
stand beside the one that is used. (The other wallpapers hold one picture in several sizes or in dark and light, so what is a
false pair among them is a matter of taste.)
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.common import machine, table
from benchmarks.corpus.pictures import ENDINGS
from glyphflow.corpus.decode import decode_rgb
from glyphflow.corpus.operators.duplicates import near_pairs
from glyphflow.corpus.operators.kernels import pairs_within
from glyphflow.corpus.operators.measure import CROP_DISTANCE, HASH_DISTANCE, MIN_ENTROPY
from glyphflow.corpus.operators.metrics import CROPS, SHORT_SIDE, pixel_metrics

FOLDERS = (
    "endless-sky/images/land/*",
    "endless-sky/images/scene/*",
    "backgrounds/mate/nature/*",
    "lomiri-wallpapers*/**/backgrounds/*",
    "ukui-wallpapers/**/backgrounds/*",
)
Measured = dict[str, "np.ndarray"]


def speed(count: int) -> str:
    """Seconds of CPU for all pairs within 3 bits of ``count`` hashes."""
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**63, count, dtype=np.uint64) * np.uint64(2) + rng.integers(0, 2, count, dtype=np.uint64)
    for copy in range(1000):
        flips = np.bitwise_or.reduce(np.uint64(1) << rng.choice(64, 1 + copy % 3, replace=False).astype(np.uint64))
        hashes[count - 1 - copy] = hashes[copy] ^ flips
    near_pairs(hashes[:100], HASH_DISTANCE)  # compiles
    start = time.process_time()
    pairs = near_pairs(hashes, HASH_DISTANCE)
    seconds = time.process_time() - start
    planted = {(copy, count - 1 - copy) for copy in range(1000)}
    found = len(planted & {(int(a), int(b)) for a, b in pairs})
    return f"{count:,} hashes within {HASH_DISTANCE} bits: {seconds:.1f} s, {found} of 1,000 planted pairs, {len(pairs)} in all"


def comparisons(first: float, second: float, distance: int) -> float:
    """Pairs of ``first`` x ``second`` hashes that share one of ``distance`` + 1 bands, whose values are equally frequent."""
    bits = np.diff(64 * np.arange(distance + 2) // (distance + 1))
    return first * second * float((2.0**-bits).sum())


def window_speed(pictures: int) -> str:
    """Comparisons a second between the hashes of ``pictures`` and of their windows."""
    rng = np.random.default_rng(1)
    hashes, windows = (rng.integers(0, 2**64, count, dtype=np.uint64) for count in (pictures, pictures * CROPS))
    start = time.process_time()
    pairs_within(hashes, windows, CROP_DISTANCE, False)
    seconds = time.process_time() - start
    compared = comparisons(pictures, pictures * CROPS, CROP_DISTANCE)
    return f"windows of {pictures:,} pictures: {seconds:.1f} s, {compared / seconds / 1e6:,.0f} M comparisons a second"


def copies(path: Path, number: int) -> list[bytes]:
    """The original and its four copies as JPEGs."""
    rng = np.random.default_rng(number)
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    picture.thumbnail((1920, 1920))
    width, height = picture.size
    half = picture.resize((width // 2, height // 2), Image.Resampling.LANCZOS)
    size = round(0.92 * width), round(0.92 * height)
    left, top = (int(rng.integers(0, whole - part + 1)) for whole, part in zip(picture.size, size, strict=True))
    cut = picture.crop((left, top, left + size[0], top + size[1]))
    small = cut.resize((size[0] // 2, size[1] // 2), Image.Resampling.LANCZOS)
    return [_jpeg(each, quality) for each, quality in ((picture, 92), (half, 75), (picture, 40), (cut, 75), (small, 60))]


def _jpeg(picture: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def distances(rows: Sequence[Measured], others: Sequence[Measured], windows: Sequence[int]) -> np.ndarray:
    """Fewest bits between each of ``rows`` and ``others``: whole against whole, or against one of ``windows``, both ways."""
    whole, other = (np.array([each["phash"] for each in side], np.uint64) for side in (rows, others))
    found = np.bitwise_count(whole[:, None] ^ other[None, :])
    for window in windows:
        ours, theirs = (np.array([each["crops"][window] for each in side], np.uint64) for side in (rows, others))
        found = np.minimum(found, np.bitwise_count(ours[:, None] ^ other[None, :]))
        found = np.minimum(found, np.bitwise_count(whole[:, None] ^ theirs[None, :]))
    return found


def finding(photos: Path) -> str:
    """Recall of each kind of copy, and precision over all of them."""
    files = sorted(path for folder in FOLDERS for path in photos.rglob(folder) if path.suffix.lower() in ENDINGS)
    measured: list[list[Measured]] = []
    for number, path in enumerate(files):
        rows = [pixel_metrics(decode_rgb(data, short_side=SHORT_SIDE)) for data in copies(path, number)]
        if min(row["entropy"] for row in rows) >= MIN_ENTROPY:  # nearly flat ones are compared by their bytes only
            measured.append(
                [{"phash": np.uint64(row["phash"]), "crops": np.frombuffer(row["crop_phashes"], "<u8")} for row in rows]
            )
    nine = [row * 5 + column for row in (0, 2, 4) for column in (0, 2, 4)]
    ways: list[tuple[str, Callable[[np.ndarray, np.ndarray], np.ndarray]]] = []
    kinds = list(zip(*measured, strict=True))
    whole = [distances(kinds[0], kind, ()) for kind in kinds]
    some = [distances(kinds[0], kind, nine) for kind in kinds]
    every = [distances(kinds[0], kind, range(CROPS)) for kind in kinds]
    ways += [(f"hash alone, {limit} bits", lambda w, _s, _e, limit=limit: w <= limit) for limit in (3, 10, 16)]  # type: ignore[misc]
    ways += [(f"9 windows, {limit} bits", lambda w, s, _e, limit=limit: (w <= 3) | (s <= limit)) for limit in (5, 7)]  # type: ignore[misc]
    ways += [("25 windows, 3 bits", lambda w, _s, e: e <= 3)]  # type: ignore[list-item]
    used = f"25 windows, {CROP_DISTANCE} bits (used)"
    ways += [(used, lambda w, _s, e: (w <= HASH_DISTANCE) | (e <= CROP_DISTANCE))]  # type: ignore[list-item]
    ways += [("25 windows, 7 bits", lambda w, _s, e: (w <= 3) | (e <= 7))]  # type: ignore[list-item]
    lines = []
    for name, linked in ways:
        found = [linked(*each) for each in zip(whole, some, every, strict=True)]  # type: ignore[call-arg]
        right = [int(np.diag(each).sum()) for each in found[1:]]
        wrong = sum(int(each.sum() - np.diag(each).sum()) for each in found[1:]) + int(np.triu(found[0], 1).sum())
        recall = [f"{count / len(measured):.3f}" for count in right]
        lines.append((name, *recall, f"{sum(right) / max(1, sum(right) + wrong):.4f}", wrong))
    header = ("way", "halved", "re-encoded", "cut", "cut and halved", "precision", "false pairs")
    return f"{len(measured)} photographs of {len(files)}\n\n{table(header, lines)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, default=Path("/usr/share"))
    parser.add_argument("--hashes", type=int, default=5_000_000)
    given = parser.parse_args()
    print(machine("numba", "numpy"))
    print("\n" + speed(given.hashes) + "\n\n" + window_speed(given.hashes // 20) + "\n")
    print(finding(given.photos))


if __name__ == "__main__":
    main()
