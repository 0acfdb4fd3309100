"""Model directories: where one is found, what it says about itself, and who it is.

A model directory has the released layout (model_index.json, transformer, vae, text_encoder, tokenizer, scheduler). It may carry
one more file, ``glyphflow.json``, with what the released files cannot say: ``native_area`` (pixels of the pictures that the
model was trained on last), ``default_steps``, ``default_true_cfg_scale`` and ``default_negative_prompt``.
"""

from __future__ import annotations

import importlib.resources
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Literal

from glyphflow.core.config import Config, load_config
from glyphflow.core.errors import GlyphFlowError, InputError, MissingError
from glyphflow.core.files import expanded, read_json, read_json_object, write_json
from glyphflow.core.hashing import fingerprint
from glyphflow.core.numbers import whole
from glyphflow.flow import ScheduleConfig
from glyphflow.generate.hub import from_hub, hub_name
from glyphflow.models.mmdit import CLASSES as MMDIT_CLASSES
from glyphflow.models.stored import MODEL_BASENAME, open_checkpoint
from glyphflow.models.vae import CLASSES as VAE_CLASSES
from glyphflow.models.weights import read_class, weights_hash

NANO = "nano"
COMPONENTS = ("transformer", "vae", "text_encoder")
Kind = Literal["t2i", "edit", "edit-plus", "layered"]
_CLASSES: dict[Kind, str] = {
    "t2i": "QwenImagePipeline",
    "edit": "QwenImageEditPipeline",
    "edit-plus": "QwenImageEditPlusPipeline",
    "layered": "QwenImageLayeredPipeline",
}
_SIBLINGS: dict[str, Kind] = {  # other pipelines of the reference over the same weights
    "QwenImageImg2ImgPipeline": "t2i",
    "QwenImageInpaintPipeline": "t2i",
    "QwenImageControlNetPipeline": "t2i",
    "QwenImageControlNetInpaintPipeline": "t2i",
    "QwenImageEditInpaintPipeline": "edit",
}
_INDEX = {
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "Qwen2_5_VLForConditionalGeneration"],
    "tokenizer": ["transformers", "Qwen2Tokenizer"],
    "transformer": ["diffusers", "QwenImageTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKLQwenImage"],
}
_EXAMPLES: dict[Kind, str] = {
    "t2i": "Qwen/Qwen-Image",
    "edit": "Qwen/Qwen-Image-Edit",
    "edit-plus": "Qwen/Qwen-Image-Edit-2511",
    "layered": "Qwen/Qwen-Image-Layered",
}
_PATTERNS = [
    "model_index.json",
    "glyphflow.json",
    *(f"{part}/*" for part in (*COMPONENTS, "tokenizer", "scheduler", "processor")),
]
_LONGEST = 16384  # pixels a side: a million tokens, more than any card holds
_REMEMBER_ABOVE = 2**30  # bytes; hashing 1 GiB takes about a second, 58 GB of released weights most of a minute


class ModelFacts(Config):
    """The content of ``glyphflow.json``; the defaults are for released weights, which have no such file."""

    native_area: int = 1024 * 1024
    default_steps: int = 50
    default_true_cfg_scale: float = 4.0
    default_negative_prompt: str = " "  # what the released example code guides against, not the empty text

    @classmethod
    def read(cls, directory: Path) -> ModelFacts:
        """What ``directory`` says; keys of other readers are skipped."""
        path = directory / "glyphflow.json"
        content = read_json_object(path) if path.exists() else {}
        return load_config(cls, {key: value for key, value in content.items() if key in cls.model_fields})

    @property
    def native_side(self) -> int:
        """Side in pixels of the square of the native area, a multiple of 16."""
        return max(16, round(math.sqrt(self.native_area) / 16) * 16)


def copy_without(root: Path, out: Path, part: str) -> None:
    """Copy the pipeline directory ``root`` to ``out``, all but its folder ``part``."""
    shutil.copytree(root, out, ignore=lambda folder, names: [part] if Path(folder) == root else [])


def index(kind: Kind, tokenizer: str, with_processor: bool) -> dict[str, object]:
    """The content of ``model_index.json`` for a model of ``kind``."""
    processor = {"processor": ["transformers", "Qwen2VLProcessor"]} if with_processor else {}
    return {"_class_name": _CLASSES[kind], **_INDEX, "tokenizer": ["transformers", tokenizer], **processor}


def read_kind(root: Path) -> Kind:
    """What the model in ``root`` was trained for, from its ``model_index.json``; text to image where there is none.

    Raises :class:`InputError` for a model of another family.
    """
    path = root / "model_index.json"
    name = read_json_object(path).get("_class_name") if path.exists() else _CLASSES["t2i"]
    kinds = {known: kind for kind, known in _CLASSES.items()} | _SIBLINGS
    if name not in kinds:
        raise InputError(
            f"{root} holds a {name or 'pipeline of no class'}, which this version does not run; known are {', '.join(kinds)}."
        )
    return kinds[name]


def require_kind(kind: Kind, verb: str, wanted: Sequence[Kind]) -> None:
    """Refuse to ``verb`` with a model of another kind than ``wanted``."""
    if kind not in wanted:
        article = "an" if kind.startswith("e") else "a"
        raise InputError(
            f"This is {article} {kind} model ({_CLASSES[kind]}) and {verb} needs {' or '.join(wanted)}; use one such as "
            f"{_EXAMPLES[wanted[-1]]}."
        )


def locate(source: str | Path | None) -> Path:
    """The local directory that ``source`` names: a directory, ``owner/name`` on the Hugging Face hub, or the nano weights.

    None and ``"nano"`` mean the weights shipped with this package. A hub name is downloaded once (``huggingface_hub``'s cache).
    Raises :class:`MissingError` when there is no such thing.
    """
    if source is None or str(source) == NANO:
        return _nano()
    directory = expanded(source)
    if not directory.exists():
        return _checked(_download(source, "model directory", "Qwen/Qwen-Image", _PATTERNS, "model_index.json"))
    if not directory.is_dir():
        raise InputError(
            f"{directory} is a file, and a model is a directory in the released layout; give one transformer's file as "
            "transformer beside the directory that it belongs to."
        )
    return _checked(directory)


def _checked(root: Path) -> Path:
    """``root`` if it is a model directory whose parts are there and of the classes that are run here."""
    read_kind(root)
    for part in (*COMPONENTS, "tokenizer", "scheduler"):
        if not (root / part).is_dir():
            raise MissingError(f"{root} has no directory {part!r}; give a model directory in the released layout.")
    read_class(root / "transformer", MMDIT_CLASSES)
    read_class(root / "vae", VAE_CLASSES)
    return root


def read_small_files(root: Path, transformer: Path | None) -> tuple[ScheduleConfig, ModelFacts]:
    """The schedule and the facts of the model in ``root``, before its weights: what is damaged is said in a moment.

    The headers of all files of weights are looked at, too; ``transformer`` stands in for the one in ``root``.
    """
    schedule = ScheduleConfig.from_json(root / "scheduler" / "scheduler_config.json")
    facts = ModelFacts.read(root)
    for source in (root / "vae", *(() if transformer is not None else (root / "transformer",))):
        open_checkpoint(source)
    open_checkpoint(root / "text_encoder", MODEL_BASENAME)
    return schedule, facts


def locate_controlnet(source: str | Path) -> Path:
    """The local directory of a ControlNet: one with its config.json, or ``owner/name`` on the hub, as in :func:`locate`."""
    directory = expanded(source)
    if not directory.exists():
        example, patterns = "InstantX/Qwen-Image-ControlNet-Union", ["config.json", "*.safetensors*"]
        return _download(source, "ControlNet", example, patterns, "config.json")
    if not (directory / "config.json").exists():
        raise MissingError(f"{directory} has no config.json; give the directory of a ControlNet, with its weights.")
    return directory


def _nano() -> Path:
    directory = Path(str(importlib.resources.files("glyphflow"))) / "assets" / "nano"
    if not (directory / "model_index.json").exists():
        raise MissingError(
            f"The nano weights are not in this installation ({directory} is empty); install the package again, or pass the "
            "directory of another model."
        )
    return directory


def _download(source: str | Path, what: str, example: str, patterns: list[str], first: str) -> Path:
    """The directory of the hub's repository ``source``; its file ``first`` is looked at before gigabytes follow."""
    found = hub_name(source)
    if found is None or found.inside:
        raise MissingError(f"There is no {what} {source}; check the path, or give a hub name such as {example}.")

    def ask() -> Path:
        from huggingface_hub import hf_hub_download, snapshot_download

        if first == "model_index.json":
            read_kind(Path(hf_hub_download(found.repository, first)).parent)
        return Path(snapshot_download(found.repository, allow_patterns=patterns))

    return from_hub(str(source), "directory", ask)


def directory_hash(directory: Path, transformer: Path | None = None) -> str:
    """16 hexadecimal characters: the contents of the transformer's, the VAE's and the text encoder's weights.

    ``transformer``, a file or a directory, replaces the one in ``directory``. Hashes of large directories are remembered in the
    user's cache directory under the files' sizes and times.
    """
    places = {part: directory / part for part in COMPONENTS} | ({} if transformer is None else {"transformer": transformer})
    files = sorted(path for place in places.values() for path in ([place] if place.is_file() else place.glob("*.safetensors")))
    if sum(path.stat().st_size for path in files) < _REMEMBER_ABOVE:
        return _hash(places)
    state = [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "glyphflow" / "weights" / fingerprint(state)
    if cache.exists():
        return str(read_json(cache))
    value = _hash(places)
    try:
        write_json(cache, value)
    except (GlyphFlowError, OSError):
        return value  # a cache that cannot be written costs time only
    return value


def _hash(places: Mapping[str, Path]) -> str:
    return fingerprint({part: weights_hash(place) for part, place in places.items()})


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_size(height: int, width: int) -> None:
    """Refuse picture sides that cannot be cut into tokens of 16 x 16 pixels, and those beyond any memory."""
    for name, side in (("height", height), ("width", width)):
        if not _is_whole(side) or side > _LONGEST:
            whole(side, f"The {name} of the picture", 16, _LONGEST)
    if height % 16 or width % 16 or min(height, width) < 16:
        near = [max(16, round(side / 16) * 16) for side in (width, height)]
        raise InputError(
            f"The size {width}x{height} (width x height) is not made of multiples of 16; nearest is {near[0]}x{near[1]}."
        )
