"""The steps of ``glyphflow demo``: which verbs it runs, with which arguments, and what each one depends on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import yaml

from glyphflow.cli.steps import Step
from glyphflow.core.errors import GlyphFlowError, InputError

CLEAN, KEPT = "clean", "demo"  # views: fit to be annotated, fit to be trained on
OWN_PICTURES = "own"
QUICK_STEPS, QUICK_PROMPTS, QUICK_RENDERS = 4, 6, 8  # of training and sampling; of the benchmark; of each part of the corpus


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
    quick: bool = False

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
            ("corpus", "render", corpus, "--recipe", recipe, *(few_renders(recipe) if settings.quick else ())),
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
    if settings.train_steps is not None or settings.quick:
        changes.append(f"train.steps={settings.train_steps or QUICK_STEPS}")
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
    options = as_previewed(settings.train_recipe, QUICK_STEPS if settings.quick else None)
    if settings.quick:
        options += ("--limit", str(QUICK_PROMPTS))
    made = []
    for name, model, folder, when in (
        ("before", settings.start, settings.before, "before"),
        ("after", str(settings.model), settings.after, "after"),
    ):
        made += [
            Step(
                f"sample-{name}",
                f"generate pictures {when} the fine-tuning",
                ("evaluate", "sample", settings.bench, "--model", model, "--out", str(folder), *options),
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


def as_previewed(recipe: str, steps: int | None) -> tuple[str, ...]:
    """The options that ask for pictures as a recipe's previews are made, of its size and in its steps unless ``steps`` says how
    many; the size of the pictures that it trains on where it makes none, and nothing for one that the verbs will refuse."""
    from glyphflow.train.recipe import MMDiTRecipe, read_recipe

    try:
        read = read_recipe(recipe)
    except GlyphFlowError:
        return ()
    if not isinstance(read, MMDiTRecipe) or read.feed.resolutions:
        return ()
    preview, side = read.preview, math.isqrt(read.feed.area)
    steps = steps or preview.steps
    return ("--size", f"{preview.width or side}x{preview.height or side}", *(("--steps", str(steps)) if steps else ()))


def few_renders(recipe: str) -> tuple[str, ...]:
    """Overrides that leave a few renders of each part of a corpus recipe; none for one that the verbs will refuse."""
    from glyphflow.corpus.recipe import load_recipe

    try:
        parts = load_recipe(recipe).render
    except GlyphFlowError:
        return ()
    return tuple(f"render.{part.name}.count={min(part.count, QUICK_RENDERS)}" for part in parts)


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
