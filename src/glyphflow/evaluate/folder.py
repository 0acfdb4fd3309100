"""The folder in which making pictures and scoring them meet.

manifest.json           which benchmark, which model, which settings
prompts.jsonl           the prompts, when they are the user's own and no benchmark's
<sample>.png            the pictures; <sample>_<repeat>.png where a sample has several (others' may be .jpg, .jpeg, .webp)
failures.jsonl          pictures that could not be made, and why
ceiling/                the same texts perfectly typeset, or the samples perfectly drawn (written by scoring)
verdicts.jsonl          every question to a judge and its answer, word for word
scores.json             the result

A folder that somebody else filled needs the pictures and a manifest.json with format, benchmark and model only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glyphflow.core.errors import ConfigError, InputError
from glyphflow.core.files import read_json, write_json
from glyphflow.core.pictures import read_rgb

FORMAT = 2
PROMPTS = "prompts.jsonl"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
"""Of pictures that are scored, the first that is there; those that are made here are PNG."""


@dataclass(frozen=True)
class Manifest:
    """What a folder of pictures claims to be.

    ``benchmark`` holds at least its name, of an excerpt its limit, and where it is known version, licence and data_sha256.
    ``model`` is the hash of the weights, or any name of who made the pictures.
    """

    benchmark: Mapping[str, str]
    model: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The benchmark's name."""
        return self.benchmark["name"]

    @property
    def limit(self) -> int | None:
        """How many samples of the benchmark the pictures are for; None for all."""
        return int(self.benchmark["limit"]) if "limit" in self.benchmark else None

    def to_json(self) -> dict[str, Any]:
        """The content of manifest.json."""
        return {"format": FORMAT, "benchmark": dict(self.benchmark), "model": self.model, "settings": dict(self.settings)}

    def check_same(self, other: Manifest, path: Path) -> None:
        """Refuse to mix two runs in one folder: :class:`ConfigError` names the first setting that differs, with both values."""
        old, new = self._claims(), other._claims()
        for name in sorted(old.keys() | new.keys(), key=lambda name: (name.endswith("sha256"), name)):  # hashes say least
            if old.get(name) != new.get(name):
                raise ConfigError(
                    f"{path} was begun with {name} = {old.get(name)}, now it is {new.get(name)}; "
                    "keep the setting or choose another folder."
                )

    def check_benchmark(self, identity: Mapping[str, str], path: Path) -> None:
        """Refuse to score pictures of other prompts, or of another version, than ``identity`` (a benchmark's)."""
        for name in ("name", "version", "data_sha256"):
            mine = self.benchmark.get(name, identity[name])
            if mine != identity[name]:
                raise ConfigError(
                    f"The pictures in {path} were made for {self.name} with {name} {mine}, but this one has {identity[name]}; "
                    "score them with that one, or make them again."
                )

    def _claims(self) -> dict[str, Any]:
        return {**{f"benchmark {name}": value for name, value in self.benchmark.items()}, "model": self.model, **self.settings}


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write manifest.json, or check that the one already there says the same."""
    path = folder / "manifest.json"
    if path.exists():
        read_manifest(folder).check_same(manifest, folder)
    else:
        write_json(path, manifest.to_json())


def read_manifest(folder: Path) -> Manifest:
    """Read manifest.json; ``settings`` may be absent when somebody else made the pictures, and a benchmark may be its name."""
    path = folder / "manifest.json"
    data = read_json(path)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        found = data.get("format") if isinstance(data, dict) else None
        raise InputError(f"{path} has format {found!r}, this version reads {FORMAT}; make the pictures again, or write that.")
    benchmark = data.get("benchmark")
    if isinstance(benchmark, str):
        benchmark = {"name": benchmark}
    if not isinstance(benchmark, dict) or not isinstance(benchmark.get("name"), str):
        raise InputError(f"{path} names no benchmark; it needs format, benchmark and model.")
    limit = str(benchmark.get("limit", 1))
    if not limit.isdecimal():
        raise InputError(f"{path} limits the benchmark to {limit!r}; the limit is a number of samples.")
    benchmark = {name: str(value) for name, value in benchmark.items()}
    return Manifest(benchmark, str(data.get("model", "unknown")), dict(data.get("settings") or {}))


def find_picture(path: Path) -> Path:
    """``path``, or the picture of that name in another format where only that is there."""
    found = (other for other in map(path.with_suffix, SUFFIXES) if other.is_file())
    return path if path.is_file() else next(found, path)


def load_picture(path: Path) -> NDArray[np.uint8]:
    """The picture as (H, W, 3) uint8 RGB; a missing or broken file is an :class:`InputError`."""
    if not path.exists():
        raise InputError(f"{path} is missing; run `glyphflow evaluate sample` again to make it.")
    return np.asarray(read_rgb(path))
