"""What a picture was made from: enough to make the identical file again."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from pydantic import Field, JsonValue

from glyphflow.core.config import Config
from glyphflow.core.errors import InputError, MissingError
from glyphflow.core.files import kind_of
from glyphflow.core.text import whole_characters
from glyphflow.generate.adapters import FROM_TENSORS
from glyphflow.generate.hub import hub_name
from glyphflow.generate.images import Picture, rgba
from glyphflow.generate.places import recall, remember
from glyphflow.generate.speed import Speed
from glyphflow.models.quantize import quantised_as

if TYPE_CHECKING:
    from glyphflow.generate.parallel import Parallel
    from glyphflow.generate.pipeline import Pipeline

_REQUEST = {"task", "prompt", "negative_prompt", "seed", "num_inference_steps", "true_cfg_scale", "width", "height", "settings"}
_PLACES = ("model", "transformer", "controlnet")
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

    def shared(self) -> Metadata:
        """As files keep it, because files are passed on: names of files and directories without those that they lie in.

        Hub names stay whole. What is named is known by its hash.
        """
        adapters = tuple(used.model_copy(update={"source": place_name(used.source)}) for used in self.adapters)
        places = {name: None if (place := getattr(self, name)) is None else place_name(place) for name in _PLACES}
        sources = {role: whole_characters(Path(source).name) for role, source in self.sources.items()}
        return self.model_copy(update={**places, "sources": sources, "adapters": adapters})

    def remember(self) -> None:
        """Keep on this machine where the things lie that :meth:`shared` names."""
        hashes = {"model": self.weights_hash, "transformer": self.weights_hash, "controlnet": self.controlnet_hash}
        for what, identity in hashes.items():
            remember(what, identity, getattr(self, what))
        for used in self.adapters:
            remember("lora", used.identity, used.source)
        for role, source in self.sources.items():
            remember("picture", self.inputs.get(role), source)

    def differences(self, other: Metadata) -> dict[str, tuple[str, str]]:
        """What differs, by name: this value and the other's."""
        mine, theirs = ({**m.model_dump(exclude={"versions"}), **m.versions} for m in (self, other))
        return {
            key: (str(mine.get(key)), str(theirs.get(key)))
            for key in sorted(mine.keys() | theirs.keys())
            if mine.get(key) != theirs.get(key)
        }


def place_name(source: str) -> str:
    """``source`` of weights as a shared file may say it: a hub name whole, of a path the last name alone."""
    path = Path(source)
    if kind_of(path) is None and hub_name(source) is not None:
        return source
    return whole_characters(path.name or path.resolve().name or "model")


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
        sources={role: whole_characters(source) for role, source in (sources or {}).items()},
        model=whole_characters(model),
        weights_hash=pipeline.weights_hash,
        transformer=None if pipeline.transformer_source is None else whole_characters(str(pipeline.transformer_source)),
        controlnet=whole_characters(str(pipeline.controlnet_source)) if task == "control" else None,
        controlnet_hash=pipeline.controlnet_hash if task == "control" else None,
        adapters=tuple(
            UsedAdapter(name=name, source=whole_characters(known.source), identity=known.identity, weight=known.weight)
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
    *,
    beside: Path | None = None,
    transformer: str | Path | None = None,
    controlnet: str | Path | None = None,
    adapters: Sequence[tuple[str, float | None]] = (),
) -> Pipeline:
    """The pipeline that a picture was made with: its model (or ``model``, where that lies now), dtype, switches and adapters.

    ``transformer``, ``controlnet`` and ``adapters`` (file and strength, None: as it was) also say where things lie now; what
    is not said is looked for under its name here and in ``beside``, the picture's directory. Raises :class:`InputError` or
    :class:`MissingError` for what cannot be opened again.
    """
    from glyphflow.generate.pipeline import Pipeline

    try:
        speed = Speed.reference() if wanted.speed is None else Speed(**wanted.speed)  # type: ignore[arg-type]
        how = {"dtype": getattr(torch, wanted.dtype), "quantize": wanted.quantize, "speed": speed}
    except (TypeError, AttributeError) as error:
        raise InputError(f"The picture was made with switches that this version does not have ({error}).") from error
    if device is None and wanted.device != "cuda":
        device = wanted.device
    loras = _places(wanted.adapters, adapters, beside)
    pipeline = Pipeline.from_pretrained(
        model or _found(wanted.model, "model", beside, wanted.weights_hash),
        device=device,
        memory=memory,
        transformer=transformer or _found(wanted.transformer, "transformer", beside, wanted.weights_hash),
        controlnet=controlnet or _found(wanted.controlnet, "controlnet", beside, wanted.controlnet_hash),
        parallel=parallel,
        **how,
    )
    for used, place in zip(wanted.adapters, loras, strict=True):
        pipeline.load_lora_weights(place, adapter_name=used.name, weight=used.weight)
    return pipeline


def _places(wanted: Sequence[UsedAdapter], given: Sequence[tuple[str, float | None]], beside: Path | None) -> list[str]:
    """Where each of ``wanted`` lies: the given file of its name, else the next given one, else under its name."""
    free = list(given)
    chosen: dict[int, tuple[str, float | None]] = {}
    for n, used in enumerate(wanted):
        same = next((each for each in free if Path(each[0]).name == Path(used.source).name), None)
        if same is not None:
            chosen[n] = same
            free.remove(same)
    for n in range(len(wanted)):
        if free and n not in chosen:
            chosen[n] = free.pop(0)
    if free:
        raise InputError(f"The picture was made with {len(wanted)} LoRAs and {len(given)} are given; leave out {free[0][0]}.")
    places = []
    for n, used in enumerate(wanted):
        place, weight = chosen.get(n, (None, None))
        if weight is not None and weight != used.weight:
            raise InputError(f"The picture was made with {used.source} at {used.weight:g}, and {place} is given at {weight:g}.")
        if place is None and used.source == FROM_TENSORS:
            raise InputError(f"The adapter {used.name} was given as tensors, which no file holds; load those again.")
        places.append(place or _found(used.source, "lora", beside, used.identity) or used.source)
    return places


def _found(name: str | None, what: str, beside: Path | None, identity: str | None) -> str | None:
    """The place of what a file calls ``name``: where it was, else here, else in ``beside``; hub names are their own place."""
    if name is None or name == "nano":
        return name
    place = recall(what, identity) if len(Path(name).parts) == 1 or Path(name).is_absolute() else None
    if place is not None:
        return str(place)
    if kind_of(name) is not None:
        return name
    for place in () if beside is None else (beside / name, beside / Path(name).name):
        if kind_of(place) is not None:
            return str(place)
    if hub_name(name) is not None:
        return name
    raise MissingError(f"The {what} {name} is neither here nor beside the picture; say where it lies now (--{what}).")


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
        if _content(now) != _content(then):
            raise InputError(
                f"The picture was made with {name} {_plain(then)} and this pipeline has {_plain(now)}; open the original "
                f"{wanted.model} in the same way (--model)."
            )
    # Where things lie now is no difference.
    return again.model_copy(update={name: getattr(wanted, name) for name in ("transformer", "controlnet", "adapters")})


def _content(value: object) -> object:
    """``value`` without names and places: of adapters the hash of the content and the strength."""
    if isinstance(value, tuple):
        return tuple((each.identity, each.weight) if isinstance(each, UsedAdapter) else each for each in value)
    return value


def picture_hash(picture: Picture) -> str:
    """16 hexadecimal characters: the size and the pixels of ``picture``, upright, whatever file they came from."""
    image = rgba(picture)
    return hashlib.sha256(f"{image.width}x{image.height}:".encode() + image.tobytes()).hexdigest()[:16]


def _plain(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_plain, value)) or "none"
    return f"{value.source} ({value.identity}) at {value.weight:g}" if isinstance(value, UsedAdapter) else str(value)
