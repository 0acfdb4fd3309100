"""``glyphflow demo``: the whole way of the data at toy size, as a script of the verbs that a real run uses."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from glyphflow.cli.page import Section, annotated_samples, folded, loss_chart, preview_strip, render_page
from glyphflow.cli.steps import Job, Step
from glyphflow.core.errors import GlyphFlowError, InputError

if TYPE_CHECKING:
    from glyphflow.cli.steps import StepRecord

CLEAN, KEPT = "clean", "demo"  # views: fit to be annotated, fit to be trained on
OWN_PICTURES = "own"


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
        train_steps: Annotated[int | None, typer.Option(min=1, help="Training steps (default: the recipe's).")] = None,
        bench: Annotated[str, typer.Option(help="Prompts: a .jsonl file or a packaged benchmark.")] = "nano16",
    ) -> None:
        """From pictures to pictures: corpus, annotation, encoding, fine-tuning, generation, scores, and one page of it all."""
        from glyphflow.core.files import exclusive, write_text

        settings = Settings(out, pictures, model, corpus_recipe, train_recipe, train_steps, bench)
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


@dataclass(frozen=True)
class Settings:
    """What the user chose; the paths of everything the demo makes follow from ``out``."""

    out: Path
    pictures: Path | None
    start: str
    corpus_recipe: str
    train_recipe: str
    train_steps: int | None
    bench: str

    @property
    def photographs(self) -> Path:
        return self.out / "photographs"

    @property
    def corpus(self) -> Path:
        return self.out / "corpus"

    @property
    def cache(self) -> Path:
        return self.out / "cache"

    @property
    def training(self) -> Path:
        return self.out / "train"

    @property
    def model(self) -> Path:
        return self.out / "model"

    @property
    def before(self) -> Path:
        return self.out / "pictures-before"

    @property
    def after(self) -> Path:
        return self.out / "pictures"


def steps(settings: Settings) -> list[Step]:
    """The demo as commands, in order."""
    return [*corpus_steps(settings), *training_steps(settings), *evaluation_steps(settings)]


def corpus_steps(settings: Settings) -> list[Step]:
    """Pictures and renders into a corpus with a view of what is fit to train on."""
    corpus, recipe = str(settings.corpus), settings.corpus_recipe
    collected = ["collect", "ingest", "own-pictures", "render"]
    made = [
        Step(
            "collect",
            "collect photographs",
            ("corpus", "collect", str(settings.photographs)),
            outputs=(settings.photographs,),
        ),
        Step(
            "ingest",
            "put the photographs into the corpus",
            ("corpus", "ingest", corpus, str(settings.photographs), "--source", "packages"),
            after=("collect",),
            outputs=(settings.corpus,),
        ),
    ]
    if settings.pictures is not None:
        made.append(
            Step(
                "own-pictures",
                "put your own pictures into the corpus",
                ("corpus", "ingest", corpus, str(settings.pictures), "--source", OWN_PICTURES, "--licence", "the owner's"),
                inputs=listing(settings.pictures),
                after=("ingest",),
                needed=False,
            )
        )
    return [
        *made,
        Step(
            "render",
            "add words, sentences and emoji to be drawn",
            ("corpus", "render", corpus, "--recipe", recipe),
            inputs=recipe_text(recipe),
            after=("ingest",),
        ),
        Step("measure", "measure every picture", ("corpus", "measure", corpus), after=tuple(collected)),
        Step(
            "curate-quality",
            "decide which pictures are fit to look at",
            ("corpus", "curate", corpus, "--recipe", recipe, "--view", CLEAN, "--through", "F2"),
            after=("measure",),
        ),
        Step(
            "annotate",
            "describe every picture",
            ("corpus", "annotate", corpus, "--view", CLEAN),
            after=("curate-quality",),
        ),
        Step(
            "captions",
            "look at every caption",
            ("corpus", "measure", corpus, "--stages", "captions", "captions.annotated=true", "--view", CLEAN),
            after=("annotate",),
        ),
        Step(
            "curate",
            "decide which pictures are fit to learn from",
            ("corpus", "curate", corpus, "--recipe", recipe, "--view", KEPT),
            after=("captions",),
        ),
    ]


def training_steps(settings: Settings) -> list[Step]:
    """From the view to fine-tuned weights in the released layout."""
    source = {"corpus": str(settings.corpus), "view": KEPT, "cache": str(settings.cache)}
    changes = [
        f"train.init_from={as_yaml(settings.start)}",
        f"out={as_yaml(str(settings.training))}",
        f"feed.sources={as_yaml([source])}",
    ]
    if settings.train_steps is not None:
        changes.append(f"train.steps={settings.train_steps}")
    return [
        Step(
            "encode",
            "encode pictures and captions",
            ("encode", settings.train_recipe, *changes),
            inputs=[weights(settings.start), recipe_text(settings.train_recipe)],
            after=("curate",),
            outputs=(settings.cache,),
        ),
        Step(
            "train",
            "fine-tune the model",
            ("train", settings.train_recipe, *changes),
            inputs=[weights(settings.start), recipe_text(settings.train_recipe)],
            after=("encode",),
            outputs=(settings.training,),
        ),
        Step(
            "export",
            "write the weights in the released layout",
            ("export", str(settings.training), str(settings.model)),
            after=("train",),
            outputs=(settings.model,),
            continues=False,
        ),
    ]


def evaluation_steps(settings: Settings) -> list[Step]:
    """The same prompts and seeds with the shipped weights and with the fine-tuned ones, read by the judge."""
    bench = [settings.bench, Path(settings.bench).read_text("utf-8") if Path(settings.bench).is_file() else None]
    size = trained_size(settings.train_recipe)
    made = []
    for name, model, folder, when in (
        ("before", settings.start, settings.before, "before"),
        ("after", str(settings.model), settings.after, "after"),
    ):
        made += [
            Step(
                f"sample-{name}",
                f"generate pictures {when} the fine-tuning",
                ("evaluate", "sample", settings.bench, "--model", model, "--out", str(folder), *size),
                inputs=[bench, weights(settings.start)],
                after=("export",) if name == "after" else (),
                outputs=(folder,),
                needed=name == "after",
            ),
            Step(
                f"score-{name}",
                f"let the judge read the pictures from {when}",
                ("evaluate", "score", str(folder)),
                after=(f"sample-{name}",),
                needed=False,
            ),
        ]
    return made


def trained_size(recipe: str) -> tuple[str, ...]:
    """The option that asks for pictures of the size that a recipe trains on; nothing for one that the verbs will refuse."""
    from glyphflow.train.recipe import MMDiTRecipe, read_recipe

    try:
        read = read_recipe(recipe)
    except GlyphFlowError:
        return ()
    if not isinstance(read, MMDiTRecipe) or read.feed.resolutions:
        return ()
    return ("--size", str(math.isqrt(read.feed.area)))


def as_yaml(value: object) -> str:
    """``value`` on one line of YAML, as an override takes it."""
    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**6)
    return text.removesuffix("...\n").strip()


def listing(folder: Path) -> list[tuple[str, int, int]]:
    """Names, sizes and times of the files in a folder of the user's, which tell whether it has changed."""
    if not folder.is_dir():
        raise InputError(f"--pictures {folder} is not a folder; give a folder of pictures.")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]


def recipe_text(name: str) -> str:
    """The text of a recipe file or a packaged recipe; an unknown one is the verb's own error."""
    from importlib import resources

    for path in (Path(name), Path(str(resources.files("glyphflow"))) / "recipes" / f"{name}.yaml"):
        if path.is_file():
            return path.read_text(encoding="utf-8")
    return ""


def weights(model: str) -> str:
    """Hash of the weights in a model directory; ``nano`` is the one that ships with the package."""
    from glyphflow.generate.directory import directory_hash, locate

    return directory_hash(locate(model))


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
            "The pictures it wrote",
            "Fixed prompts and seeds, with words that training did not contain. The ceiling is what the same judge reads on "
            "perfectly typeset text.",
            lambda: report.fragment(settings.after),
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
    return {
        "records in the corpus": f"{len(corpus.records(None)):,}",
        "kept for training": f"{len(corpus.records(KEPT)):,}",
        "training steps": f"{max((int(entry['step']) for entry in metrics), default=0):,}",
        "characters read, before and after": f"{characters_read(settings.before)} → {characters_read(settings.after)}",
        "minutes in all": f"{sum(record.wall_s for record in records) / 60:.1f}",
        "peak memory": f"{max((record.peak_bytes for record in records), default=0) / 2**30:.1f} GiB",
    }


def characters_read(folder: Path) -> str:
    """Character accuracy of a scored folder in per cent; a dash where there is none."""
    from glyphflow.evaluate import find_metric, read_scores

    try:
        metric = find_metric(read_scores(folder), "character_accuracy", language="all")
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
