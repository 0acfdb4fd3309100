"""The verbs of ``glyphflow corpus`` that look at pictures: measure, work (one of many jobs), run (a whole recipe)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glyphflow.core.errors import ConfigError

if TYPE_CHECKING:
    from glyphflow.corpus import Corpus

_CORPUS = typer.Argument(help="The corpus directory.")
_STAGES = typer.Option(help="Operators, separated by commas, in the order in which they are to run.")
_OPTIONS = typer.Argument(metavar="[OPTION...]", help="STAGE.KEY=VALUE sets an option of an operator, such as text.batch=4.")
_VIEW = typer.Option(help="Only the rows that this view keeps; more can be added later.")
_WORKERS = typer.Option(
    min=1, max=1024, help="Threads or processes; on Ray actors, for Slurm jobs (default: every core; 64 jobs)."
)
_ON = typer.Option(help="local, ray, ray://HOST:PORT, or slurm, which writes a batch script and prints it.")
_PART = typer.Option(help="I/N: begin with the I-th (from 0) of N parts of the shards.")


def register(group: typer.Typer) -> None:
    """Add the verbs to the group ``corpus``."""
    group.command("measure")(measure)
    group.command("work")(work)
    group.command("run")(run)


def measure(
    corpus: Annotated[Path, _CORPUS],
    option: Annotated[list[str] | None, _OPTIONS] = None,
    stages: Annotated[str, _STAGES] = "header,pixels,duplicates",
    view: Annotated[str | None, _VIEW] = None,
    workers: Annotated[int | None, _WORKERS] = None,
    on: Annotated[str, _ON] = "local",
) -> None:
    """Measure what has not been measured: headers, pixels (one small strict decode), duplicates, or other operators.

    Any number of these commands, on any number of machines that see the directory, share the work.
    """
    from glyphflow.corpus import Corpus
    from glyphflow.corpus.runner.stage import engine
    from glyphflow.corpus.runner.stage import run as measure_stage

    store, names = Corpus.open(corpus), stages.split(",")
    options = _by_stage(option, names)
    if on == "slurm":
        _write_array(store, names, options, option or [], view, workers)
        return
    with engine(on):
        for name in names:
            done = measure_stage(store, name, options[name], view=view, workers=workers, on=on)
            typer.echo(f"{name}: {done} rows measured now.")


def work(
    corpus: Annotated[Path, _CORPUS],
    stages: Annotated[str, _STAGES],
    option: Annotated[list[str] | None, _OPTIONS] = None,
    view: Annotated[str | None, _VIEW] = None,
    part: Annotated[str, _PART] = "0/1",
    workers: Annotated[int | None, _WORKERS] = None,
) -> None:
    """Do what one job of an array does: its own part of the shards, then what others have not begun; waits for nobody."""
    from glyphflow.corpus import Corpus
    from glyphflow.corpus.runner.stage import run as measure_stage

    store, names = Corpus.open(corpus), stages.split(",")
    options = _by_stage(option, names)
    for name in names:
        last = name == names[-1]  # an operator may read the columns of the one before
        done = measure_stage(store, name, options[name], view=view, workers=workers, part=_part(part), wait=not last)
        typer.echo(f"{name}: {done} rows measured by this job.")


def run(
    corpus: Annotated[Path, _CORPUS],
    recipe: Annotated[str, typer.Option(help="A recipe file, or a packaged one by name, such as seven-stages-corpus.")],
    override: Annotated[list[str] | None, typer.Argument(help="key=value, changes the recipe.")] = None,
    through: Annotated[str | None, typer.Option(help="Last stage to do, such as F2 (default: all).")] = None,
    workers: Annotated[int | None, _WORKERS] = None,
    on: Annotated[str, _ON] = "local",
    part: Annotated[str, _PART] = "0/1",
) -> None:
    """Measure and curate stage by stage: every stage looks only at the rows that the one before kept.

    Started again, it goes on where it was; started several times at once, also on several machines, it shares the work.
    """
    from glyphflow.corpus import Corpus
    from glyphflow.corpus.recipe import load_recipe
    from glyphflow.corpus.runner.pipeline import run_recipe
    from glyphflow.corpus.runner.slurm import write_script

    store, plan = Corpus.open(corpus), load_recipe(recipe, override or ()).through(through)
    if on == "slurm":
        verb = ["run", str(store.directory.resolve()), *(override or []), "--recipe", str(recipe)]
        verb += ["--through", through] if through else []
        path, text = write_script(store, "run", verb, len(store.shards()), workers)
        typer.echo(f"{text}\nWritten to {path}. Submit it with: sbatch {path}")
        return
    for summary in run_recipe(store, plan, workers=workers, on=on, part=_part(part)):
        typer.echo(f"{summary.name}: {summary.kept} of {summary.total} rows kept.")


def _by_stage(option: list[str] | None, names: list[str]) -> dict[str, dict[str, Any]]:
    """STAGE.KEY=VALUE strings as the options of every stage in ``names``."""
    from glyphflow.core.config import with_overrides

    given = with_overrides({}, option or ())
    unknown = sorted(set(given) - set(names))
    if unknown:
        raise ConfigError(f"The option {unknown[0]!r} is of no stage that runs; --stages names {', '.join(names)}.")
    return {name: given.get(name, {}) for name in names}


def _part(text: str) -> tuple[int, int]:
    number, _, parts = text.partition("/")
    if not (number.isdecimal() and parts.isdecimal() and int(number) < int(parts)):
        raise ConfigError(f"--part is {text!r}; write I/N with I from 0 to N-1, for example 3/8.")
    return int(number), int(parts)


def _write_array(
    store: Corpus, names: list[str], options: dict[str, dict[str, Any]], given: list[str], view: str | None, jobs: int | None
) -> None:
    from glyphflow.corpus.runner.slurm import write_script
    from glyphflow.corpus.runner.stage import GLOBAL, Stage

    alone = [name for name in names if name not in GLOBAL]
    afterwards = [name for name in names if name in GLOBAL]
    missing = max((len(Stage(store, name, options[name], view).missing()) for name in alone), default=0)
    if not missing:
        typer.echo("Nothing is missing.")
        return
    view_option = ["--view", view] if view else []
    verb = ["work", str(store.directory.resolve()), *given, "--stages", ",".join(alone), *view_option]
    path, text = write_script(store, "-".join(alone), verb, missing, jobs)
    typer.echo(f"{text}\nWritten to {path}. Submit it with: sbatch {path}")
    if afterwards:
        names_after = ",".join(afterwards)
        typer.echo(f"When it has ended: glyphflow corpus measure {store.directory} --stages {names_after}")
