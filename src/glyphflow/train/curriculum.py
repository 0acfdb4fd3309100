"""The curriculum: what a long run learns from when, as strict typed objects.

Five things change from stage to stage, as in the report: the size of the pictures, how much text they hold, how strictly the
corpus was filtered, how evenly it is mixed, and how much of it is synthetic. A stage says all five, and how long it lasts.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from glyphflow.core.config import Config, load_config, parse_yaml
from glyphflow.core.errors import ConfigError
from glyphflow.models import MMDiTConfig, VAEConfig
from glyphflow.train.recipe import FlowObjective

TextLevel = Literal["none", "word", "line", "paragraph"]
"""The most text that pictures of a stage may hold."""

Positive = Annotated[int, Field(gt=0)]


def _weights(weights: dict[str, float]) -> dict[str, float]:
    if weights and (min(weights.values()) < 0 or sum(weights.values()) <= 0):
        raise ValueError("weights must not be negative, and not all zero")
    return weights


Weights = Annotated[dict[str, float], AfterValidator(_weights)]
"""Name -> weight, relative to the others; empty: all alike."""


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
    view: str
    """Name of the corpus view that the stage reads: what the filters of its stage kept."""
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

    kind: Literal["curriculum"]
    seed: int = 0
    out: Path
    model: MMDiTConfig = MMDiTConfig()
    vae: VAEConfig = VAEConfig()
    objective: FlowObjective = FlowObjective()
    optimizer: Optimizer = Optimizer()
    drop_condition: Annotated[float, Field(ge=0, lt=1)] = 0.1
    caption_tokens: Positive = 150
    """Mean length of a caption as the MMDiT sees it, the closing tokens of the template included."""
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _check(self) -> Curriculum:
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise ConfigError(f"Stages need names of their own, not {', '.join(names)}; rename those that are alike.")
        return self


def read_curriculum(source: str | Path, overrides: Sequence[str] = ()) -> Curriculum:
    """Read a curriculum file, or the packaged ``qwen-image-20b``, and apply ``dotted.key=value`` overrides."""
    return load_config(Curriculum, _find(source), overrides)


def is_curriculum(source: str | Path) -> bool:
    """Whether ``source`` is a curriculum rather than a recipe of one stage; a file that cannot be read is neither."""
    try:
        data = parse_yaml(_find(source).read_text(encoding="utf-8"), str(source))
    except OSError:
        return False
    return isinstance(data, dict) and data.get("kind") == "curriculum"


def _find(source: str | Path) -> Path:
    packaged = Path(str(resources.files("glyphflow"))) / "recipes" / Path(source) / "pretrain.yaml"
    return packaged if not Path(source).is_file() and packaged.is_file() else Path(source)
