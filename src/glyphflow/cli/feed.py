"""``glyphflow feed``: look at what a run learns from, and change it while the run goes on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from glyphflow.feed.settings import FeedSettings
    from glyphflow.feed.staged import StagedFeed

Run = Annotated[Path, typer.Argument(help="Directory of a training run.")]


def register(app: typer.Typer) -> None:
    """Add the verbs to ``app``."""
    feed = typer.Typer(help="What a run learns from, also while it runs: show it, change it.", no_args_is_help=True)
    app.add_typer(feed, name="feed")

    @feed.command("set")
    def change(
        run: Run,
        changes: Annotated[
            list[str],
            typer.Argument(help="mixture.people=0.2 captions.raw=0.1 tasks.i2i=0 view=… producers=4"),
        ],
        start: Annotated[
            int | None, typer.Option("--from", help="First step that it holds for; the first one not ordered yet if absent.")
        ] = None,
    ) -> None:
        """Change the feed of a run, from a step on and to the end of that step's stage. The run need not be stopped."""
        from glyphflow.feed.amendments import FILE, AmendmentLog, parse_changes

        parsed = parse_changes(changes)
        log = AmendmentLog(run / FILE)
        _check(_open(run), log.horizon if start is None else start, parsed)
        entry = log.append(start, parsed)
        typer.echo(f"From step {entry.from_step} on: {', '.join(changes)}.")

    @feed.command()
    def show(run: Run) -> None:
        """Print the stages of a run's feed, the changes that were made, and the rates of its producers."""
        from glyphflow.feed.amendments import FILE, AmendmentLog

        feed = _open(run)
        log = AmendmentLog(run / FILE)
        for segment in feed.segments:
            last = segment.start + segment.steps - 1
            typer.echo(f"{segment.name}: steps {segment.start} to {last}, {_words(segment.settings)}")
        for entry in log.read():
            changes = ", ".join(f"{key}={value}" for key, value in entry.changes.items())
            typer.echo(f"from step {entry.from_step} on: {changes}")
        typer.echo(f"Ordered so far: the steps before {log.horizon}.")
        _print_rates(run)


def _open(run: Path) -> StagedFeed:
    """The feed of the run in ``run``, under its log."""
    from glyphflow.core.errors import InputError
    from glyphflow.feed.amendments import FILE, AmendmentLog
    from glyphflow.feed.staged import StagedFeed
    from glyphflow.train.curriculum import encoded_recipe
    from glyphflow.train.resuming import RECIPE, read_run
    from glyphflow.train.run import course_of

    if not (run / RECIPE).exists():
        raise InputError(f"{run} is no training run (it has no {RECIPE}); give the directory that the recipe names as out.")
    recipe = encoded_recipe(read_run(run), "a feed that can be changed belongs to")
    return StagedFeed(course_of(recipe).segments, recipe.seed, AmendmentLog(run / FILE).read())


def _check(feed: StagedFeed, start: int, changes: dict[str, object]) -> None:
    """Refuse now what the run would refuse, and end with, at that step."""
    from glyphflow.feed.amendments import Amendment

    feed.amend([*feed.amendments, Amendment(start, changes)])
    feed.picks(start)


def _words(settings: FeedSettings) -> str:
    sizes = " + ".join(f"{round(each.area**0.5)} px x {each.batch_size}" for each in settings.resolutions)
    parts = [sizes, f"view {settings.view}" if settings.view else "", f"text up to {settings.text}" if settings.text else ""]
    for name in ("tasks", "mixture", "splits", "captions"):
        weights = getattr(settings, name)
        parts.append(f"{name} " + " ".join(f"{key} {weight:g}" for key, weight in weights.items()) if weights else "")
    return ", ".join(part for part in [*parts, f"producers {settings.producers}"] if part)


def _print_rates(run: Path) -> None:
    from glyphflow.core.errors import InputError
    from glyphflow.plan.producers import read_rates
    from glyphflow.train.run import FEED_LOG

    if not (run / FEED_LOG).exists():
        return
    try:
        rates = read_rates(run / FEED_LOG)
    except InputError:
        return
    for side, rate in sorted(rates.items()):
        typer.echo(f"One producer makes {rate:.3g} samples a second at {side} px.")
