"""Blind picture quality: how far a picture's local statistics are from those of good photographs.

A pixel minus its neighbourhood's mean, divided by the neighbourhood's deviation, is distributed alike in all good photographs
(nearly Gaussian, neighbours weakly dependent); blur, noise and compression bend the distribution in ways that 18 numbers at
each of two scales describe (BRISQUE, Mittal et al. 2012). Two scores read them:

- ``unnaturalness`` is the distance of the numbers from a Gaussian of good photographs (NIQE's formula, Mittal et al. 2013, over
  whole pictures instead of patches). The Gaussian is our own fit (``natural.json`` beside this file, which says of what), so no
  human opinion is in it. It needs nothing beyond OpenCV.
- ``brisque`` is the regression to human scores that the package brisque carries. The package itself cannot be a dependency (it
  wants a C compiler and downloads), its two files are read directly when it is installed without dependencies.
"""

from __future__ import annotations

import functools
import json
import math
import pickle
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glyphflow.core.errors import InputError
from glyphflow.core.hardware import require
from glyphflow.core.hashing import fingerprint
from glyphflow.perception.packaged import check_picture, named, package_file

SMALLEST = 32  # px a side: less holds too few pixels for statistics at half size
LONG_SIDE = 2048  # px: larger pictures are measured in their middle of this size, at full resolution
_WINDOW, _SIGMA = 7, 7 / 6
_GRAY = (0.2125, 0.7154, 0.0721)  # weights of red, green and blue (Rec. 709)

Features = NDArray[np.float64]


def features(image: NDArray[np.uint8]) -> Features | None:
    """The 36 BRISQUE features of (H, W, 3) uint8 RGB; None for pictures too small or too flat to have statistics."""
    check_picture(image)
    cv2 = require("cv2", "corpus")
    height, width = image.shape[:2]
    if min(height, width) < SMALLEST:
        return None
    top, left = max(0, height - LONG_SIDE) // 2, max(0, width - LONG_SIDE) // 2
    part = np.ascontiguousarray(image[top : top + LONG_SIDE, left : left + LONG_SIDE])
    gray = cv2.transform(part.astype(np.float32), np.array([_GRAY], np.float32) / np.float32(255))
    half = cv2.resize(gray, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_CUBIC)
    found = [value for scale in (gray, half) for value in _scale_features(cv2, scale)]
    return np.array(found) if np.isfinite(found).all() else None


def _scale_features(cv2: Any, gray_HW: NDArray[np.float32]) -> list[float]:
    """18 numbers: shape and variance of the normalised pixels; shape, mean and both variances of four neighbour products."""

    def blurred(values: NDArray[np.float32]) -> NDArray[np.float32]:
        result: NDArray[np.float32] = cv2.GaussianBlur(values, (_WINDOW, _WINDOW), _SIGMA, borderType=cv2.BORDER_CONSTANT)
        return result

    mean = blurred(gray_HW)
    deviation = np.sqrt(np.abs(blurred(gray_HW * gray_HW) - mean * mean))
    normal = (gray_HW - mean) / (deviation + np.float32(1 / 255))
    shape, _, left, right = _fit(normal)
    numbers = [shape, (left**2 + right**2) / 2]
    for product in (
        normal[:, :-1] * normal[:, 1:],
        normal[:-1] * normal[1:],
        normal[:-1, :-1] * normal[1:, 1:],
        normal[1:, :-1] * normal[:-1, 1:],
    ):
        shape, middle, left, right = _fit(product)
        numbers += [shape, middle, left**2, right**2]
    return numbers


def _fit(values: NDArray[np.float32]) -> tuple[float, float, float, float]:
    """Shape, mean, left and right deviation of the asymmetric generalised Gaussian with the moments of ``values``."""
    squares = values * values
    negative = values < 0
    below = int(np.count_nonzero(negative))
    total = float(np.sum(squares, dtype=np.float64))
    left_sum = float(np.sum(squares, where=negative, dtype=np.float64))
    if not below or below == values.size or not left_sum or left_sum == total:
        return math.nan, math.nan, math.nan, math.nan
    left, right = math.sqrt(left_sum / below), math.sqrt((total - left_sum) / (values.size - below))
    ratio = left / right
    spread = float(np.abs(values).mean(dtype=np.float64)) ** 2 / (total / values.size)
    wanted = spread * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    shapes, spreads = _spreads()
    shape = float(np.interp(wanted, spreads, shapes))
    first, second, third = (math.gamma(order / shape) for order in (1, 2, 3))
    return shape, (right - left) * math.sqrt(first / third) * second / first, left, right


@functools.cache
def _spreads() -> tuple[Features, Features]:
    """Shapes of the generalised Gaussian and (E|x|)^2 / E[x^2] of each, which grows with the shape."""
    shapes = np.exp(np.linspace(math.log(0.15), math.log(12.0), 4096))
    log = [2 * math.lgamma(2 / shape) - math.lgamma(1 / shape) - math.lgamma(3 / shape) for shape in shapes]
    return shapes, np.exp(np.array(log))


class Natural:
    """How unnatural a picture's statistics are, against good photographs: those of ``natural.json``, or ``told``."""

    def __init__(self, told: Mapping[str, Any] | None = None) -> None:
        told = told or json.loads((resources.files("glyphflow.perception") / "natural.json").read_text(encoding="utf-8"))
        self._mean = np.array(told["mean"])
        self._inverse = np.linalg.inv(np.array(told["covariance"]))
        self.identity = f"brisque-features1+natural-{fingerprint(dict(told))[:8]}"

    def distance(self, found: Features) -> float:
        """Of 36 features: 3 to 8 for good photographs, 10 for visible and 15 for strong blur, noise or compression."""
        away = _spread_out(found) - self._mean
        return math.sqrt(max(0.0, float(away @ self._inverse @ away)))


def fit_natural(found: NDArray[np.float64]) -> dict[str, Any]:
    """Mean and covariance of the (N, 36) features of N good photographs, as ``natural.json`` holds them."""
    values = np.array([_spread_out(row) for row in found])
    covariance = np.cov(values.T) + 1e-3 * np.eye(values.shape[1])  # directions that photographs hardly vary in count little
    return {"mean": values.mean(0).round(5).tolist(), "covariance": covariance.round(5).tolist()}


def _spread_out(found: Features) -> Features:
    """Features with the shapes and variances as logarithms: they are positive, and their ratios matter."""
    logs = np.log(np.maximum(np.abs(found), 1e-6))
    means = np.zeros(18, bool)
    means[3::4] = True
    return np.where(np.tile(means, 2), found * 10, logs)


class Brisque:
    """The score of the package brisque (0 good .. 100 bad, now and then beyond), from its own support vectors."""

    INSTALL = "pip install --no-deps brisque==0.2.0"

    def __init__(self) -> None:
        vectors = package_file("brisque", "models/svm.txt", self.INSTALL)
        ranges = package_file("brisque", "models/normalize.pickle", self.INSTALL)
        self._gamma, self._rho, self._weights, self._support = read_regression(vectors)
        with ranges.open("rb") as file:
            told = _PlainUnpickler(file).load()
        self._low, self._high = np.array(told["min_"], float), np.array(told["max_"], float)
        self.identity = f"brisque-features1+{named(vectors, 'brisque')}"

    def score(self, found: Features) -> float:
        """Of 36 features."""
        scaled = -1 + 2 * (found - self._low) / (self._high - self._low)
        kernel = np.exp(-self._gamma * ((self._support - scaled) ** 2).sum(1))
        return float(self._weights @ kernel - self._rho)


class _PlainUnpickler(pickle.Unpickler):
    """Reads lists, dictionaries and numbers, and refuses everything that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        raise InputError(f"the ranges of brisque hold {module}.{name} instead of numbers; run: {Brisque.INSTALL}")


def read_regression(path: Path) -> tuple[float, float, Features, NDArray[np.float64]]:
    """gamma, rho, weights (n,) and support vectors (n, features) of a libsvm regression file with an RBF kernel."""
    head, _, body = path.read_text(encoding="ascii").partition("\nSV\n")
    told = dict(line.split(" ", 1) for line in head.splitlines())
    if told.get("svm_type") != "epsilon_svr" or told.get("kernel_type") != "rbf":
        raise InputError(f"{path} is no libsvm regression with an RBF kernel; run: {Brisque.INSTALL}")
    rows = [line.split() for line in body.splitlines() if line.strip()]
    weights = np.array([float(row[0]) for row in rows])
    support = np.zeros((len(rows), max(int(pair.split(":")[0]) for row in rows for pair in row[1:])))
    for number, row in enumerate(rows):
        for pair in row[1:]:  # what is left out is 0
            place, value = pair.split(":")
            support[number, int(place) - 1] = float(value)
    return float(told["gamma"]), float(told["rho"]), weights, support
