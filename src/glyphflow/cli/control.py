"""``glyphflow control``: a picture whose outlines, depth or pose another one gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glyphflow.cli.options import Mask, Network, Output, Prompts, Request, Size, Where, command
from glyphflow.cli.pictures import run
from glyphflow.cli.verb import Asked, Take, Verb
from glyphflow.core.errors import InputError
from glyphflow.core.numbers import checked

if TYPE_CHECKING:
    from glyphflow.cli.verb import Pictures
    from glyphflow.generate import Pipeline


@dataclass(frozen=True)
class Steering:
    """The ControlNet, and how it is used."""

    controlnet: Annotated[str | None, typer.Option(help="Directory or hub name of the ControlNet.")] = None
    scale: Annotated[list[float] | None, typer.Option(help="How strongly it steers (1.0); once for each control picture.")] = (
        None
    )
    begin: Annotated[float | None, typer.Option(help="Fraction of the steps at which it begins (0.0).")] = None
    end: Annotated[float | None, typer.Option(help="Fraction of the steps at which it ends (1.0).")] = None

    def settings(self) -> dict[str, Any]:
        """As the metadata keep them."""
        scale = [checked(each, "--scale", -100, 100) for each in self.scale or [1.0]]
        begin, end = (
            checked(default if given is None else given, name, 0, 1)
            for name, given, default in (("--begin", self.begin, 0.0), ("--end", self.end, 1.0))
        )
        if begin >= end:
            raise InputError(f"--begin is {begin:g} and --end is {end:g}; it must begin before it ends.")
        return {
            "controlnet_conditioning_scale": scale if len(scale) > 1 else scale[0],
            "control_guidance_start": begin,
            "control_guidance_end": end,
        }


def _make(pipeline: Pipeline, request: dict[str, Any], pictures: Pictures) -> Any:
    shown = [picture for role, picture in pictures.items() if role.startswith("control_image")]
    scales = request["controlnet_conditioning_scale"]
    several = isinstance(scales, list) or len(shown) > 1
    scales = scales if isinstance(scales, list) or not several else [scales] * len(shown)
    return pipeline.control(
        **request | {"controlnet_conditioning_scale": scales},
        control_image=shown if several else shown[0],
        control_mask=pictures.get("control_mask"),
    ).images[0]


VERB = Verb(
    "control",
    _make,
    'glyphflow control "a stone house" --control edges.png --controlnet InstantX/Qwen-Image-ControlNet-Union '
    "--model Qwen/Qwen-Image",
    takes=[Take("control", "control_image", several=True), Take("mask", "control_mask", optional=True)],
)


def register(app: typer.Typer) -> None:
    """Add the verb ``control``."""

    @command(app)
    def control(
        *,
        texts: Prompts = None,
        images: Annotated[
            list[Path] | None,
            typer.Option("--control", help="The picture that steers (edges, depth, pose); again for another condition."),
        ] = None,
        mask: Mask = None,
        steering: Steering,
        output: Output,
        request: Request,
        size: Size,
        where: Where,
        network: Network,
    ) -> None:
        """Make pictures whose outlines, depth or pose another picture gives, with a ControlNet."""
        if steering.controlnet is None and output.source is None:
            raise InputError(f"There is no ControlNet; name one with --controlnet, for example: {VERB.example}")
        asked = Asked(
            texts or (),
            output,
            where,
            request,
            size,
            network,
            pictures={"control": images or [], "mask": mask or []},
            settings=steering.settings(),
            own=[steering],
            controlnet=steering.controlnet,
        )
        run(VERB, asked)
