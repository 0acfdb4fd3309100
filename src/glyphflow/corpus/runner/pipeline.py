"""A recipe from the first stage to the last: measure what the stage before kept, decide, go on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from glyphflow.corpus.decide.curate import ViewSummary, curate
from glyphflow.corpus.recipe import Stage
from glyphflow.corpus.runner.stage import Part, engine, run
from glyphflow.corpus.store import Corpus


def run_recipe(
    corpus: Corpus, stages: Sequence[Stage], *, workers: int | None = None, on: str = "local", part: Part | None = None
) -> Iterator[ViewSummary]:
    """Do ``stages`` in order; yields what each one's view keeps.

    A stage's operators run on the rows that the view before it keeps, so what is expensive sees few pictures. Everything that
    is finished is found finished: the same call goes on after a kill, and several processes that make it share the work.
    """
    view: str | None = None
    measured: list[str] = []
    with engine(on):
        for number, stage in enumerate(stages, 1):
            for each in stage.measure:
                rows = view
                if each.kept:
                    begun = stage.so_far(measured)
                    rows = curate(corpus, [*stages[: number - 1], begun], begun.view).name
                run(corpus, each.operator, each.options, view=rows, workers=workers, on=on, part=part)
                measured.append(each.operator)
            if stage.view:
                yield curate(corpus, stages[:number], stage.view)
                view = stage.view
