"""What a picture was made from, inside its PNG file: enough to make the identical file again."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, PngImagePlugin, UnidentifiedImageError

from glyphflow.core.config import Config, load_config
from glyphflow.core.errors import ConfigError, InputError
from glyphflow.core.files import atomic_path
from glyphflow.models.quantize import quantised_as

if TYPE_CHECKING:
    from glyphflow.generate.pipeline import Pipeline

_KEY = "glyphflow"


class Metadata(Config):
    """Everything that decides the pixels. No time stamp: the same request gives the same bytes."""

    prompt: str
    negative_prompt: str
    seed: int
    num_inference_steps: int
    true_cfg_scale: float
    width: int
    height: int
    model: str
    weights_hash: str
    dtype: str
    device: str
    versions: dict[str, str]
    quantize: str | None = None
    adapters: tuple[str, ...] = ()

    def differences(self, other: Metadata) -> dict[str, tuple[str, str]]:
        """What differs, by name: this value and the other's."""
        mine, theirs = ({**m.model_dump(exclude={"versions"}), **m.versions} for m in (self, other))
        return {
            key: (str(mine.get(key)), str(theirs.get(key)))
            for key in sorted(mine.keys() | theirs.keys())
            if mine.get(key) != theirs.get(key)
        }


def describe(
    pipeline: Pipeline,
    model: str,
    *,
    prompt: str,
    negative_prompt: str,
    seed: int,
    num_inference_steps: int,
    true_cfg_scale: float,
    width: int,
    height: int,
) -> Metadata:
    """The metadata of a picture that ``pipeline``, opened as ``model``, makes of these values on this machine."""
    return Metadata(
        prompt=prompt,
        negative_prompt=negative_prompt,
        seed=seed,
        num_inference_steps=num_inference_steps,
        true_cfg_scale=true_cfg_scale,
        width=width,
        height=height,
        model=model,
        weights_hash=pipeline.weights_hash,
        dtype=str(pipeline.dtype).removeprefix("torch."),
        device=pipeline.device.type,
        versions={name: importlib.metadata.version(name) for name in ("glyphflow", "torch", "transformers")},
        quantize=quantised_as(pipeline.transformer),
        adapters=tuple(f"{known.identity} * {known.weight:g}" for known in pipeline.adapters.values() if known.weight),
    )


def write_png(image: Image.Image, path: Path, metadata: Metadata) -> None:
    """Write ``image`` with ``metadata`` to ``path``, atomically; equal pixels and metadata give equal bytes."""
    info = PngImagePlugin.PngInfo()
    info.add_itxt("Description", metadata.prompt)  # shown by ordinary viewers
    info.add_itxt("Software", f"GlyphFlow {metadata.versions['glyphflow']}")
    info.add_itxt(_KEY, json.dumps(metadata.model_dump(), ensure_ascii=False, sort_keys=True))
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG", pnginfo=info)


def read_metadata(path: Path) -> Metadata:
    """The metadata of a PNG that :func:`write_png` wrote; any other file raises :class:`InputError`."""
    try:
        with Image.open(path) as image:
            text = image.info.get(_KEY)
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError) as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else "is not a picture that can be read"
        raise InputError(f"{path} {reason}; give a PNG that glyphflow generate wrote.") from error
    if text is None:
        raise InputError(f"{path} carries no GlyphFlow metadata (it may have been edited or converted); give the original PNG.")
    try:
        return load_config(Metadata, json.loads(text))
    except (ConfigError, ValueError, TypeError) as error:
        raise InputError(f"{path}: its GlyphFlow metadata is damaged or of another version ({error}).") from error
