"""The folder in which making pictures and scoring them meet.

manifest.json           which benchmark, which model, which settings
prompts.jsonl           the prompts, when they are the user's own and no benchmark's
<sample>.png            the pictures; <sample>_<repeat>.png where a sample has several (others' may be in other formats)
failures.jsonl          pictures that could not be made, and why
ceiling/                the same texts perfectly typeset, or the samples perfectly drawn (written by scoring)
verdicts.jsonl          every question to a judge and its answer, word for word
scores.json             the result

A folder that somebody else filled needs the pictures and a manifest.json with format, benchmark and model only.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Mapping, Sequence
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
SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".webp", ".avif", ".bmp", ".tif", ".tiff", ".gif", ".jfif", ".jpe", ".jp2", ".heic", ".heif"),
)
"""Of pictures that are scored, in small letters or capitals; of several of one name the first of these counts."""


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
    if not (limit.isascii() and limit.isdecimal()) or len(limit) > 9:
        raise InputError(f"{path} limits the benchmark to {limit!r}; the limit is a number of samples.")
    benchmark = {name: str(value) for name, value in benchmark.items()}
    settings = data.get("settings") or {}
    if not isinstance(settings, dict):
        raise InputError(f"{path} holds the settings {settings!r}; they are names with values, or absent.")
    return Manifest(benchmark, str(data.get("model", "unknown")), settings)


class Pictures:
    """The pictures in a folder by the names that a benchmark gives them, which are read from the disk once.

    A name is found whatever the case of its letters and of its ending, and in either form of its accents (macOS writes them
    apart). Of several files of one name, the very one that was asked for counts, else the first format of :data:`SUFFIXES`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, list[Path]] = {}
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith("."):
                self._files.setdefault(_plain(path.stem), []).append(path)

    def find(self, name: str) -> Path:
        """The file of the picture ``name`` ("a.png"), in whichever format; where there is none, its path as it would be."""
        path = self.folder / name
        found = self._files.get(_plain(path.stem), [])
        return min(
            found,
            key=lambda file: (file.name != name, file.stem != path.stem, SUFFIXES.index(file.suffix.lower())),
            default=path,
        )

    def beside(self, taken: Collection[Path]) -> dict[str, str]:
        """The pictures that none of ``taken`` is, by name, and why."""
        chosen = {_plain(path.stem): path.name for path in taken}
        found: dict[str, str] = {}
        for stem, files in self._files.items():
            why = f"{chosen[stem]} was taken" if stem in chosen else "no sample has this name"
            found |= {path.name: why for path in files if path.name != chosen.get(stem)}
        return found


def find_picture(path: Path) -> Path:
    """:meth:`Pictures.find` of one picture."""
    return Pictures(path.parent).find(path.name)


def _plain(stem: str) -> str:
    return unicodedata.normalize("NFC", stem).casefold()


def tally(taken: int, missing: Sequence[str], left: Mapping[str, str]) -> str:
    """In one sentence how many pictures were taken, which are missing, and which were left out and why."""
    parts = [f"{taken} of {taken + len(missing)} pictures were there"]
    if missing:
        parts.append(f"{len(missing)} missing ({_some(missing)})")
    reasons: dict[str, list[str]] = {}
    for name, why in left.items():
        reasons.setdefault("another format was taken" if why.endswith("was taken") else why, []).append(name)
    parts += [f"{len(names)} left out because {why} ({_some(names)})" for why, names in reasons.items()]
    return "; ".join(parts)


def _some(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def load_picture(path: Path) -> NDArray[np.uint8]:
    """The picture as (H, W, 3) uint8 RGB; a missing or broken file is an :class:`InputError`."""
    if not path.exists():
        raise InputError(f"{path} is missing; run `glyphflow evaluate sample` again to make it.")
    return np.asarray(read_rgb(path))
