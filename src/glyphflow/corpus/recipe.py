"""What a corpus is made of and what its views keep, as a recipe."""

from __future__ import annotations

import importlib.resources
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pydantic

from glyphflow.core.config import Config, load_config
from glyphflow.core.errors import ConfigError, MissingError
from glyphflow.core.hardware import require
from glyphflow.core.hashing import derive_seed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from glyphflow.render import RenderSpec

Kind = Literal["photo", "render"]
Variant = Literal["raw", "recaption", "fused"]  # what came with the picture, what a captioner says, both in one
VARIANTS: tuple[Variant, ...] = ("raw", "recaption", "fused")
_RECIPES = importlib.resources.files("glyphflow") / "recipes"


class RenderSet(Config):
    """``count`` renders (or edit pairs) of one template. The i-th one's seed follows from ``name``, ``seed`` and i.

    ``scheduled`` characters of the 8,105 must occur in each picture, in an order that brings all of them round equally often
    (render.schedule). An ``optional`` set is left out where a font that it names is not on the machine (the colour emoji of the
    system, say).
    """

    name: str
    template: str
    count: int = pydantic.Field(ge=1)
    seed: int = 0
    width: int = pydantic.Field(128, ge=16)
    height: int = pydantic.Field(128, ge=16)
    params: dict[str, Any] = pydantic.Field(default_factory=dict)
    scheduled: int = pydantic.Field(default=0, ge=0)
    optional: bool = False

    def missing_font(self) -> str | None:
        """The first font that the set names and this machine lacks; None when it can be drawn."""
        from glyphflow.render import SYSTEM_EMOJI, FontLibrary

        for name in self.params.get("fonts", ()):
            try:
                found = FontLibrary.from_manifest([name], system=name == SYSTEM_EMOJI).names()
            except MissingError:
                found = ()
            if name not in found:
                return str(name)
        return None

    def specs(self) -> list[RenderSpec]:
        """The specifications of the set."""
        from glyphflow.render import EDITS, RenderSpec
        from glyphflow.render.schedule import Schedule

        specs = [
            RenderSpec(self.template, derive_seed(self.name, self.seed, number), self.width, self.height, dict(self.params))
            for number in range(self.count)
        ]
        if self.template in EDITS:
            # A pair is two rows: the source, then the target, which names it.
            return [replace(spec, params={**spec.params, "side": side}) for spec in specs for side in ("source", "target")]
        return Schedule(per_picture=self.scheduled, seed=self.seed).apply(specs) if self.scheduled else specs


class Measure(Config):
    """An operator that a stage needs, with its options; a bare name is an operator as it comes.

    With ``kept`` it runs only on the rows that the stage's rules over everything measured before it keep: for an expensive
    operator whose filter comes after cheap ones.
    """

    operator: str
    kept: bool = False
    options: dict[str, Any] = pydantic.Field(default_factory=dict)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"operator": value} if isinstance(value, str) else value


class Condition(Config):
    """What a value of ``column``, "stage.column" (``pixels.clarity``) or "index.column", has to be.

    Exactly the given conditions hold: ``min`` and ``max`` (inclusive), ``equals``, ``empty`` (true: the value must be null or
    "", false: it must be there).
    """

    column: str = pydantic.Field(pattern=r"^[a-z_0-9]+\.[a-z_0-9]+$")
    min: float | None = None
    max: float | None = None
    equals: bool | str | float | None = None
    empty: bool | None = None

    @pydantic.model_validator(mode="after")
    def _has_condition(self) -> Condition:
        if self.min is None and self.max is None and self.equals is None and self.empty is None:
            raise ValueError(f"the condition on {self.column} says nothing; give min, max, equals or empty")
        return self

    @property
    def source(self) -> str:
        """The stage whose columns are read, or "index"."""
        return self.column.split(".")[0]

    def met(self, values: Any, null: bool) -> NDArray[np.bool_]:
        """(N,) bool for an Arrow array (N,): which values meet the condition. ``null``: whether an absent number does."""
        pc = require("pyarrow.compute", "corpus")
        absent = pc.is_null(values).to_numpy(zero_copy_only=False)
        met = np.ones(len(values), np.bool_)
        if self.empty is not None:
            blank = absent | (
                pc.fill_null(pc.equal(values, ""), False).to_numpy(zero_copy_only=False) if _is_text(values) else False
            )
            met &= blank == self.empty
        if self.equals is not None:
            met &= pc.fill_null(pc.equal(values, self.equals), null).to_numpy(zero_copy_only=False)
        if self.min is not None or self.max is not None:
            try:
                numbers = values.cast("float64").to_numpy(zero_copy_only=False)  # null and NaN alike: nothing was found out
            except require("pyarrow", "corpus").ArrowException as error:
                raise ConfigError(f"{self.column} holds texts, which have no min and max; give equals or empty.") from error
            low = self.min if self.min is not None else -np.inf
            high = self.max if self.max is not None else np.inf
            met &= np.where(np.isnan(numbers), null, (numbers >= low) & (numbers <= high))
        return met


class Rule(Condition):
    """One filter: rows whose value does not meet the condition are refused.

    A null number passes every condition but ``empty: false``, because nothing was found out about it. ``kinds`` limits the rule
    to photographs or renders: a clean render is flat and sharp by design, so thresholds made for photographs do not fit it.
    ``splits`` limits it to rows of these splits of the stage (or of the last stage that splits). With ``captions`` the rule
    judges these caption variants and not the picture: it takes them from the row, and refuses the row once none is left.
    An ``optional`` rule is skipped while its stage has not run. ``reason`` is the sentence shown for a refused row; {value} is
    filled in.
    """

    filter: str
    kinds: tuple[Kind, ...] = ("photo", "render")
    splits: tuple[str, ...] = ()
    captions: tuple[Variant, ...] = ()
    optional: bool = False
    reason: str

    def passes(self, values: Any) -> NDArray[np.bool_]:
        """(N,) bool for the column as an Arrow array (N,): which values pass."""
        return self.met(values, null=True)


class Split(Config):
    """A part of a view: the rows that meet every condition of ``when`` and belong to no split before it.

    A null meets no condition but ``empty: true``. Without conditions it is the split of all other rows.
    """

    name: str = pydantic.Field(pattern=r"^[a-z][a-z0-9-]*$")
    when: tuple[Condition, ...] = ()


class Balance(Config):
    """Weights that bring the branches of the taxonomy towards their shares in it.

    A row's weight is its branch's share over the branch's part of the view, between ``low`` and ``high``: a bound on how often
    a row is repeated. A branch without a share keeps the weight 1.
    """

    low: float = pydantic.Field(0.5, gt=0, le=1)
    high: float = pydantic.Field(3.0, ge=1)


class Patch(Config):
    """Targeted patches: rows that only the filters ``forgive`` ("F5/Aesthetic") refused come back into weak branches.

    A branch is weak while it has less than ``below`` of its share of the view, or when ``scores`` (a JSON or YAML file: branch
    -> 0..1, from an evaluation) gives it less than ``least_score``. It is filled up to ``below`` of its share (a branch with a
    low score: by as many rows as it lacks in score), first with rows whose captions have keywords of the branch, best category
    score first, then with the pictures nearest to the branch's ``exemplars`` best rows in the ``embedding`` column, down to the
    cosine ``similarity``.
    """

    below: float = pydantic.Field(0.5, gt=0, le=1)
    forgive: tuple[str, ...] = pydantic.Field(min_length=1)
    scores: Path | None = None
    least_score: float = pydantic.Field(0.5, ge=0, le=1)
    embedding: str = "embedding.vector"
    exemplars: int = pydantic.Field(64, ge=1)
    similarity: float = pydantic.Field(0.7, ge=-1, le=1)


class Best(Config):
    """Of every node of the taxonomy the ``share`` with the best scores stays, at least ``least`` rows.

    ``scores`` are columns with their weights, negative where less is better; each is first turned into the rank within the node
    (0 worst, 1 best), so that scales do not matter. A null is the middle rank. Other ``kinds`` stay.
    """

    filter: str = "Best of Category"
    share: float = pydantic.Field(gt=0, le=1)
    least: int = pydantic.Field(default=50, ge=1)
    scores: dict[str, float] = pydantic.Field(min_length=1)
    kinds: tuple[Kind, ...] = ("photo",)
    reason: str = "among the rows of its category it stands at {value} of 1"


class Resample(Config):
    """Weights of the rows of ``splits`` against the frequency of the characters that are written in them.

    The weight of a text is the mean over its characters of (median count / count) ** ``power``, brought to a mean of 1 over
    the view's texts, between ``low`` and ``high``.
    """

    splits: tuple[str, ...] = pydantic.Field(min_length=1)
    power: float = pydantic.Field(0.5, gt=0, le=1)
    low: float = pydantic.Field(0.25, gt=0, le=1)
    high: float = pydantic.Field(4.0, ge=1)


class Stage(Config):
    """A stage of the curation. Its ``view`` is what all stages up to and including this one keep.

    ``measure`` are the operators whose columns it needs, run on the rows that the view of the stage before keeps (all rows, for
    the first). Then, in this order: ``splits`` (else those of the stage before stay), ``rules``, ``patch``, ``best``, and the
    weights of ``balance`` and ``resample``, which replace the weights of the stage before. Rows of the splits ``recaption`` are
    marked to be captioned anew.
    """

    name: str
    title: str
    view: str = ""
    measure: tuple[Measure, ...] = ()
    splits: tuple[Split, ...] = ()
    rules: tuple[Rule, ...] = ()
    patch: Patch | None = None
    best: Best | None = None
    balance: Balance | None = None
    resample: Resample | None = None
    recaption: tuple[str, ...] = ()

    @property
    def reads(self) -> dict[str, str]:
        """Every column that it reads beside those of its rules -> what for."""
        found = {condition.column: f"split {split.name!r}" for split in self.splits for condition in split.when}
        if self.patch is not None:
            found |= dict.fromkeys(("categories.branch", "categories.score", "categories.mentions"), "patch")
            found[self.patch.embedding] = "patch"
        if self.best is not None:
            found |= dict.fromkeys(("categories.node", *self.best.scores), "best")
        if self.balance is not None:
            found["categories.branch"] = "balance"
        if self.resample is not None:
            found["text.lines"] = "resample"
        return found

    def so_far(self, measured: Collection[str]) -> Stage:
        """The stage with nothing but its rules over columns of the operators ``measured``, and a view of its own."""
        known = {"index", *measured}
        rules = tuple(rule for rule in self.rules if rule.column.split(".")[0] in known and not rule.splits)
        return Stage(name=self.name, title=self.title, view=f"{self.view}-so-far", rules=rules)

    @property
    def filters(self) -> tuple[str, ...]:
        """Names of its filters in the order in which they are applied, each once."""
        return tuple(dict.fromkeys([rule.filter for rule in self.rules] + ([self.best.filter] if self.best else [])))


class CorpusRecipe(Config):
    """Renders to add, and the stages of the views."""

    render: tuple[RenderSet, ...] = ()
    stages: tuple[Stage, ...] = ()

    @pydantic.model_validator(mode="after")
    def _names_differ(self) -> CorpusRecipe:
        for what, names in (("render set", [r.name for r in self.render]), ("stage", [s.name for s in self.stages])):
            doubled = sorted({name for name in names if names.count(name) > 1})
            if doubled:
                raise ValueError(f"two {what}s are named {doubled[0]!r}; give each its own name")
        views = [stage.view for stage in self.stages if stage.view]
        if len(set(views)) < len(views):
            raise ValueError("two stages write one view; give each its own name")
        return self

    @pydantic.model_validator(mode="after")
    def _splits_and_filters_exist(self) -> CorpusRecipe:
        splits: tuple[str, ...] = ()
        filters: list[str] = []
        for stage in self.stages:
            splits = tuple(split.name for split in stage.splits) or splits
            filters += [f"{stage.name}/{name}" for name in stage.filters]
            for what, name in _named_parts(stage):
                known = filters if what == "filter" else splits
                if name not in known:
                    raise ValueError(f"stage {stage.name} names the {what} {name!r}; there are {', '.join(known) or 'none'}")
        return self

    def through(self, stage: str | None) -> tuple[Stage, ...]:
        """The stages up to and including the one named ``stage``; all of them when None."""
        if stage is None:
            return self.stages
        names = [each.name for each in self.stages]
        if stage not in names:
            raise ConfigError(f"The recipe has no stage {stage!r}; its stages are {', '.join(names) or 'none'}.")
        return self.stages[: names.index(stage) + 1]


def _named_parts(stage: Stage) -> Iterator[tuple[str, str]]:
    """The splits and filters that parts of a stage refer to."""
    for rule in stage.rules:
        yield from (("split", name) for name in rule.splits)
    yield from (("split", name) for name in (*stage.recaption, *(stage.resample.splits if stage.resample else ())))
    yield from (("filter", name) for name in (stage.patch.forgive if stage.patch else ()))


def _is_text(values: Any) -> bool:
    pa = require("pyarrow", "corpus")
    return bool(pa.types.is_string(values.type) or pa.types.is_large_string(values.type))


def load_recipe(name: Path | str, overrides: Sequence[str] = ()) -> CorpusRecipe:
    """Read a recipe file, or one of the packaged ones by name ("demo-corpus")."""
    path = Path(name)
    if path.is_file():
        return load_config(CorpusRecipe, path, overrides)
    packaged = packaged_recipes()
    if str(name) not in packaged:
        raise ConfigError(f"There is no recipe {str(name)!r}, neither as a file nor packaged ({', '.join(packaged)}).")
    with importlib.resources.as_file(_RECIPES / f"{name}.yaml") as file:
        return load_config(CorpusRecipe, file, overrides)


def packaged_recipes() -> list[str]:
    """Names of the corpus recipes that ship with the package."""
    return sorted(entry.name[:-5] for entry in _RECIPES.iterdir() if entry.name.endswith("-corpus.yaml"))
