"""From options and files of prompts to a list of jobs: one picture (or one set of layers) each, checked before any work."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from glyphflow.cli.options import Output, parse_size
from glyphflow.cli.pictures import Asked, Verb
from glyphflow.core.config import Config, load_config
from glyphflow.core.errors import ConfigError, InputError, StorageError
from glyphflow.core.pictures import read_picture
from glyphflow.core.text import read_text, split_lines
from glyphflow.generate.directory import check_size


class Line(Config):
    """What a line of a .jsonl file may hold; what it leaves out is as on the command line. Files are relative to its folder."""

    prompt: str = ""
    negative: str | None = None
    seed: int | None = None
    count: int | None = None
    steps: int | None = None
    cfg: float | None = None
    size: str | None = None
    aspect: str | None = None
    strength: float | None = None
    image: str | list[str] | None = None
    mask: str | None = None
    control: str | list[str] | None = None


@dataclass(frozen=True)
class Job:
    """One thing to make. ``size`` is (width, height), ``inputs`` the files of the pictures that it is made from, by role."""

    path: Path
    prompt: str
    negative: str
    seed: int
    steps: int | None
    cfg: float | None
    size: tuple[int, int] | None
    aspect: str | None
    settings: dict[str, JsonValue]
    inputs: dict[str, Path]


def jobs(verb: Verb, asked: Asked) -> list[Job]:
    """Every job of the command line, in order. Mistakes raise :class:`InputError` before anything is opened or written."""
    found = [("", Line(prompt=line) if isinstance(line, str) else Line(**line)) for line in asked.lines]
    if asked.request.prompts is not None:
        found += _read(asked.request.prompts)
    _check_lines(verb, asked, found)
    wanted = [(where, line, n) for where, line in found for n in range(_count(asked, line, where))]
    paths = _paths(verb, asked.output, len(wanted))
    made = [_job(verb, asked, *each, path) for each, path in zip(wanted, paths, strict=True)]
    for inputs in {tuple(job.inputs.items()) for job in made}:
        check_inputs(dict(inputs))
    return made


def roles(verb: Verb, given: Mapping[str, list[Path]]) -> dict[str, Path]:
    """The files of ``given``, by the option's name, under the roles they play: "image", and "image 2" for a second one."""
    found: dict[str, Path] = {}
    for take in verb.takes:
        files = given.get(take.option, [])
        if len(files) > 1 and not take.several:
            raise InputError(f"glyphflow {verb.task} takes one {take.option} and there are {len(files)}; leave out the others.")
        found |= {take.role if n == 0 else f"{take.role} {n + 1}": path for n, path in enumerate(files)}
    return found


def check_inputs(inputs: Mapping[str, Path]) -> None:
    """Refuse pictures that cannot be read, and a mask of another size than its picture."""
    pictures = {role: read_picture(path) for role, path in inputs.items()}
    for mask, image in (("mask_image", "image"), ("control_mask", "control_image")):
        if mask in pictures and image in pictures and pictures[mask].size != pictures[image].size:
            (mask_size, size) = ("{}x{}".format(*pictures[role].size) for role in (mask, image))
            raise InputError(
                f"The mask {inputs[mask]} is {mask_size} and the picture {inputs[image]} is {size}; make them the same size."
            )


def check_writable(path: Path) -> None:
    """Refuse a place where no file can be made, without making one."""
    there = next(folder for folder in path.absolute().parents if folder.exists())
    if not there.is_dir():
        raise StorageError(f"{path} cannot be written: {there} is a file and no directory; choose another place with -o.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise StorageError(f"{path} cannot be written: {there} may not be written to; choose another place with -o.")


def _read(path: Path) -> list[tuple[str, Line]]:
    """The lines of a file of prompts, each with its place."""
    lines = split_lines(read_text(path))
    numbered = [(f"{path}, line {n}: ", line.strip()) for n, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise InputError(f"{path} holds no prompt; write one on each line.")
    if path.suffix.lower() != ".jsonl":
        return [(where, Line(prompt=text)) for where, text in numbered]
    return [(where, _parse(where, text, path.parent)) for where, text in numbered]


def _parse(where: str, text: str, folder: Path) -> Line:
    try:
        content = json.loads(text)
        if not isinstance(content, dict):
            raise InputError(f'{where}this is no JSON object; write one such as {{"prompt": "a sign", "seed": 3}}.')
        line = load_config(Line, content)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}this is no JSON ({error}).") from error
    except ConfigError as error:
        raise InputError(f"{where}{str(error).removeprefix('Line: ')}") from error
    inside = {name: [str(folder / file) for file in _files(line, name)] for name in ("image", "control") if _files(line, name)}
    mask = {} if line.mask is None else {"mask": str(folder / line.mask)}
    return line.model_copy(update={**inside, **mask})


def _files(line: Line, option: str) -> list[str]:
    given: str | list[str] | None = getattr(line, option)
    return [] if given is None else [given] if isinstance(given, str) else given


def _check_lines(verb: Verb, asked: Asked, lines: list[tuple[str, Line]]) -> None:
    if not lines:
        raise InputError(f"There is {'no prompt' if verb.prompted else 'no picture'}; try: {verb.example}")
    known = {take.option for take in verb.takes} | asked.settings.keys() | ({"size", "aspect"} if verb.size is None else set())
    for n, (where, line) in enumerate(lines, 1):
        for name in ("image", "mask", "control", "strength", "size", "aspect"):
            if getattr(line, name) is not None and name not in known:
                raise InputError(f"{where}glyphflow {verb.task} takes no {name}; leave it out.")
        if verb.prompted and not line.prompt.strip():
            raise InputError(f"{where or f'Prompt {n}: '}the prompt is empty; say what to draw.")


def _count(asked: Asked, line: Line, where: str) -> int:
    count: int = _first(line.count, asked.request.count, 1)
    if count < 1:
        raise InputError(f"{where}--count is {count}; it must be at least 1.")
    return count


def _job(verb: Verb, asked: Asked, where: str, line: Line, n: int, path: Path) -> Job:
    request = asked.request
    seed, steps = _first(line.seed, request.seed, 0) + n, _first(line.steps, request.steps, None)
    if not 0 <= seed < 2**63:
        raise InputError(f"{where}--seed is {seed}; it must be between 0 and {2**63 - 1}.")
    if steps is not None and steps < 1:
        raise InputError(f"{where}--steps is {steps}; it must be at least 1.")
    own = line.size is not None or line.aspect is not None
    size, aspect = (line.size, line.aspect) if own else (asked.size.size, asked.size.aspect)
    if size is not None and aspect is not None:
        raise InputError(f"{where}--size is {size} and --aspect is {aspect}; give one of the two.")
    pixels = None if size is None else parse_size(size)
    if pixels is not None:
        check_size(pixels[1], pixels[0])
    extra: dict[str, JsonValue] = {} if request.schedule is None else {"schedule": request.schedule}
    extra |= {} if line.strength is None else {"strength": line.strength}
    return Job(
        path,
        line.prompt,
        _first(line.negative, request.negative, ""),
        seed,
        steps,
        _first(line.cfg, request.cfg, None),
        pixels,
        aspect,
        {**asked.settings, **extra},
        _inputs(verb, asked, line, where),
    )


def _inputs(verb: Verb, asked: Asked, line: Line, where: str) -> dict[str, Path]:
    given = {name: [Path(file) for file in _files(line, name)] or asked.pictures.get(name, []) for name in _options(verb)}
    for take in verb.takes:
        if not (given[take.option] or take.optional):
            raise InputError(f"{where}glyphflow {verb.task} needs a picture; give it as {verb.named(take)}.")
    return roles(verb, given)


def _options(verb: Verb) -> Iterator[str]:
    return (take.option for take in verb.takes)


def _paths(verb: Verb, output: Output, count: int) -> list[Path]:
    """The file of every job: the one that -o names, or numbered ones in a directory."""
    ending = verb.formats.get(output.format or next(iter(verb.formats)))
    if ending is None:
        raise InputError(f"--format is {output.format}; it can be {', '.join(verb.formats)}.")
    out = output.out or Path("out" if count > 1 else f"out{ending}")
    if count == 1 and not _is_folder(verb, out):
        verb.check(out, "RGB")
        if output.format is not None and out.suffix.lower() != ending:
            raise InputError(f"--format is {output.format} and -o is {out}; leave one of the two out.")
        paths = [out]
    else:
        if out.suffix.lower() in set(verb.formats.values()) - {""} or out.is_file():
            raise InputError(f"{count} pictures need a directory, and -o is {out}; name a directory.")
        digits = max(3, len(str(count)))
        paths = [out / f"{n:0{digits}d}{ending}" for n in range(1, count + 1)]
    check_writable(paths[0])
    return paths


def _is_folder(verb: Verb, out: Path) -> bool:
    """Whether ``out`` means a directory for pictures; layers may be a directory themselves."""
    return "" not in verb.formats.values() and (out.is_dir() or not out.suffix)


def _first(*values: Any) -> Any:
    """The first of ``values`` that is given; the last one is the default."""
    return next((value for value in values[:-1] if value is not None), values[-1])
