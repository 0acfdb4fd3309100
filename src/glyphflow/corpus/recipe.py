"""What a corpus is made of and what its views keep, as a recipe."""

from __future__ import annotations

import importlib.resources
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pydantic

from glyphflow.core.config import Config, load_config
from glyphflow.core.errors import ConfigError, MissingError
from glyphflow.core.hashing import derive_seed

if TYPE_CHECKING:
    from glyphflow.render import RenderSpec

Kind = Literal["photo", "render"]
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


class Rule(Config):
    """One filter: rows whose ``column`` lies outside what is allowed are refused.

    ``column`` is "stage.column" (``pixels.clarity``) or "index.column". Exactly the given conditions hold: ``min`` and ``max``
    (inclusive), ``equals``, ``empty`` (true: the value must be null or "", false: it must be there). A null value passes every
    condition but ``empty: false``, because nothing was found out about it. ``kinds`` limits the rule to photographs or renders:
    a clean render is flat and sharp by design, so thresholds made for photographs do not fit it. An ``optional`` rule is
    skipped while its stage has not run. ``reason`` is the sentence shown for a refused row; {value} is filled in.
    """

    filter: str
    column: str = pydantic.Field(pattern=r"^[a-z_0-9]+\.[a-z_0-9]+$")
    min: float | None = None
    max: float | None = None
    equals: bool | str | float | None = None
    empty: bool | None = None
    kinds: tuple[Kind, ...] = ("photo", "render")
    optional: bool = False
    reason: str

    @pydantic.model_validator(mode="after")
    def _has_condition(self) -> Rule:
        if self.min is None and self.max is None and self.equals is None and self.empty is None:
            raise ValueError(f"the rule {self.filter!r} has no condition; give min, max, equals or empty")
        return self

    def allows(self, value: Any) -> bool:
        """Whether a row with this measured value passes."""
        if self.empty is not None and (value is None or value == "") != self.empty:
            return False
        if value is None:
            return True
        if self.equals is not None and value != self.equals:
            return False
        return not (self.min is not None and value < self.min) and not (self.max is not None and value > self.max)


class Stage(Config):
    """A stage of the curation: filters that are applied in order."""

    name: str
    title: str
    rules: tuple[Rule, ...]


class CorpusRecipe(Config):
    """Renders to add, and the stages of the view."""

    render: tuple[RenderSet, ...] = ()
    stages: tuple[Stage, ...] = ()

    @pydantic.model_validator(mode="after")
    def _names_differ(self) -> CorpusRecipe:
        for what, names in (("render set", [r.name for r in self.render]), ("stage", [s.name for s in self.stages])):
            doubled = sorted({name for name in names if names.count(name) > 1})
            if doubled:
                raise ValueError(f"two {what}s are named {doubled[0]!r}; give each its own name")
        return self

    def through(self, stage: str | None) -> tuple[Stage, ...]:
        """The stages up to and including the one named ``stage``; all of them when None."""
        if stage is None:
            return self.stages
        names = [each.name for each in self.stages]
        if stage not in names:
            raise ConfigError(f"The recipe has no stage {stage!r}; its stages are {', '.join(names) or 'none'}.")
        return self.stages[: names.index(stage) + 1]


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
