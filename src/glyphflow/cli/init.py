"""``glyphflow init``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the verb to ``app``."""

    @app.command()
    def init(
        out: Annotated[Path, typer.Argument(help="Pipeline directory to write; it must not exist.")],
        seed: Annotated[int, typer.Option(help="Seed of the fresh weights.")] = 0,
        side: Annotated[int, typer.Option(help="Side in pixels of the pictures that it shall draw.")] = 128,
        edits: Annotated[bool, typer.Option("--edits", help="It shall edit pictures, too.")] = False,
    ) -> None:
        """Write a fresh nano pipeline: the starting point of the recipes nano-vae, nano-captioner and nano-mmdit-grid."""
        from glyphflow.train.nano import init_nano

        init_nano(out, seed, side=side, edits=edits)
        recipe = "nano-vae-256" if side > 128 else "nano-vae"
        typer.echo(f"Wrote {out}; the next step is: glyphflow train {recipe} train.init_from={out}")
