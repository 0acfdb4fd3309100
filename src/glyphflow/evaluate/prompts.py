"""Benchmarks of prompts: JSON lines with an id, the prompt, its language, the texts that must appear, and a seed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from glyphflow.core.errors import InputError
from glyphflow.core.hashing import fingerprint


@dataclass(frozen=True)
class Prompt:
    """One picture to ask for. ``targets`` are the texts that must appear, in reading order; ``id`` names the file."""

    id: str
    prompt: str
    language: str
    targets: tuple[str, ...]
    seed: int

    @classmethod
    def from_json(cls, row: dict[str, Any], origin: str) -> Prompt:
        """Read one row; a missing, unknown or wrongly typed field is an :class:`InputError` that names ``origin``."""
        kinds: dict[str, type] = {"id": str, "prompt": str, "language": str, "targets": list, "seed": int}
        if set(row) != set(kinds):
            raise InputError(f"{origin}: a prompt has the fields {sorted(kinds)}, but this one has {sorted(row)}.")
        for name, kind in kinds.items():
            if not isinstance(row[name], kind):
                raise InputError(f"{origin}: the field {name!r} must be a {kind.__name__}, not {row[name]!r}.")
        if not row["id"] or not all(char.isalnum() or char in "-_." for char in row["id"]) or row["id"].startswith("."):
            raise InputError(f"{origin}: the id {row['id']!r} names a file; use letters, digits, '-', '_' and '.' only.")
        targets = tuple(row["targets"])
        if not targets or not all(isinstance(target, str) and target.strip() for target in targets):
            raise InputError(f"{origin}: targets must be a list of texts that are not empty, not {row['targets']!r}.")
        return cls(row["id"], row["prompt"], row["language"], targets, row["seed"])

    def to_json(self) -> dict[str, Any]:
        """The row that :meth:`from_json` reads."""
        return {**asdict(self), "targets": list(self.targets)}


@dataclass(frozen=True)
class Benchmark:
    """A named list of prompts."""

    name: str
    prompts: tuple[Prompt, ...]

    @property
    def identity(self) -> str:
        """16 hexadecimal characters of the prompts' content: equal ones ask for the same pictures."""
        return prompts_identity(self.prompts)


def prompts_identity(prompts: Sequence[Prompt]) -> str:
    """Fingerprint of the rows themselves, whatever the file's formatting."""
    return fingerprint([prompt.to_json() for prompt in prompts])


def shipped() -> list[str]:
    """Names of the benchmarks that come with the package."""
    return sorted(entry.name.removesuffix(".jsonl") for entry in _data().iterdir() if entry.name.endswith(".jsonl"))


def load_benchmark(name_or_path: str | Path) -> Benchmark:
    """A shipped benchmark by name, or any ``.jsonl`` file by path."""
    path = Path(name_or_path)
    if str(name_or_path) in shipped():
        name, text = str(name_or_path), (_data() / f"{name_or_path}.jsonl").read_text(encoding="utf-8")
    elif path.is_file():
        name, text = path.stem, path.read_text(encoding="utf-8")
    else:
        raise InputError(f"There is no benchmark {str(name_or_path)!r}; shipped are {', '.join(shipped())}, or give a file.")
    prompts = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{name} line {number} is not JSON ({error}); every line holds one prompt.") from error
        if not isinstance(row, dict):
            raise InputError(f"{name} line {number} holds {row!r}; every line holds one prompt as a JSON object.")
        prompts.append(Prompt.from_json(row, f"{name} line {number}"))
    return Benchmark(name, unique(prompts, name))


def unique(prompts: Sequence[Prompt], origin: str) -> tuple[Prompt, ...]:
    """``prompts`` when there is at least one and no two share an id (also on disks that ignore case)."""
    if not prompts:
        raise InputError(f"{origin} holds no prompt; every line is one JSON object.")
    seen: set[str] = set()
    for prompt in prompts:
        if prompt.id.casefold() in seen:
            raise InputError(f"{origin} holds the id {prompt.id!r} twice; every picture needs its own.")
        seen.add(prompt.id.casefold())
    return tuple(prompts)


def _data() -> Any:
    return resources.files("glyphflow.evaluate") / "data"
