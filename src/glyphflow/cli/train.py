"""``glyphflow train`` and ``glyphflow export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the verbs to ``app``."""

    @app.command()
    def train(
        recipe: Annotated[str, typer.Argument(help="Recipe file, or a packaged one by name, for example nano-vae.")],
        overrides: Annotated[list[str] | None, typer.Argument(help="Recipe keys to change, for example train.lr=1e-4.")] = None,
    ) -> None:
        """Train by a recipe; the same command continues a run that was stopped."""
        from glyphflow.train.recipe import VAERecipe, read_recipe
        from glyphflow.train.run import train_mmdit, train_vae

        read = read_recipe(recipe, overrides or ())
        if isinstance(read, VAERecipe):
            train_vae(read)
        else:
            train_mmdit(read)
        typer.echo(
            f"Trained to step {read.train.steps} in {read.out}; glyphflow export {read.out} OUT makes a pipeline directory."
        )

    @app.command()
    def export(
        run: Annotated[Path, typer.Argument(help="Directory of a training run.")],
        out: Annotated[Path, typer.Argument(help="Pipeline directory to write.")],
        average: Annotated[bool, typer.Option(help="Averaged (EMA) weights rather than the last ones.")] = True,
        dtype: Annotated[str, typer.Option(help="Type of the written weights: bfloat16 or float32.")] = "bfloat16",
    ) -> None:
        """Write a run's weights as a whole pipeline directory in the released layout."""
        from glyphflow.train.export import export_run

        step = export_run(run, out, average=average, dtype=dtype)
        typer.echo(f"Wrote {out} from step {step} of {run}.")
