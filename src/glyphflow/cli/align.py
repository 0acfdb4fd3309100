"""``glyphflow align``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the verb to ``app``."""

    @app.command()
    def align(
        out: Annotated[Path, typer.Argument(help="Pipeline directory to write; it must not exist.")],
        mmdit: Annotated[str, typer.Option(help="Pipeline whose MMDiT it gets.")],
        old: Annotated[str, typer.Option(help="Pipeline with the condition encoder which that MMDiT knows.")],
        new: Annotated[str, typer.Option(help="Pipeline with the condition encoder that it shall know, and all else.")],
        corpus: Annotated[Path, typer.Option(help="Corpus whose captions both encoders are compared on.")],
        captions: Annotated[int, typer.Option(min=1, help="How many captions.")] = 4000,
    ) -> None:
        """Bring an MMDiT to another condition encoder with the same tokenizer, before training goes on with that one."""
        from glyphflow.train.align import align_pipeline

        explained = align_pipeline(out, mmdit, old, new, corpus, captions)
        typer.echo(f"Wrote {out}; the old states are {100 * explained:.0f} % a linear map of the new ones.")
