"""``glyphflow reconstruct``: what the VAE keeps of a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glyphflow.cli.options import Network, Output, Request, Size, Where, command, matching
from glyphflow.cli.pictures import run
from glyphflow.cli.verb import Asked, Take, Verb

if TYPE_CHECKING:
    from glyphflow.cli.verb import Pictures
    from glyphflow.generate import Pipeline


def _make(pipeline: Pipeline, request: dict[str, Any], pictures: Pictures) -> Any:
    return pipeline.reconstruct(pictures["image"])


def _size(settings: Mapping[str, Any], pictures: Pictures) -> tuple[int, int]:
    return pictures["image"].height, pictures["image"].width


def _psnr(made: Any, pictures: Pictures) -> str:
    import numpy as np

    from glyphflow.generate.images import rgb, rgba

    before = rgba(pictures["image"]) if made.mode == "RGBA" else rgb(pictures["image"])
    squared = np.square(np.asarray(before, np.float64) - np.asarray(made, np.float64)).mean()
    return f": PSNR {10 * np.log10(255**2 / max(squared, 1e-12)):.2f} dB"


VERB = Verb(
    "reconstruct",
    _make,
    "glyphflow reconstruct photo.jpg -o back.png",
    takes=[Take("image", "image")],
    prompted=False,
    size=_size,
    told=_psnr,
)


def register(app: typer.Typer) -> None:
    """Add the verb ``reconstruct``."""

    @command(app)
    def reconstruct(
        *,
        images: Annotated[
            list[Path] | None, typer.Argument(metavar="PICTURE", help="The pictures to encode and decode.")
        ] = None,
        output: Output,
        where: Where,
    ) -> None:
        """Send pictures through the VAE and back, and print how close they stay (PSNR in dB)."""
        again = output.source is not None
        asked = Asked(
            [] if again else [{"image": file} for path in images or () for file in matching(str(path))],
            output,
            where,
            Request() if again else Request(steps=1, cfg=1.0),  # nothing is sampled, and the metadata say so
            Size(),
            Network(),
            pictures={"image": images or []} if again else {},
        )
        run(VERB, asked)
