"""How a picture pleases: four hand measures combined by a stated formula, or a user's head on a CLIP-like encoder.

No aesthetic predictor ships in a package. The hand measures (colourfulness, contrast, crispness, composition) say whether a
picture is vivid, clear and arranged; they know nothing of what it shows, and their score is named ``hand`` so that nobody takes
it for a learned one. :class:`Head` reads a LAION-style predictor when the user has its file and the encoder it was trained on.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glyphflow.core.errors import InputError
from glyphflow.core.hardware import require
from glyphflow.core.hashing import sha256_file
from glyphflow.perception.alignment import DualEncoder
from glyphflow.perception.packaged import check_picture

VERSION = 1
SHORT_SIDE = 512  # px: all measures are taken at this size
WEIGHTS = {"colourfulness": 0.3, "contrast": 0.2, "crispness": 0.3, "composition": 0.2}


@dataclass(frozen=True)
class Hand:
    """colourfulness: Hasler and Suesstrunk's M (0 grey, 33 moderate, 80 and more vivid). contrast: standard deviation of the
    luma, 0..0.5. crispness: logarithm (base 10) of 1 + the Laplacian's variance at 512 px (1 soft, 3 crisp). composition: 0..1,
    how near the centre of what stands out is to the middle or to a crossing of the thirds.

    score, 0..10: each measure brought to 0..1 (M / 80, contrast / 0.25, crispness / 3, composition as it is; at most 1), 10
    times their mean with the weights 0.3, 0.2, 0.3, 0.2.
    """

    colourfulness: float
    contrast: float
    crispness: float
    composition: float

    @property
    def score(self) -> float:
        """The formula above."""
        parts = {
            "colourfulness": self.colourfulness / 80,
            "contrast": self.contrast / 0.25,
            "crispness": self.crispness / 3,
            "composition": self.composition,
        }
        return 10 * sum(weight * min(1.0, parts[name]) for name, weight in WEIGHTS.items())


def by_hand(image: NDArray[np.uint8]) -> Hand:
    """Measure (H, W, 3) uint8 RGB."""
    check_picture(image)
    cv2 = require("cv2", "corpus")
    scale = SHORT_SIDE / min(image.shape[:2])
    if scale < 1:
        image = cv2.resize(np.ascontiguousarray(image), None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    red, green, blue = (image[..., channel].astype(np.float32) for channel in range(3))
    opponents = np.stack([red - green, (red + green) / 2 - blue])
    spread, away = opponents.std(axis=(1, 2)), opponents.mean(axis=(1, 2))
    gray = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    return Hand(
        colourfulness=float(np.hypot(*spread) + 0.3 * np.hypot(*away)),
        contrast=float(gray.std()) / 255,
        crispness=math.log10(1 + float(cv2.Laplacian(gray, cv2.CV_64F).var())),
        composition=_composition(cv2, image),
    )


# (y, x) that a subject is well placed at, in shares of the sides.
_PLACES = ((1 / 2, 1 / 2), (1 / 3, 1 / 3), (1 / 3, 2 / 3), (2 / 3, 1 / 3), (2 / 3, 2 / 3))


def _composition(cv2: ModuleType, image: NDArray[np.uint8]) -> float:
    """By what differs most in colour from the picture's mean (frequency-tuned salience, Achanta 2009)."""
    lab = cv2.cvtColor(cv2.resize(np.ascontiguousarray(image), (96, 96), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2LAB)
    values = cv2.GaussianBlur(lab, (0, 0), 2).astype(np.float32)
    salience = np.linalg.norm(values - values.mean(axis=(0, 1)), axis=2)
    if salience.max() < 2:  # units of CIELAB in bytes: nothing stands out
        return 0.0
    weight = np.maximum(0, salience - salience.max() / 2)
    places = (np.arange(96) + 0.5) / 96
    centre = np.array([weight.sum(axis=1) @ places, weight.sum(axis=0) @ places]) / weight.sum()
    nearest = min(float(np.hypot(*(centre - np.array(place)))) for place in _PLACES)
    return max(0.0, 1 - nearest / 0.25)


class Head:
    """A linear aesthetic head (LAION's predictors: a chain of linear layers without anything between) on a DualEncoder."""

    def __init__(self, file: Path | str, encoder: Path | str, device: str | None = "cpu") -> None:
        self._encoder = DualEncoder(encoder, device)
        self._layers = _linear_layers(Path(file))
        self.identity = f"head-{sha256_file(Path(file))[:8]}+{self._encoder.identity}"

    def prepare(self, image: NDArray[np.uint8]) -> dict[str, Tensor]:
        """The encoder's inputs for an (H, W, 3) uint8 RGB picture."""
        return self._encoder.prepare(image)

    def scores(self, prepared: Sequence[Mapping[str, Tensor]]) -> list[float]:
        """The predicted opinion (LAION's: 1..10) of each picture that :meth:`prepare` made ready."""
        vectors = torch.from_numpy(self._encoder.prepared_pictures(prepared))
        if vectors.shape[1] != self._layers[0][0].shape[1]:
            raise InputError(
                f"the head takes vectors of {self._layers[0][0].shape[1]} numbers, the encoder gives {vectors.shape[1]}; "
                "give the encoder that the head was trained on."
            )
        for weight, bias in self._layers:
            vectors = vectors @ weight.T + bias
        return [float(value) for value in vectors[:, 0]]


def _linear_layers(file: Path) -> list[tuple[Tensor, Tensor]]:
    """Weights (out, in) and biases of a state dict's linear layers, in the order of their names."""
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Mapping[str, Tensor] = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise many kinds on a damaged file
        raise InputError(f"{file} cannot be read as a head ({' '.join(str(error).split())[:200]}).") from error
    names = sorted(
        (name.removesuffix("weight") for name in state if name.endswith("weight")),
        key=lambda name: [int(part) if part.isdigit() else -1 for part in name.split(".")],
    )
    layers = [(state[f"{name}weight"].float(), state[f"{name}bias"].float()) for name in names if f"{name}bias" in state]
    chained = all(before[0].shape[0] == after[0].shape[1] for before, after in itertools.pairwise(layers))
    if not layers or not chained or layers[-1][0].shape[0] != 1 or any(weight.ndim != 2 for weight, _ in layers):
        raise InputError(f"{file} is no chain of linear layers that ends in one number; LAION's predictors are.")
    return layers
