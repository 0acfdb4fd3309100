"""Small pictures with captions, made when they are loaded: a corpus selection without a corpus."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw

from glyphflow.core.errors import InputError


@dataclass(frozen=True)
class TinyRecord:
    id: str
    image: np.ndarray
    captions: dict[str, str]


@dataclass
class TinySelection:
    """``count`` pictures of a number on a coloured ground, every second one twice as wide; ``broken`` cannot be read."""

    count: int
    size: tuple[int, int] = (64, 64)
    broken: tuple[int, ...] = ()
    loads: list[int] = field(default_factory=list)

    @property
    def ids(self) -> list[str]:
        return [f"number-{i:03d}" for i in range(self.count)]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        return [self.size if i % 2 == 0 else (self.size[0] * 2, self.size[1]) for i in range(self.count)]

    def __len__(self) -> int:
        return self.count

    def load(self, index: int) -> TinyRecord:
        self.loads.append(index)
        if index in self.broken:
            raise InputError(f"Record {self.ids[index]} cannot be decoded.")
        rng = np.random.default_rng(index)
        picture = Image.new("RGB", self.sizes[index], tuple(int(v) for v in rng.integers(0, 256, 3)))
        ImageDraw.Draw(picture).text((8, 16), str(index), fill="white", font_size=32)
        captions = {"en": f'the number "{index}" in white', "zh": f"白色数字“{index}”"}
        return TinyRecord(self.ids[index], np.asarray(picture), captions if index % 3 else {"en": captions["en"]})
