"""``glyphflow demo``: the whole way of the data at toy size, as a script of the verbs that a real run uses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glyphflow.cli.demo_steps import KEPT, Settings, steps
from glyphflow.cli.page import Compared, Section, annotated_samples, comparison, folded, loss_chart, preview_strip, render_page
from glyphflow.cli.steps import Job
from glyphflow.core.errors import GlyphFlowError

if TYPE_CHECKING:
    from glyphflow.cli.steps import StepRecord
    from glyphflow.evaluate.benchmark import Sample


def register(app: typer.Typer) -> None:
    """Add the verb ``demo``."""

    @app.command()
    def demo(
        out: Annotated[Path, typer.Option(help="Directory of the demo; the same command continues in it.")] = Path("runs/demo"),
        pictures: Annotated[Path | None, typer.Option(help="A folder of your own pictures that joins the corpus.")] = None,
        model: Annotated[str, typer.Option(help="Model to fine-tune: a directory, or nano for the shipped weights.")] = "nano",
        corpus_recipe: Annotated[
            str, typer.Option(help="What the corpus is made of: a file or a packaged recipe.")
        ] = "demo-corpus",
        train_recipe: Annotated[
            str, typer.Option(help="How the model is fine-tuned: a file or a packaged recipe.")
        ] = "demo-mmdit",
        train_steps: Annotated[
            int | None, typer.Option(min=1, max=10**9, help="Training steps (default: the recipe's).")
        ] = None,
        bench: Annotated[str, typer.Option(help="Prompts: a .jsonl file or a packaged benchmark.")] = "nano-demo",
        quick: Annotated[
            bool, typer.Option("--quick", help="The same steps with small numbers, to see that they work.")
        ] = False,
    ) -> None:
        """From pictures to pictures: corpus, annotation, encoding, fine-tuning, generation, scores, and one page of it all."""
        from glyphflow.core.files import exclusive, write_text

        settings = Settings(out, pictures, model, corpus_recipe, train_recipe, train_steps, bench, quick)
        with exclusive(out, "the demo"):
            job = Job(out, steps(settings))
            failure: GlyphFlowError | None = None
            try:
                job.run()
            except GlyphFlowError as error:
                failure = error
            page = out / "index.html"
            if failure is None:
                write_text(page, page_of(settings, list(job.records.values())))
        if failure is not None:
            raise failure
        typer.echo(f"The page is {page.resolve()}")


def page_of(settings: Settings, records: list[StepRecord]) -> str:
    """The page from what the steps left in ``settings.out``."""
    from glyphflow.corpus import report as corpus_report
    from glyphflow.corpus.store import Corpus
    from glyphflow.evaluate import report
    from glyphflow.train.metrics import read_metrics

    corpus = Corpus.open(settings.corpus)
    metrics = read_metrics(settings.training)
    sections = [
        Section(
            "What it learned",
            "Emoji that the shipped weights had never seen: before the fine-tuning above, after it below, the same prompt and "
            "seed. A tick: the judge finds the picture nearer to a clean drawing of that emoji than to those of 100 others.",
            lambda: comparison(learned(settings)),
        ),
        Section(
            "All pictures after the fine-tuning",
            "Fixed prompts and seeds, with colours and words that training did not contain. The ceiling is what the same judge "
            "says of perfect pictures.",
            lambda: folded("Show them", report.fragment(settings.after)),
        ),
        Section(
            "The same before the fine-tuning",
            "The weights that the fine-tuning started from.",
            lambda: folded("Show them", report.fragment(settings.before)),
        ),
        Section("Learning", "The loss of the fine-tuning, averaged over each logging interval.", lambda: loss_chart(metrics)),
        Section(
            "Previews over time",
            "The same prompts and seeds while training goes on.",
            lambda: preview_strip(settings.training / "previews"),
        ),
        Section(
            "The corpus",
            "What was kept, and why the rest was not.",
            lambda: corpus_report.fragment(corpus, KEPT),
        ),
        Section("Annotation", "What the model is told about a picture.", lambda: annotated_samples(samples(settings.corpus))),
    ]
    return render_page(sections, facts(settings, records, metrics), records)


def facts(settings: Settings, records: list[StepRecord], metrics: list[dict[str, float]]) -> Mapping[str, str]:
    """The numbers that a reader wants first."""
    from glyphflow.corpus.store import Corpus

    corpus = Corpus.open(settings.corpus)
    before, after = settings.before, settings.after
    return {
        "new emoji right, before → after": " → ".join(share(folder, "subject_right") for folder in (before, after)),
        "characters of texts read, before → after": " → ".join(
            share(folder, "character_accuracy") for folder in (before, after)
        ),
        "records in the corpus": f"{len(corpus.records(None)):,}",
        "kept for training": f"{len(corpus.records(KEPT)):,}",
        "training steps": f"{max((int(entry['step']) for entry in metrics), default=0):,}",
        "minutes in all": f"{sum(record.wall_s for record in records) / 60:.1f}",
        "peak memory": f"{max((record.peak_bytes for record in records), default=0) / 2**30:.1f} GiB",
    }


def learned(settings: Settings) -> list[Compared]:
    """The pictures of new emoji, before and after, with the judge's verdicts."""
    from glyphflow.evaluate import load_benchmark, read_scores
    from glyphflow.evaluate.score import pictures_of

    benchmark = load_benchmark(settings.bench)
    before, after = (
        {row["sample"]: bool(row["values"]["subject"][0]) for row in read_scores(folder)["rows"] if "subject" in row["values"]}
        for folder in (settings.before, settings.after)
    )

    def picture(folder: Path, sample: Sample) -> bytes:
        return pictures_of(folder, benchmark, sample)[0].read_bytes()

    return [
        Compared(
            sample.prompt,
            picture(settings.before, sample),
            picture(settings.after, sample),
            before[sample.id],
            after[sample.id],
        )
        for sample in benchmark.samples()
        if sample.id in before and sample.id in after
    ]


def share(folder: Path, name: str) -> str:
    """The metric ``name`` of a scored folder, over all languages, in per cent; a dash where there is none."""
    from glyphflow.evaluate import find_metric, read_scores

    try:
        metric = find_metric(read_scores(folder), name, language="all")
    except GlyphFlowError:
        return "-"
    return "-" if metric is None or metric["value"] is None else f"{100 * metric['value']:.0f} %"


def samples(directory: Path) -> list[tuple[Any, Mapping[str, Any]]]:
    """One picture (uint8 H W 3) of every source in the corpus with its annotation."""
    from glyphflow.corpus.store import Corpus

    corpus = Corpus.open(directory)
    selection = corpus.records(KEPT)
    by_source: dict[str, list[int]] = {}
    for number, row in enumerate(selection.rows):
        by_source.setdefault(row.source, []).append(number)
    chosen = [numbers[len(numbers) // 2] for numbers in by_source.values()]
    found = []
    for number in chosen:
        row = selection.rows[number]
        ids = corpus.index(row.shard, ("id",))["id"]
        columns = corpus.columns("annotate", row.shard, ("annotation",)) or {"annotation": [None] * len(ids)}
        annotation = columns["annotation"][ids.index(row.id)]
        if annotation:
            found.append((selection.load(number).image, json.loads(annotation)))
    return found
