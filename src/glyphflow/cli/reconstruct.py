"""``glyphflow reconstruct``: what the VAE keeps of a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from glyphflow.core.errors import InputError


def register(app: typer.Typer) -> None:
    """Add the verb ``reconstruct``."""

    @app.command()
    def reconstruct(
        picture: Annotated[Path, typer.Argument(metavar="IN", help="The picture to encode and decode.")],
        out: Annotated[Path, typer.Option("-o", "--out", help="Where to write the result.")],
        model: Annotated[
            str | None, typer.Option(help="Model directory or hub name; the shipped nano weights if absent.")
        ] = None,
        device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:1; the best of this machine if absent.")] = None,
    ) -> None:
        """Send a picture through the VAE and back, and print how close it stays (PSNR in dB)."""
        import numpy as np
        from PIL import Image, ImageOps, UnidentifiedImageError

        from glyphflow.core.files import atomic_path
        from glyphflow.generate import Pipeline

        writable = Image.registered_extensions()
        if out.suffix.lower() not in writable:
            raise InputError(f"-o is {out}, whose ending names no picture format; use .png.")
        try:
            with Image.open(picture) as opened:
                image = ImageOps.exif_transpose(opened).convert("RGB")
        except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise InputError(f"{picture} cannot be read as a picture: {error}.") from error
        result = Pipeline.from_pretrained(model, device=device).reconstruct(image)
        squared = np.square(np.asarray(image, np.float64) - np.asarray(result, np.float64)).mean()
        with atomic_path(out) as temporary:
            result.save(temporary, format=writable[out.suffix.lower()])
        typer.echo(f"{out}: PSNR {10 * np.log10(255**2 / max(squared, 1e-12)):.2f} dB")
