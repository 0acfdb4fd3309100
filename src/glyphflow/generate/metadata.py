"""What a picture was made from: enough to make the identical file again."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from pydantic import Field, JsonValue

from glyphflow.core.config import Config
from glyphflow.core.errors import InputError
from glyphflow.generate.adapters import FROM_TENSORS
from glyphflow.generate.images import Picture, rgba
from glyphflow.generate.speed import Speed
from glyphflow.models.quantize import quantised_as

if TYPE_CHECKING:
    from glyphflow.generate.parallel import Parallel
    from glyphflow.generate.pipeline import Pipeline

_REQUEST = {"task", "prompt", "negative_prompt", "seed", "num_inference_steps", "true_cfg_scale", "width", "height", "settings"}
_POINTED_AT = ("weights_hash", "controlnet_hash", "adapters", "quantize", "approximate")


class UsedAdapter(Config):
    """A LoRA that was on: its name in the pipeline, where it was read from, the hash of its content, its strength."""

    name: str
    source: str
    identity: str
    weight: float


class Metadata(Config):
    """Everything that decides the pixels. No time stamp: the same request gives the same bytes.

    ``task`` is the verb. ``settings`` are its options beside those that every verb has (``strength``, ``schedule``, ``layers``)
    by their names in Python; ``inputs`` are the hashes of the pictures it was given (:func:`picture_hash`), by role ("image",
    "mask_image"), ``sources`` the names of the files they came from. ``model``, ``transformer``, ``controlnet``, ``adapters``,
    ``quantize`` and ``speed`` say how the pipeline was opened; ``approximate`` names what in this makes another picture than
    the exact computation's. Files without ``speed`` were made by the reference's operations.
    """

    task: str = "generate"
    prompt: str
    negative_prompt: str
    seed: int
    num_inference_steps: int
    true_cfg_scale: float
    width: int
    height: int
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    inputs: dict[str, str] = Field(default_factory=dict)
    sources: dict[str, str] = Field(default_factory=dict)
    model: str
    weights_hash: str
    transformer: str | None = None
    controlnet: str | None = None
    controlnet_hash: str | None = None
    adapters: tuple[UsedAdapter, ...] = ()
    quantize: str | None = None
    speed: dict[str, JsonValue] | None = None
    approximate: tuple[str, ...] = ()
    dtype: str
    device: str
    versions: dict[str, str]

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
    task: str = "generate",
    settings: Mapping[str, JsonValue] | None = None,
    inputs: Mapping[str, Picture] | None = None,
    sources: Mapping[str, str] | None = None,
) -> Metadata:
    """The metadata of a picture that ``pipeline``, opened as ``model``, makes of these values on this machine.

    ``inputs`` are the pictures themselves; only their hashes are kept, and ``sources``, the names of their files.
    """
    return Metadata(
        task=task,
        prompt=prompt,
        negative_prompt=negative_prompt,
        seed=seed,
        num_inference_steps=num_inference_steps,
        true_cfg_scale=true_cfg_scale,
        width=width,
        height=height,
        settings=dict(settings or {}),
        inputs={role: picture_hash(picture) for role, picture in (inputs or {}).items()},
        sources=dict(sources or {}),
        model=model,
        weights_hash=pipeline.weights_hash,
        transformer=None if pipeline.transformer_source is None else str(pipeline.transformer_source),
        controlnet=str(pipeline.controlnet_source) if task == "control" else None,
        controlnet_hash=pipeline.controlnet_hash if task == "control" else None,
        adapters=tuple(
            UsedAdapter(name=name, source=known.source, identity=known.identity, weight=known.weight)
            for name, known in pipeline.adapters.items()
            if known.weight
        ),
        quantize=quantised_as(pipeline.transformer),
        speed=dataclasses.asdict(pipeline.speed),
        approximate=pipeline.approximations,
        dtype=str(pipeline.dtype).removeprefix("torch."),
        device=pipeline.device.type,
        versions={name: importlib.metadata.version(name) for name in ("glyphflow", "torch", "transformers")},
    )


def open_again(
    wanted: Metadata,
    model: str | None = None,
    device: str | None = None,
    memory: str | int = "auto",
    parallel: Parallel | str | None = None,
) -> Pipeline:
    """The pipeline that a picture was made with: its model (or ``model``, where that lies now), dtype, switches and adapters.

    Raises :class:`InputError` for what cannot be opened again.
    """
    from glyphflow.generate.pipeline import Pipeline

    try:
        speed = Speed.reference() if wanted.speed is None else Speed(**wanted.speed)  # type: ignore[arg-type]
        how = {"dtype": getattr(torch, wanted.dtype), "quantize": wanted.quantize, "speed": speed}
    except (TypeError, AttributeError) as error:
        raise InputError(f"The picture was made with switches that this version does not have ({error}).") from error
    if device is None and wanted.device != "cuda":
        device = wanted.device
    pipeline = Pipeline.from_pretrained(
        model or wanted.model,
        device=device,
        memory=memory,
        transformer=wanted.transformer,
        controlnet=wanted.controlnet,
        parallel=parallel,
        **how,
    )
    for used in wanted.adapters:
        if used.source == FROM_TENSORS:
            raise InputError(f"The adapter {used.name} was given as tensors, which no file holds; load those again.")
        pipeline.load_lora_weights(used.source, adapter_name=used.name, weight=used.weight)
    return pipeline


def describe_again(pipeline: Pipeline, wanted: Metadata, inputs: Mapping[str, Picture] | None = None) -> Metadata:
    """The metadata of the same request made by ``pipeline`` here and now, from ``inputs``.

    Raises :class:`InputError` when these are not the pictures or the weights that ``wanted`` was made from.
    """
    for name in sorted(wanted.inputs.keys() | (inputs or {}).keys()):
        then = wanted.inputs.get(name)
        now = picture_hash(inputs[name]) if inputs is not None and name in inputs else None
        if now != then:
            raise InputError(f"The picture was made from the {name} {then} and this one is {now}; give the same picture again.")
    content = wanted.model_dump(include=_REQUEST)
    again = describe(pipeline, wanted.model, inputs=inputs, sources=wanted.sources, **content)
    for name in _POINTED_AT:
        now, then = getattr(again, name), getattr(wanted, name)
        if now != then:
            raise InputError(
                f"The picture was made with {name} {_plain(then)} and this pipeline has {_plain(now)}; open the original "
                f"{wanted.model} in the same way (--model)."
            )
    return again


def picture_hash(picture: Picture) -> str:
    """16 hexadecimal characters: the size and the pixels of ``picture``, upright, whatever file they came from."""
    image = rgba(picture)
    return hashlib.sha256(f"{image.width}x{image.height}:".encode() + image.tobytes()).hexdigest()[:16]


def _plain(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_plain, value)) or "none"
    return f"{value.source} ({value.identity}) at {value.weight:g}" if isinstance(value, UsedAdapter) else str(value)
