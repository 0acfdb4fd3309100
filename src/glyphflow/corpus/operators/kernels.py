"""The inner loops of the cheap pass, compiled by numba (no compiler on the machine is needed) and cached on disk.

They release the interpreter lock, so threads run them side by side. Import this module where it is used: importing it costs a
few tenths of a second, and the first call on a new machine some seconds of compiling.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from glyphflow.core.hardware import require

F = TypeVar("F", bound=Callable[..., Any])

LOW = 8  # x 8: the lowest frequencies that a hash keeps


def compiled(function: F) -> F:
    """``function`` as machine code that is kept on disk and releases the interpreter lock."""
    return cast(F, require("numba", "corpus").njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})(function))


# -- pixels ---------------------------------------------------------------------------------------------------------------


@compiled
def gray_and_saturation(image: NDArray[np.uint8], gray: NDArray[np.uint8]) -> float:
    """Fill ``gray`` (H, W) with the luma (Rec. 601) of ``image`` (H, W, 3) and return the mean HSV saturation, 0..1."""
    height, width, _ = image.shape
    total: Any = 0.0
    for y in range(height):
        of_row: Any = np.float32(0)
        for x in range(width):
            red, green, blue = np.int32(image[y, x, 0]), np.int32(image[y, x, 1]), np.int32(image[y, x, 2])
            gray[y, x] = np.uint8((red * 9798 + green * 19235 + blue * 3735 + 16384) >> 15)
            high: Any = max(red, green, blue)
            of_row += np.float32(high - min(red, green, blue)) / np.float32(max(high, 1))
        total += of_row
    return float(total / (height * width))


@compiled
def shares(long: int, short: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """How ``long`` pixels fall on ``short`` cells: the first pixel of each cell, and (taps, short) weights that sum to 1."""
    step = long / short
    first = np.empty(short, np.int32)
    weights = np.zeros((int(np.ceil(step)) + 1, short), np.float32)
    for cell in range(short):
        start, end = cell * step, min((cell + 1) * step, float(long))
        first[cell] = int(start)
        for tap in range(len(weights)):
            pixel = int(start) + tap
            weights[tap, cell] = max(0.0, min(end, pixel + 1.0) - max(start, float(pixel))) / step
    return first, weights


@compiled
def shrink(gray: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
    """Average ``gray`` (H, W) over the areas of the smaller ``out`` (h, w), pixels on an edge in parts."""
    height, width = gray.shape
    rows, columns = out.shape
    top, of_row = shares(height, rows)
    left, of_column = shares(width, columns)
    band = np.zeros(width + len(of_column), np.float32)
    for y in range(rows):
        band[:] = 0
        for tap in range(len(of_row)):
            weight = of_row[tap, y]
            if weight > 0:
                source = gray[top[y] + tap]
                for x in range(width):
                    band[x] += weight * np.float32(source[x])
        row = out[y]
        row[:] = 0
        for tap in range(len(of_column)):
            weights = of_column[tap]
            for x in range(columns):
                row[x] += weights[x] * band[left[x] + tap]


@compiled
def structure(gray: NDArray[np.uint8], histogram: NDArray[np.int64]) -> tuple[float, float, float]:
    """Sum and sum of squares of the Laplacian and sum of |dx| + |dy| (Sobel) of ``gray`` (H, W); fills the histogram (256,).

    The border is mirrored without repeating the edge, as OpenCV does it.
    """
    height, width = gray.shape
    padded = np.empty((height + 2, width + 2), np.uint8)
    padded[1:-1, 1:-1] = gray
    padded[0, 1:-1] = gray[min(1, height - 1)]
    padded[-1, 1:-1] = gray[max(height - 2, 0)]
    padded[:, 0] = padded[:, min(2, width)]
    padded[:, -1] = padded[:, max(width - 1, 1)]
    total = squares = gradient = 0.0
    for y in range(1, height + 1):
        row_total, row_squares, row_gradient = np.int32(0), np.int64(0), np.int32(0)
        for x in range(1, width + 1):
            a, b, c = np.int32(padded[y - 1, x - 1]), np.int32(padded[y - 1, x]), np.int32(padded[y - 1, x + 1])
            d, e, f = np.int32(padded[y, x - 1]), np.int32(padded[y, x]), np.int32(padded[y, x + 1])
            g, h, i = np.int32(padded[y + 1, x - 1]), np.int32(padded[y + 1, x]), np.int32(padded[y + 1, x + 1])
            laplacian = b + d + f + h - 4 * e
            row_total += laplacian
            row_squares += laplacian * laplacian
            row_gradient += abs(c + 2 * f + i - a - 2 * d - g) + abs(g + 2 * h + i - a - 2 * b - c)
        total += row_total
        squares += row_squares
        gradient += row_gradient
        for x in range(width):
            histogram[gray[y - 1, x]] += 1
    return total, squares, gradient


@compiled
def fixed_scale(gray: NDArray[np.uint8], short_side: int) -> NDArray[np.uint8]:
    """``gray`` with its short side brought down to ``short_side``; a smaller picture stays (enlarging would read as blur)."""
    height, width = gray.shape
    short = min(height, width)
    if short <= short_side:
        return gray
    small = np.empty((max(1, round(height * short_side / short)), max(1, round(width * short_side / short))), np.float32)
    shrink(gray, small)
    rounded = np.empty(small.shape, np.uint8)
    for y in range(small.shape[0]):
        for x in range(small.shape[1]):
            rounded[y, x] = np.uint8(min(np.float32(255), small[y, x] + np.float32(0.5)))
    return rounded


# -- perceptual hashes ----------------------------------------------------------------------------------------------------


@compiled
def window_hashes(cells: NDArray[np.float32], size: int, waves: NDArray[np.float32], hashes: NDArray[np.uint64]) -> None:
    """The hash of every ``size`` x ``size`` window of ``cells`` (n, n) into ``hashes`` ((n - size + 1)^2,), row by row.

    A hash says which of the 8x8 lowest frequencies (``waves`` (8, size): the cosine basis) lie above their median. The mean is
    left out: it is far above the rest and would say nothing, so bit 0 is always 0.
    """
    steps = len(cells) - size + 1
    across = np.empty((len(cells), LOW), np.float32)
    low = np.empty(LOW * LOW, np.float32)
    for left in range(steps):
        across[:] = 0
        for y in range(len(cells)):
            for x in range(size):
                value = cells[y, left + x]
                for wave in range(LOW):
                    across[y, wave] += value * waves[wave, x]
        for top in range(steps):
            low[:] = 0
            for y in range(size):
                for down in range(LOW):
                    weight = waves[down, y]
                    for wave in range(LOW):
                        low[down * LOW + wave] += weight * across[top + y, wave]
            median = np.sort(low[1:])[LOW * LOW // 2 - 1]
            bits = np.uint64(0)
            for bit in range(1, LOW * LOW):
                if low[bit] > median:
                    bits |= np.uint64(1) << np.uint64(bit)
            hashes[top * steps + left] = bits


@compiled
def count_bits(value: np.uint64) -> int:
    """How many bits of a 64-bit ``value`` are set."""
    value -= (value >> np.uint64(1)) & np.uint64(0x5555555555555555)
    value = (value & np.uint64(0x3333333333333333)) + ((value >> np.uint64(2)) & np.uint64(0x3333333333333333))
    value = (value + (value >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return int((value * np.uint64(0x0101010101010101)) >> np.uint64(56))


@compiled
def by_band(hashes: NDArray[np.uint64], low: int, high: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of ``hashes`` ordered by their bits [low, high), and where each value of these bits starts (and the end)."""
    mask = np.uint64((1 << (high - low)) - 1)
    starts = np.zeros((1 << (high - low)) + 1, np.int64)
    for number in range(len(hashes)):
        starts[np.int64((hashes[number] >> np.uint64(low)) & mask) + 1] += 1
    starts = np.cumsum(starts)
    fill, order = starts.copy(), np.empty(len(hashes), np.int64)
    for number in range(len(hashes)):
        value = np.int64((hashes[number] >> np.uint64(low)) & mask)
        order[fill[value]] = number
        fill[value] += 1
    return order, starts


@compiled
def pairs_within(first: NDArray[np.uint64], second: NDArray[np.uint64], distance: int, same: bool) -> NDArray[np.int64]:
    """Pairs (i, j) with first[i] and second[j] at most ``distance`` bits apart, each once; with ``same``, only i < j.

    Two hashes ``distance`` bits apart agree in at least one of ``distance`` + 1 bands, so only hashes with an equal band are
    compared.
    """
    bands = distance + 1
    pairs, found = np.empty((1024, 2), np.int64), 0
    for band in range(bands):
        low, high = 64 * band // bands, 64 * (band + 1) // bands
        order, starts = by_band(first, low, high)
        others, other_starts = (order, starts) if same else by_band(second, low, high)
        ours, theirs = first[order], second[others]
        for value in range(len(starts) - 1):
            for one in range(starts[value], starts[value + 1]):
                for two in range(one + 1 if same else other_starts[value], other_starts[value + 1]):
                    differing = ours[one] ^ theirs[two]
                    if count_bits(differing) > distance:
                        continue
                    seen = False  # in an earlier band
                    for earlier in range(band):
                        start, end = 64 * earlier // bands, 64 * (earlier + 1) // bands
                        bits = (differing >> np.uint64(start)) & np.uint64((1 << (end - start)) - 1)
                        seen = seen or bits == np.uint64(0)
                    if seen:
                        continue
                    if found == len(pairs):
                        larger = np.empty((2 * found, 2), np.int64)
                        larger[:found] = pairs
                        pairs = larger
                    a, b = order[one], others[two]
                    pairs[found, 0] = min(a, b) if same else a
                    pairs[found, 1] = max(a, b) if same else b
                    found += 1
    return pairs[:found]


@compiled
def components(count: int, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each of ``count`` rows the smallest row that it is connected to by ``pairs`` (M, 2)."""
    parent = np.arange(count)
    for number in range(len(pairs)):
        ends = np.empty(2, np.int64)
        for end in range(2):
            row = pairs[number, end]
            while parent[row] != row:
                parent[row] = parent[parent[row]]
                row = parent[row]
            ends[end] = row
        parent[max(ends[0], ends[1])] = min(ends[0], ends[1])
    for row in range(count):  # a parent is never larger than its child
        parent[row] = parent[parent[row]]
    return parent


# -- headers --------------------------------------------------------------------------------------------------------------

WIDTH, HEIGHT, COMPONENTS, ORIENTATION, TABLE_SUM = range(5)  # columns of what jpeg_headers fills


@compiled
def jpeg_headers(
    data: NDArray[np.uint8], offsets: NDArray[np.int64], sizes: NDArray[np.int64], found: NDArray[np.int32]
) -> None:
    """Read the JPEG headers at ``offsets`` of ``data`` into ``found`` (n, 5); a row stays 0 where anything is unusual.

    Such rows are for a parser that knows more formats and gives reasons. ``TABLE_SUM`` is the sum of the luminance table.
    """
    for row in range(len(offsets)):
        start, end = offsets[row], min(offsets[row] + sizes[row], len(data))
        if start < 0 or end - start < 4 or data[start] != 0xFF or data[start + 1] != 0xD8:
            continue
        place, orientation, table_sum, other = start + 2, 0, 0, False
        while place + 4 <= end and data[place] == 0xFF:
            marker, size = data[place + 1], (np.int64(data[place + 2]) << 8) + data[place + 3]
            body, after = place + 4, place + 2 + size
            if marker < 0xC0 or 0xD0 <= marker <= 0xD9 or size < 2 or after > end:
                break
            if marker == 0xDB:  # quantisation tables
                while body + 65 <= after and data[body] < 16:
                    if data[body] == 0:
                        table_sum = 0
                        for value in range(64):
                            table_sum += data[body + 1 + value]
                    body += 65
                if body != after:
                    break
            elif marker == 0xE1:
                told = exif_orientation(data[body:after])
                if told < 0:
                    break
                orientation, other = max(orientation, told), other or size < 6 or data[body] != 69  # XMP can say it, too
            elif marker == 0xE2 and size >= 6 and data[body] == 77 and data[body + 1] == 80 and data[body + 2] == 70:
                break  # "MPF": several pictures in one file
            elif marker in (0xC0, 0xC1, 0xC2):
                components = data[body + 5] if size >= 8 else 0
                if orientation == 0 and other:
                    break
                if table_sum and data[body] == 8 and (components == 1 or components == 3 or components == 4):
                    found[row, HEIGHT] = (np.int32(data[body + 1]) << 8) + data[body + 2]
                    found[row, WIDTH] = (np.int32(data[body + 3]) << 8) + data[body + 4]
                    found[row, COMPONENTS], found[row, ORIENTATION] = components, max(1, orientation)
                    found[row, TABLE_SUM] = table_sum
                    if found[row, HEIGHT] == 0 or found[row, WIDTH] == 0:
                        found[row] = 0
                break
            place = after


@compiled
def exif_orientation(block: NDArray[np.uint8]) -> int:
    """EXIF orientation 1..8 in an APP1 segment's ``block``, 0 when it says none, -1 when it says it in an odd way."""
    if len(block) < 4 or block[0] != 69 or block[1] != 120 or block[2] != 105 or block[3] != 102:  # "Exif"
        return 0
    tiff = block[6:]
    if len(tiff) < 14 or tiff[0] != tiff[1] or (tiff[0] != 73 and tiff[0] != 77):  # "II" or "MM"
        return -1
    little = tiff[0] == 73
    directory = number(tiff, 4, 4, little)
    if directory + 2 > len(tiff):
        return -1
    for entry in range(number(tiff, directory, 2, little)):
        place = directory + 2 + 12 * entry
        if place + 12 > len(tiff):
            return -1
        if number(tiff, place, 2, little) == 0x0112:
            value = number(tiff, place + 8, 2, little)
            short = number(tiff, place + 2, 2, little) == 3 and number(tiff, place + 4, 4, little) == 1
            return value if short and 1 <= value <= 8 else -1
    return 0


@compiled
def number(data: NDArray[np.uint8], place: int, size: int, little: bool) -> int:
    """The unsigned number in ``size`` bytes at ``place``."""
    value = 0
    for step in range(size):
        value = (value << 8) + data[place + (size - 1 - step if little else step)]
    return value
