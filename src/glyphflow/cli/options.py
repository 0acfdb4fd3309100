"""The options that verbs of the generator share, each declared once.

A verb's function takes whole groups of them, which are dataclasses; :func:`command` makes every field an option of the verb.
"""

from __future__ import annotations

import glob
import inspect
import os
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from glyphflow.core.errors import InputError
from glyphflow.core.files import kind_of
from glyphflow.core.numbers import checked

DTYPES = ("float32", "bfloat16", "float16")

Prompts = Annotated[list[str] | None, typer.Argument(metavar="PROMPT", help="What to draw; several make several pictures.")]
Images = Annotated[
    list[Path] | None, typer.Option("-i", "--image", help="A picture to start from; more may follow it, as in -i *.png.")
]
Image = Annotated[list[Path] | None, typer.Option("-i", "--image", help="The picture to start from.")]
Mask = Annotated[
    list[Path] | None,
    typer.Option("--mask", help="A picture of the same size: white is painted anew; black or transparent stays."),
]


@dataclass(frozen=True)
class Output:
    """Where pictures go, and the one to make again."""

    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="The file to write, or a directory for several pictures (out).")
    ] = None
    format: Annotated[str | None, typer.Option(help="Format of the files in a directory, such as png, jpg or webp.")] = None
    no_metadata: Annotated[
        bool,
        typer.Option("--no-metadata", help="Do not write into the files how they were made; then nothing can be made again."),
    ] = False
    source: Annotated[
        Path | None,
        typer.Option("--from", help="Make this picture again, from its own metadata; nothing else is needed."),
    ] = None


@dataclass(frozen=True)
class Request:
    """What every picture is asked with."""

    prompts: Annotated[
        Path | None,
        typer.Option(
            help="A file with a prompt on each line (-: standard input); .jsonl: an object with prompt, seed, image, … on each."
        ),
    ] = None
    negative: Annotated[str | None, typer.Option(help="What not to draw; needs guidance (--cfg above 1).")] = None
    seed: Annotated[int | None, typer.Option(help="Seed of a prompt's first picture (0); its next ones count up.")] = None
    count: Annotated[int | None, typer.Option(help="Pictures for each prompt (1).")] = None
    steps: Annotated[
        int | None,
        typer.Option(help="Denoising steps; what the model asks for if absent (nano 20, released 50, lightning 8)."),
    ] = None
    cfg: Annotated[
        float | None, typer.Option(help="True guidance scale (default: the model's own); 1 turns it off and halves the work.")
    ] = None
    schedule: Annotated[
        str | None, typer.Option(help="lightning: the schedule of 4- and 8-step distillations; the model's if absent.")
    ] = None


@dataclass(frozen=True)
class Size:
    """How large."""

    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT in pixels, multiples of 16.")] = None
    aspect: Annotated[
        str | None, typer.Option(help="A ratio at the model's own area: 1:1, 16:9, 9:16, 4:3, 3:4, 3:2, 2:3 or any W:H.")
    ] = None


@dataclass(frozen=True)
class Where:
    """Which model, and on what."""

    model: Annotated[
        str | None,
        typer.Option(help="Model directory or hub name such as Qwen/Qwen-Image; the shipped nano weights if absent."),
    ] = None
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:1; the best of this machine if absent.")] = None
    dtype: Annotated[str | None, typer.Option(help=f"{', '.join(DTYPES)}; the best of the device if absent.")] = None
    memory: Annotated[
        str | None, typer.Option(help="What the card may give: auto (default), resident, streamed, or an amount such as 24GB.")
    ] = None
    parallel: Annotated[
        str | None,
        typer.Option(help="Under torchrun, how its processes share each picture: cfg=2,ulysses=2,tensor=1 is for four."),
    ] = None


@dataclass(frozen=True)
class Network:
    """What is done to the transformer; the last four are about speed."""

    transformer: Annotated[
        Path | None, typer.Option(help="A .safetensors file (or directory) with another transformer for the model.")
    ] = None
    lora: Annotated[
        list[str] | None, typer.Option(metavar="FILE[:WEIGHT]", help="A LoRA file or hub name; give it again for another one.")
    ] = None
    quantize: Annotated[str | None, typer.Option(help="int8 or int4: keep the blocks in so many bits (approximate).")] = None
    step_cache: Annotated[
        float | None, typer.Option(help="Skip steps that change less than this share, such as 0.1 (approximate).")
    ] = None
    compile: Annotated[bool, typer.Option("--compile", help="Compile the blocks; takes a minute at first.")] = False
    fused: Annotated[bool, typer.Option("--fused", help="Fuse small operations also where it is not the default.")] = False
    reference: Annotated[
        bool, typer.Option("--reference", help="The reference's operations one by one: slower, and its bits.")
    ] = False


@dataclass(frozen=True)
class Start:
    """How much of a picture to keep."""

    strength: Annotated[
        float | None, typer.Option(help="How far back to noise the picture goes (0.6); 1 keeps nothing of it.")
    ] = None

    def settings(self) -> dict[str, Any]:
        """As the metadata keep them."""
        return {"strength": 0.6 if self.strength is None else self.strength}


class _Spread(typer.core.TyperCommand):
    """A command whose options for pictures take all files that follow them, as a shell hands over ``-i *.png``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read ``args``."""
        several = {name for each in self.params if each.multiple for name in each.opts if name in _OF_PICTURES}
        return super().parse_args(ctx, spread(args, several))


_FILES = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".psd", ".zip"),
    *(".txt", ".jsonl", ".json", ".safetensors"),
)
_OF_PICTURES = ("-i", "--image", "--control", "--mask")


def spread(args: list[str], options: Collection[str]) -> list[str]:
    """``args`` with one of ``options`` in front of each file that follows it; patterns become the files that they fit."""
    out: list[str] = []
    option = None  # whose files are being read
    rest = iter(args)
    for word in rest:
        name, is_given, value = word.partition("=")
        if word == "--":
            return [*out, word, *rest]
        if word in options:
            option, first = word, next(rest, None)
            out += [word] if first is None else [part for each in matching(first) for part in (word, each)]
        elif is_given and name in options:
            option = name
            out += [part for each in matching(value) for part in (name, each)]
        elif option is not None and not word.startswith("-") and (names_a_file(word) or matching(word) != [word]):
            out += [part for each in matching(word) for part in (option, each)]
        else:
            option = None
            out.append(word)
    return out


def names_a_file(text: str) -> bool:
    """Whether a word of the command line is a file: one that is there, or a single word that ends like a picture's name."""
    ending = Path(text).suffix.lower()
    return bool(ending) and (kind_of(text) == "file" or (ending in _FILES and not any(map(str.isspace, text))))


def matching(pattern: str) -> list[str]:
    """The files that ``pattern`` fits, for shells that leave it to the program; itself where it is none or fits nothing."""
    if os.path.lexists(pattern) or not any(sign in pattern for sign in "*?["):
        return [pattern]
    return sorted(glob.glob(pattern)) or [pattern]  # noqa: PTH207, patterns may be absolute


def command(app: typer.Typer) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Like ``app.command()``; the fields of keyword parameters that are dataclasses become options."""

    def add(function: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(function, include_extras=True)
        groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
        parameters: list[inspect.Parameter] = []
        for name, parameter in inspect.signature(function).parameters.items():
            if name in groups:
                types = get_type_hints(groups[name], include_extras=True)
                parameters += [_parameter(each.name, each.default, types[each.name]) for each in fields(groups[name])]
            else:
                parameters.append(_parameter(name, parameter.default, hints[name]))

        def run(**values: Any) -> None:
            made = {name: kind(**{each.name: values.pop(each.name) for each in fields(kind)}) for name, kind in groups.items()}
            function(**values, **made)

        run.__name__, run.__doc__ = function.__name__, function.__doc__
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        app.command(cls=_Spread)(run)
        return function

    return add


def chosen(*groups: object) -> list[str]:
    """The names of the options in ``groups`` that were given on the command line."""
    return [
        f"--{each.name.replace('_', '-')}"
        for group in groups
        for each in fields(group)  # type: ignore[arg-type]
        if (value := getattr(group, each.name)) is not None and value is not False and value != []
    ]


def parse_size(text: str) -> tuple[int, int]:
    """ "WIDTHxHEIGHT" as (width, height)."""
    found = re.fullmatch(r"\s*([0-9]{1,6})\s*[xX×*]\s*([0-9]{1,6})\s*", text)
    if found is None:
        raise InputError(f"--size is {text[:40]!r}; write width x height in pixels, for example 128x128.")
    return int(found[1]), int(found[2])


def _parameter(name: str, default: Any, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def shared(where: Where) -> str | None:
    """How the processes of torchrun share pictures; several that were not told would all make and write the same."""
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if where.parallel is None and started > 1:
        raise InputError(
            f"{started} processes were started and --parallel was not given; say how they share a picture, for example "
            f"--parallel ulysses={started}."
        )
    return where.parallel


def weighted(text: str) -> tuple[str, float | None]:
    """ "FILE:0.8" as the file and its weight; None where there is none."""
    source, separator, said = text.rpartition(":")
    try:
        weight = float(said) if separator and source else None
    except ValueError:
        weight = None  # the colon is part of the name
    if weight is None:
        return text, None
    return source, checked(weight, f"The weight of --lora {source}", -100, 100)
