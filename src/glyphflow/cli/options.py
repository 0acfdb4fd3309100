"""The options that verbs of the generator share, each declared once.

A verb's function takes whole groups of them, which are dataclasses; :func:`command` makes every field an option of the verb.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from glyphflow.core.errors import InputError

DTYPES = ("float32", "bfloat16", "float16")

Prompts = Annotated[list[str] | None, typer.Argument(metavar="PROMPT", help="What to draw; several make several pictures.")]
Images = Annotated[
    list[Path] | None, typer.Option("-i", "--image", help="A picture to start from; give it again for another one.")
]
Image = Annotated[Path | None, typer.Option("-i", "--image", help="The picture to start from.")]
Mask = Annotated[Path | None, typer.Option("--mask", help="A picture of the same size: white is painted anew.")]


@dataclass(frozen=True)
class Output:
    """Where pictures go, and the one to make again."""

    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="The file to write, or a directory for several pictures (out).")
    ] = None
    format: Annotated[str | None, typer.Option(help="Format of the files in a directory, such as png, jpg or webp.")] = None
    source: Annotated[
        Path | None,
        typer.Option("--from", help="Make this picture again, from its own metadata; nothing else is needed."),
    ] = None


@dataclass(frozen=True)
class Request:
    """What every picture is asked with."""

    prompts: Annotated[
        Path | None,
        typer.Option(help="A file with a prompt on each line; .jsonl: an object with prompt, seed, size, image, … on each."),
    ] = None
    negative: Annotated[str | None, typer.Option(help="What not to draw.")] = None
    seed: Annotated[int | None, typer.Option(help="Seed of a prompt's first picture (0); its next ones count up.")] = None
    count: Annotated[int | None, typer.Option(help="Pictures for each prompt (1).")] = None
    steps: Annotated[
        int | None, typer.Option(help="Denoising steps; what the model asks for if absent (nano 20, released 50).")
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
        app.command()(run)
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
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise InputError(f"--size is {text!r}; write width x height in pixels, for example 128x128.")
    return int(width), int(height)


def _parameter(name: str, default: Any, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
