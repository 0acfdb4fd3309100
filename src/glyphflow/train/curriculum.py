"""The curriculum: what a long run learns from when, as strict typed objects.

Five things change from stage to stage, as in the report: the size of the pictures, how much text they hold, how strictly the
corpus was filtered, how evenly it is mixed, and how much of it is synthetic. A stage says all five, and how long it lasts.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal, cast

from pydantic import Field, model_validator

from glyphflow.core.config import Config, load_config
from glyphflow.core.errors import ConfigError
from glyphflow.feed.settings import FeedSettings, Positive, Source, TextLevel, Weights
from glyphflow.feed.settings import Resolution as FeedResolution
from glyphflow.models import MMDiTConfig, VAEConfig
from glyphflow.train.optimizer import learning_rate
from glyphflow.train.recipe import (
    AnyRecipe,
    FlowObjective,
    MMDiTRecipe,
    Payload,
    PreviewConfig,
    RunConfig,
    Schedule,
    Share,
    TrainConfig,
    find_recipe,
    read_recipe,
    recipe_kind,
)


class Resolution(Config):
    """Pictures of one area; they come in the nine ratios of :data:`glyphflow.feed.buckets.RATIOS`."""

    side: Positive
    """Pixels of the side of a square of this area: 256, 640, 1328."""
    batch: Positive
    """Pictures of one optimizer step, over all processes."""
    share: float = Field(default=1.0, gt=0)
    """Share of the stage's steps, relative to the other resolutions."""


class Stage(Config):
    """One stretch of the run with the same data."""

    name: str
    steps: Positive
    lr: float = Field(gt=0)
    resolutions: Annotated[tuple[Resolution, ...], Field(min_length=1)]
    view: str | None
    """Name of the corpus view that the stage reads, in every source: what the filters of its stage kept. None: the sources'
    own views."""
    splits: Weights = Field(default_factory=dict)
    """Weights of the view's splits, such as english, chinese, other, non-text."""
    captions: Weights = Field(default_factory=dict)
    """Caption variant -> chance of being chosen: raw, recaption, fused."""
    text: TextLevel
    mixture: Weights = Field(default_factory=dict)
    """Weights of the domains: nature, design, people, and synthetic (rendered) pictures."""
    tasks: Weights = Field(default_factory=lambda: {"t2i": 1.0})
    """Weights of t2i (text to picture), ti2i (edits) and i2i (reconstruction)."""
    producers: Positive | Literal["auto"] = "auto"
    """Encoding devices; auto: as many as keep the trainers fed, from measured rates."""
    schedule: Schedule = "constant"
    lr_floor: float = Field(default=0.0, ge=0, le=1)
    """Share of ``lr`` that a cosine ends at with the stage."""

    def shares(self) -> tuple[float, ...]:
        """Share of the steps of each resolution; they sum to 1."""
        total = sum(each.share for each in self.resolutions)
        return tuple(each.share / total for each in self.resolutions)


class Optimizer(Config):
    """What all stages share; warm-up happens once, at the beginning."""

    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(default=0.001, ge=0)
    clip: float = Field(default=1.0, gt=0)
    warmup_steps: int = Field(default=1000, ge=0)
    ema_decay: float = Field(default=0.9999, ge=0, lt=1)
    """0: no average is kept, which saves 4 bytes a parameter."""


class Curriculum(Config):
    """A whole run: the network, the objective and the stages in order."""

    payload: ClassVar[Payload] = "encoded"
    kind: Literal["curriculum"]
    seed: int = 0
    out: Path
    model: MMDiTConfig = MMDiTConfig()
    vae: VAEConfig = VAEConfig()
    objective: FlowObjective = FlowObjective()
    optimizer: Optimizer = Optimizer()
    drop_condition: Annotated[float, Field(ge=0, lt=1)] = 0.1
    caption_tokens: Positive = 150
    """Mean length of a caption as the MMDiT sees it, the closing tokens of the template included; only plans read it."""
    sources: tuple[Source, ...] = ()
    """Where the stages' views are found."""
    fingerprint: str | None = None
    """Identity of the encoders; filled in by the first run, and samples of other encoders are refused from then on."""
    heldout_share: Share = 0.02
    crop_limit: float = Field(default=0.5, gt=0, le=1)
    """Share of a picture that may be cut away; see :class:`glyphflow.feed.settings.FeedSettings`."""
    from_scratch: bool = True
    """Begin with random weights of ``model``; false: with those of ``train.init_from``. The encoders are always from there."""
    train: RunConfig = RunConfig()
    preview: PreviewConfig = PreviewConfig()
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _check(self) -> Curriculum:
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise ConfigError(f"Stages need names of their own, not {', '.join(names)}; rename those that are alike.")
        area = max(each.side**2 for stage in self.stages for each in stage.resolutions)
        object.__setattr__(self, "preview", self.preview.sized(area))  # the curriculum is frozen, but not made yet
        return self

    def starts(self) -> tuple[int, ...]:
        """First optimizer step of each stage, and the end of the last."""
        return tuple(sum(stage.steps for stage in self.stages[:number]) for number in range(len(self.stages) + 1))

    def feed(self, stage: Stage) -> FeedSettings:
        """What the feed takes for ``stage``."""
        return FeedSettings(
            sources=self.sources,
            resolutions=tuple(FeedResolution(area=r.side**2, batch_size=r.batch, share=r.share) for r in stage.resolutions),
            view=stage.view,
            tasks=stage.tasks,
            mixture=stage.mixture,
            splits=stage.splits,
            text=stage.text,
            captions=stage.captions,
            drop_condition=self.drop_condition,
            heldout_share=self.heldout_share,
            crop_limit=self.crop_limit,
            fingerprint=self.fingerprint,
            producers=stage.producers,
        )

    def rate(self, step: int) -> float:
        """Learning rate of ``step`` (from 0): its stage's, under one linear warm-up at the beginning of the run."""
        starts = self.starts()
        number = min(bisect.bisect_right(starts, step), len(self.stages)) - 1
        stage = self.stages[number]
        settings = TrainConfig(steps=stage.steps, lr=stage.lr, schedule=stage.schedule, lr_floor=stage.lr_floor)
        warmed = min(1.0, (step + 1) / self.optimizer.warmup_steps) if self.optimizer.warmup_steps else 1.0
        return warmed * learning_rate(step - starts[number], settings)

    def settings(self) -> TrainConfig:
        """What the loop needs of the whole run; the learning rate is that of :meth:`rate`."""
        return TrainConfig(
            **dict(self.train), **dict(self.optimizer), steps=self.starts()[-1], lr=max(stage.lr for stage in self.stages)
        )


def read_training(source: str | Path, overrides: Sequence[str] = ()) -> AnyRecipe | Curriculum:
    """Read whatever ``glyphflow train`` trains by: a curriculum or a recipe of one stage."""
    return read_curriculum(source, overrides) if is_curriculum(source) else read_recipe(source, overrides)


def read_curriculum(source: str | Path, overrides: Sequence[str] = ()) -> Curriculum:
    """Read a curriculum file, or a packaged one (``qwen-image-20b``), and apply ``dotted.key=value`` overrides."""
    return load_config(Curriculum, find_recipe(source), overrides)


def is_curriculum(source: str | Path) -> bool:
    """Whether ``source`` is a curriculum rather than a recipe of one stage."""
    return recipe_kind(source) == "curriculum"


def encoded_recipe(read: AnyRecipe | Curriculum, purpose: str) -> MMDiTRecipe | Curriculum:
    """``read``, which must train on encoded pictures; ConfigError with ``purpose`` for one of another payload."""
    if read.payload == "encoded":
        return cast("MMDiTRecipe | Curriculum", read)
    raise ConfigError(
        f"The recipe is of kind {read.kind}, which trains on {read.payload}; {purpose} a recipe of kind mmdit or a curriculum."
    )
