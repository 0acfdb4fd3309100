"""Making the pictures of a benchmark, one PNG each, in a folder with a manifest; finished ones are not made again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from glyphflow.core.errors import ConfigError, InputError
from glyphflow.core.files import atomic_path, exclusive, storage_errors
from glyphflow.core.hashing import fingerprint
from glyphflow.core.progress import Progress
from glyphflow.core.text import read_lines, whole_characters
from glyphflow.evaluate.benchmark import Benchmark, Excerpt, Sample, Task, picture_name
from glyphflow.evaluate.benchmarks import load_benchmark
from glyphflow.evaluate.benchmarks.texts import TextBenchmark
from glyphflow.evaluate.folder import PROMPTS, Manifest, read_manifest, write_manifest


class NotMade(Exception):
    """A maker could not make one picture (it was refused, say); the others may still be made."""


class Maker(Protocol):
    """Anything that makes pictures."""

    @property
    def identity(self) -> str:
        """Names the model: the hash of its weights, or who offers it under which name."""
        ...

    def settings(self, task: Task) -> Mapping[str, Any]:
        """Everything else that decides the pixels and is the same for all pictures of a benchmark."""
        ...

    def __call__(self, sample: Sample, prompt: str, seed: int, task: Task, path: Path) -> None:
        """Make the picture of ``sample`` and write it to ``path`` as PNG, or raise :class:`NotMade`."""
        ...


def sample(
    maker: Maker, benchmark: Benchmark, folder: Path, *, source: Path | None = None, rewritten: Mapping[str, str] | None = None
) -> Manifest:
    """Make every picture of ``benchmark`` that ``folder`` does not hold yet, each from its own seed.

    ``source`` is the file of prompts of a benchmark that is one (it is kept with the pictures). ``rewritten`` holds other
    prompts by sample id; that is recorded, because it moves scores by points. What could not be made is a line in
    failures.jsonl, and is tried again by the next run. A folder begun with another model, prompts or settings raises
    :class:`ConfigError` with both values.
    """
    settings: dict[str, Any] = dict(maker.settings(benchmark.task))
    if rewritten is not None:
        missing = [entry.id for entry in benchmark.samples() if entry.id not in rewritten]
        if missing:
            raise ConfigError(f"{len(missing)} samples of {benchmark.name} have no rewritten prompt, {missing[0]} for one.")
        settings["rewritten_prompts"] = fingerprint(dict(rewritten))
    manifest = Manifest(benchmark.identity, maker.identity, settings)
    _keep_apart(benchmark, folder)
    with exclusive(folder, "sampling"):
        write_manifest(folder, manifest)
        if source is not None:
            with atomic_path(folder / PROMPTS) as path:
                shutil.copyfile(source, path)
        wanted = [(entry, repeat) for entry in benchmark.samples() for repeat in range(benchmark.repeats)]
        paths = [folder / picture_name(entry.id, repeat, benchmark.repeats) for entry, repeat in wanted]
        todo = [(*pair, path) for pair, path in zip(wanted, paths, strict=True) if not is_whole(path)]
        (folder / "failures.jsonl").unlink(missing_ok=True)
        with Progress("sample", total=len(wanted), unit="img", initial=len(wanted) - len(todo)) as progress:
            for entry, repeat, path in todo:
                prompt = entry.prompt if rewritten is None else rewritten[entry.id]
                try:
                    maker(entry, prompt, entry.seed(repeat), benchmark.task, path)
                except NotMade as error:
                    row = {"id": entry.id, "repeat": repeat, "reason": whole_characters(str(error))}
                    path = folder / "failures.jsonl"
                    with storage_errors(path), path.open("a", encoding="utf-8", newline="\n") as file:
                        file.write(json.dumps(row, ensure_ascii=False) + "\n")
                progress.advance()
    return manifest


def is_whole(path: Path) -> bool:
    """Whether a PNG that was made lies at ``path``, from its first to its last bytes: a cut copy of one is made again."""
    try:
        with path.open("rb") as file:
            begins = file.read(8) == b"\x89PNG\r\n\x1a\n"
            file.seek(-12, os.SEEK_END)
            return begins and file.read(12)[4:8] == b"IEND"
    except OSError:
        return False


def _keep_apart(benchmark: Benchmark, folder: Path) -> None:
    """Refuse a folder that holds the pictures which a model is given: they would be taken for its own, or overwritten."""
    for entry in benchmark.samples():
        for reference in entry.references:
            if reference.resolve().parent == folder.resolve():
                raise ConfigError(f"{folder} holds {reference.name}, which {benchmark.name} starts from; choose another --out.")


def not_made(folder: Path) -> int:
    """How many pictures the last run could not make."""
    path = folder / "failures.jsonl"
    return len(read_lines(path)) if path.exists() else 0


def benchmark_of(folder: Path, data: Path | None = None) -> Benchmark:
    """The benchmark that the pictures in ``folder`` belong to; ``data`` as for :func:`load_benchmark`."""
    manifest = read_manifest(folder)
    name, limit = manifest.name, manifest.limit
    if (folder / PROMPTS).exists():
        prompts = TextBenchmark(folder / PROMPTS, name)
        return prompts if limit is None else Excerpt(prompts, limit)
    try:
        return load_benchmark(name, data, limit)
    except InputError as error:
        raise InputError(f"{folder} holds pictures of {name}, which cannot be scored: {error}") from error
