"""``glyphflow inpaint``: a part of a picture painted anew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glyphflow.cli.options import Image, Mask, Network, Output, Prompts, Request, Size, Start, Where, command
from glyphflow.cli.pictures import run
from glyphflow.cli.verb import Asked, Take, Verb
from glyphflow.core.numbers import whole

if TYPE_CHECKING:
    from glyphflow.cli.verb import Pictures
    from glyphflow.generate import Pipeline


@dataclass(frozen=True)
class Crop:
    """Which part of the picture is made."""

    crop: Annotated[
        int | None,
        typer.Option(help="Make only the mask's surroundings, so many pixels wide, and paste them into the picture."),
    ] = None

    def settings(self) -> dict[str, Any]:
        """As the metadata keep them."""
        if self.crop is None:
            return {}
        return {"padding_mask_crop": whole(self.crop, "--crop", 0, 100_000, "so many pixels around the mask are made, too")}


def _make(pipeline: Pipeline, request: dict[str, Any], pictures: Pictures) -> Any:
    return pipeline.inpaint(pictures["image"], pictures["mask_image"], **request).images[0]


VERB = Verb(
    "inpaint",
    _make,
    'glyphflow inpaint "a red door" --image house.jpg --mask door.png --strength 1',
    takes=[Take("image", "image"), Take("mask", "mask_image")],
)


def register(app: typer.Typer) -> None:
    """Add the verb ``inpaint``."""

    @command(app)
    def inpaint(
        *,
        texts: Prompts = None,
        image: Image = None,
        mask: Mask = None,
        start: Start,
        crop: Crop,
        output: Output,
        request: Request,
        size: Size,
        where: Where,
        network: Network,
    ) -> None:
        """Paint a part of a picture anew: what is white in the mask. An edit model also looks at the picture."""
        asked = Asked(
            texts or (),
            output,
            where,
            request,
            size,
            network,
            pictures={"image": image or [], "mask": mask or []},
            settings={**start.settings(), **crop.settings()},
            own=[start, crop],
        )
        run(VERB, asked)
