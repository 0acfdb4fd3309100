"""``glyphflow corpus``: pictures and text into a corpus, verb by verb; each verb does only what is not done yet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from glyphflow.cli.corpus_run import register as register_running

_CORPUS = typer.Argument(help="The corpus directory.")
_RECIPE = typer.Option(help="A recipe file, or a packaged one by name, such as demo-corpus.")
_WORKERS = typer.Option(min=1, max=1024, help="Threads (default: every core).")


def register(app: typer.Typer) -> None:
    """Add the group ``corpus`` with its verbs to ``app``."""
    group = typer.Typer(no_args_is_help=True, help="Collect, ingest, measure, annotate, curate and look at image-text pairs.")
    group.command("collect")(collect)
    group.command("ingest")(ingest)
    group.command("render")(render)
    register_running(group)
    group.command("curate")(curate)
    group.command("annotate")(annotate)
    group.command("report")(report)
    group.command("sql")(sql)
    group.command("export")(export)
    group.command("forget")(forget)
    app.add_typer(group, name="corpus")


def collect(directory: Annotated[Path, typer.Argument(help="Folder to write the pictures to.")]) -> None:
    """Write the photographs that scikit-image and scikit-learn bring, parts of them, and damaged copies, with captions."""
    from glyphflow.corpus.ingest.sources import collect as run

    done = run(directory)
    typer.echo(f"{done.pictures} pictures, {done.crops} parts of them and {done.faults} damaged copies are in {directory}.")


def ingest(
    corpus: Annotated[Path, _CORPUS],
    place: Annotated[
        Path,
        typer.Argument(
            help="Folder of pictures, or .tar, .parquet, .zip, .tar.gz, .pdf, .html or a folder of them, or a .jsonl of edits"
        ),
    ],
    source: Annotated[str, typer.Option(help="Name of this source in the corpus.")],
    licence: Annotated[str, typer.Option(help="Licence of pictures that do not state their own.")] = "unknown",
    captions: Annotated[
        Path | None,
        typer.Option(
            help="CSV, JSON or JSON lines with file and caption (or en, zh) of each picture, for a folder of pictures."
        ),
    ] = None,
) -> None:
    """Store pictures in the corpus, with the captions beside them; what is damaged becomes a row with a reason.

    A folder may hold pictures (captions in .txt, .caption or .json beside them, in metadata.jsonl or .csv, or in lists of COCO
    and LLaVA), WebDataset tars, the output of img2dataset, Parquet tables with the bytes, or archives. PDF and HTML files below
    a folder without pictures at its top become a picture a page, with their text as captions. A .jsonl holds edits:
    {"references": [...], "instruction": "...", "target": "..."} on every line. It ends with a count of what was taken, what has
    no caption, and what was left out.
    """
    from glyphflow.corpus import Corpus
    from glyphflow.corpus.ingest.any import ingest as run

    done = run(Corpus.create(corpus), place, source, licence, captions)
    typer.echo(f"{done.added} new rows of {source!r}, {done.total} in all.")
    for sentence in done.tally.told():
        typer.echo(f"  {sentence}")


def render(
    corpus: Annotated[Path, _CORPUS],
    recipe: Annotated[str, _RECIPE],
    override: Annotated[list[str] | None, typer.Argument(help="key=value, changes the recipe.")] = None,
) -> None:
    """Add the renders of a recipe as specifications; they are drawn whenever they are read."""
    from glyphflow.corpus import Corpus, add_specs
    from glyphflow.corpus.recipe import load_recipe

    plan = load_recipe(recipe, override or ())
    store = Corpus.create(corpus)
    added = count = 0
    for part in plan.render:
        if part.optional and (font := part.missing_font()):
            typer.echo(f"Left out {part.name}: the font {font} is not on this machine.")
            continue
        specs = part.specs()
        added += add_specs(store, part.name, specs)
        count += len(specs)
    typer.echo(f"{added} new renders, {count} in all.")


def curate(
    corpus: Annotated[Path, _CORPUS],
    recipe: Annotated[str, _RECIPE],
    view: Annotated[str, typer.Option(help="Name of the view to write.")],
    through: Annotated[str | None, typer.Option(help="Last stage to apply, such as F2 (default: all).")] = None,
    override: Annotated[list[str] | None, typer.Argument(help="key=value, changes the recipe.")] = None,
) -> None:
    """Decide which rows a view keeps, from what was measured; no picture is opened."""
    from glyphflow.corpus import Corpus
    from glyphflow.corpus.decide.curate import curate as run
    from glyphflow.corpus.recipe import load_recipe

    done = run(Corpus.open(corpus), load_recipe(recipe, override or ()).through(through), view)
    for (stage, rule), count in done.refused.items():
        waits = "  (not measured yet)" if rule in done.skipped else ""
        typer.echo(f"  {stage}  {rule:<18} {count:>8}{waits}")
    typer.echo(f"{view}: {done.kept} of {done.total} rows kept.")


def annotate(
    corpus: Annotated[Path, _CORPUS],
    view: Annotated[str, typer.Option(help="The rows to annotate.")],
    using: Annotated[
        str,
        typer.Option(
            "--with",
            help="Who describes: rules (names and read text), endpoint:URL (an OpenAI-compatible server; its key in "
            "OPENAI_API_KEY), or qwen:DIRECTORY (Qwen2.5-VL).",
        ),
    ] = "rules",
    model: Annotated[str | None, typer.Option(help="The endpoint's model (default: OPENAI_MODEL).")] = None,
    variants: Annotated[str, typer.Option(help="recaption, fused (asked with the raw caption given), or both.")] = (
        "recaption,fused"
    ),
    languages: Annotated[str, typer.Option(help="Languages of the captions: en, zh, or both.")] = "en,zh",
    renders: Annotated[str, typer.Option(help="truth: renders get their ground truth; model: described like photographs.")] = (
        "truth"
    ),
    ocr: Annotated[bool, typer.Option(help="Check captions against the text read in photographs.")] = True,
    concurrency: Annotated[int, typer.Option(min=1, max=1024, help="Requests under way at a time.")] = 16,
    attempts: Annotated[int, typer.Option(min=1, max=100, help="Requests for one caption until its answer fits.")] = 3,
    workers: Annotated[int | None, _WORKERS] = None,
) -> None:
    """Write caption and metadata of every kept row, in the report's JSON: by a vision-language model, or by rules.

    Renders get their ground truth. Every answer of a model is kept: a run that was cut off asks nothing twice, and rows whose
    server gave no answer are asked again by the same command.
    """
    from glyphflow.corpus import Corpus
    from glyphflow.corpus.annotate import annotate as run

    options = {
        "using": using,
        "model": model,
        "variants": [each.strip() for each in variants.split(",") if each.strip()],
        "languages": [each.strip() for each in languages.split(",") if each.strip()],
        "renders": renders,
        "reading": ocr,
        "concurrency": concurrency,
        "attempts": attempts,
    }
    done = run(Corpus.open(corpus), view, options, workers)
    typer.echo(f"{done.rows} rows annotated now.")
    for error, count in done.errors.items():
        typer.echo(f"  {count:>8}  {error}")


def report(
    corpus: Annotated[Path, _CORPUS],
    view: Annotated[str | None, typer.Option(help="The view to show, with those before it (default: the last one).")] = None,
    recipe: Annotated[str | None, typer.Option(help="Instead of a view: a recipe, whose last view is shown.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The HTML file to write.")] = Path("corpus.html"),
) -> None:
    """Write one page to look at: what every filter of every stage refused, every measured value with pictures at its deciles.

    Also category shares, character coverage, duplicates and captions. One file under 15 MB that needs nothing else; pictures
    that the stage safety flags are blurred.
    """
    from glyphflow.core.errors import ConfigError
    from glyphflow.core.files import write_text
    from glyphflow.corpus import Corpus
    from glyphflow.corpus.copies import remember
    from glyphflow.corpus.recipe import load_recipe
    from glyphflow.corpus.report import longest_view, page, view_of_recipe

    if view is not None and recipe is not None:
        raise ConfigError(f"--view {view} and --recipe {recipe} both say what to show; give one of them.")
    store = Corpus.open(corpus)
    if recipe is not None:
        view = view_of_recipe(store, load_recipe(recipe).stages)
    write_text(output, page(store, view or longest_view(store)))
    remember(store, "page", output)
    typer.echo(f"{output} ({output.stat().st_size / 1e6:.1f} MB)")


def sql(
    corpus: Annotated[Path, _CORPUS],
    query: Annotated[str, typer.Argument(help='Such as: select source, count(*) from "index" group by all')],
) -> None:
    """Query the corpus. Tables: "index", each stage by its name (header, pixels, ...), and each view as view_NAME.

    In a terminal the answer is a table cut to its width; into a file or a pipe it is every row, separated by tabs.
    """
    import sys

    from glyphflow.corpus import Corpus
    from glyphflow.corpus.query import query as run

    typer.echo(run(Corpus.open(corpus), query, pretty=sys.stdout.isatty()))


def export(
    corpus: Annotated[Path, _CORPUS],
    folder: Annotated[Path, typer.Argument(help="An empty or new folder.")],
    view: Annotated[str | None, typer.Option(help="The rows to export (default: all that hold a picture).")] = None,
    form: Annotated[str, typer.Option("--as", help="webdataset, parquet or folder.")] = "webdataset",
) -> None:
    """Write a view for other tools: original bytes of photographs, renders as PNG, captions beside them."""
    from glyphflow.core.errors import ConfigError
    from glyphflow.corpus import Corpus
    from glyphflow.corpus.export import export_folder, export_parquet, export_webdataset

    forms = {"webdataset": export_webdataset, "parquet": export_parquet, "folder": export_folder}
    if form not in forms:
        raise ConfigError(f"--as {form} is not known; choose one of {', '.join(forms)}.")
    typer.echo(f"{forms[form](Corpus.open(corpus).records(view), folder)} records are in {folder}.")


def forget(
    corpus: Annotated[Path, _CORPUS],
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of rows, as sql shows them.")],
) -> None:
    """Remove pictures, their captions and everything measured about them, with every row of the same bytes.

    Their ids stay as tombstones, and an ingest refuses these bytes. Exports, latent caches and pages that were made before are
    not touched: those that the corpus knows are named; make them again.
    """
    from glyphflow.corpus import Corpus
    from glyphflow.corpus.forget import forget as run
    from glyphflow.corpus.forget import left_behind, tombstones

    store = Corpus.open(corpus)
    before = tombstones(store)
    count = run(store, ids)
    gone = sorted(set(tombstones(store)) - set(before))
    typer.echo(f"{count} rows forgotten. Run glyphflow corpus measure and curate again.")
    if others := [each for each in gone if each not in ids]:
        typer.echo(f"  {len(others)} of them were other rows with the same bytes: {_some(others)}.")
    edits, places = left_behind(store, before)
    if edits:
        typer.echo(f"  {len(edits)} edits start from a forgotten picture and may show it; look at them: {_some(edits)}.")
    for kind, place in places:
        typer.echo(f"  The {kind} {place} was made before and may hold a copy; make it again.")


def _some(ids: list[str]) -> str:
    """The first ids of a list, for a sentence."""
    return ", ".join(ids[:20]) + (f" and {len(ids) - 20} more" if len(ids) > 20 else "")
