"""LoRA on a pipeline: found on disk or the hub, loaded, weighted, fused and taken off, under the names that users know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from glyphflow.core.errors import InputError
from glyphflow.core.files import expanded
from glyphflow.core.numbers import checked
from glyphflow.generate.hub import from_hub, hub_name
from glyphflow.generate.parallel import Ranks
from glyphflow.generate.residency import TRANSFORMER, Residency
from glyphflow.models import MMDiT, lora
from glyphflow.models.lora_file import choose_file, lora_path

FROM_TENSORS = "tensors"  # the source of an adapter that was given by name and value


@dataclass(frozen=True)
class Adapter:
    """A loaded LoRA: its strength (0 is off), where it came from, and 16 hexadecimal characters of its content."""

    weight: float
    source: str
    identity: str


class Adapters:
    """What a pipeline can do with LoRA; ``adapters`` says what is loaded."""

    transformer: MMDiT
    adapters: dict[str, Adapter]
    residency: Residency
    ranks: Ranks | None

    def load_lora_weights(
        self,
        source: str | Path | Mapping[str, Tensor],
        *,
        weight_name: str | None = None,
        adapter_name: str | None = None,
        weight: float = 1.0,
    ) -> str:
        """Load a LoRA for the transformer and switch it on beside those that are on; returns its name.

        ``source`` is a file, a directory or hub name (``weight_name``, or a path behind it, says which file of theirs) or
        tensors by name, in any of the usual forms; alpha / rank is applied, and ``weight`` multiplies it. Names default to
        default_0, default_1, …

        Raises InputError for a file that does not fit the model as a whole, or is of a kind that is not read.
        """
        checked(weight, f"The weight of the adapter {source if isinstance(source, str | Path) else adapter_name}")
        name = adapter_name or next(n for n in map("default_{}".format, range(999)) if n not in self.adapters)
        where = source if isinstance(source, Mapping) else _find(source, weight_name)
        read = lora.read_lora if self.ranks is None else self.ranks.read_lora
        weights = read(where, lora.linear_shapes(self.transformer))
        self.residency.recall(TRANSFORMER)
        lora.attach(self.transformer, name, weights, weight)
        self.adapters[name] = Adapter(weight, _written(source, weight_name), weights.identity)
        return name

    def set_adapters(self, adapter_names: str | Sequence[str], weights: float | Sequence[float] = 1.0) -> None:
        """Switch exactly these adapters on, with these strengths (one for all, or one each)."""
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        strengths = list(weights) if isinstance(weights, Sequence) else [weights] * len(names)
        if len(strengths) != len(names):
            raise InputError(
                f"{len(names)} adapters are named, but {len(strengths)} weights given; give one each or one for all."
            )
        for name, strength in zip(names, strengths, strict=True):
            checked(strength, f"The weight of the adapter {name}")
        chosen = dict(zip(names, map(float, strengths), strict=True))
        self.residency.recall(TRANSFORMER)
        lora.set_weights(self.transformer, chosen)
        self.adapters = {name: replace(known, weight=chosen.get(name, 0.0)) for name, known in self.adapters.items()}

    def fuse_lora(self) -> None:
        """Add the adapters that are on to the weights, so that they cost no time; the old weights wait in memory.

        Results differ from unfused ones by the rounding of the sum. Until :meth:`unfuse_lora`, adapters cannot be changed.
        """
        self.residency.recall(TRANSFORMER)
        lora.fuse(self.transformer)

    def unfuse_lora(self) -> None:
        """Put the weights back as they were, bit by bit, with the adapters beside them."""
        self.residency.recall(TRANSFORMER)
        lora.unfuse(self.transformer)

    def unload_lora_weights(self, adapter_name: str | None = None) -> None:
        """Take one adapter, or all, off the model and forget it; what was fused comes out of the weights."""
        self.residency.recall(TRANSFORMER)
        lora.detach(self.transformer, adapter_name)
        self.adapters = {name: known for name, known in self.adapters.items() if adapter_name not in (None, name)}

    def save_lora_weights(self, path: str | Path, adapter_name: str) -> None:
        """Write an adapter to ``path`` (.safetensors) in the form that diffusers reads, alphas included."""
        if self.ranks is not None and self.ranks.plan.tensor > 1:
            raise InputError(
                f"Adapters are split over {self.ranks.plan.tensor} processes like the weights; save them with tensor=1."
            )
        lora.save_lora(Path(path), lora.collect(self.transformer, adapter_name))


def _written(source: str | Path | Mapping[str, Tensor], weight_name: str | None) -> str:
    """How a picture's metadata name ``source``, so that it is found again."""
    if isinstance(source, Mapping):
        return FROM_TENSORS
    return str(source) if weight_name is None or Path(source).is_file() else f"{source}/{weight_name}"


def _find(source: str | Path, weight_name: str | None) -> Path:
    """The file that ``source`` means, downloaded once when it is a hub name."""
    path = expanded(source)
    name = None if path.exists() else hub_name(source)
    if name is None:
        return lora_path(path, weight_name)

    def ask() -> Path:
        from huggingface_hub import HfApi, hf_hub_download

        file = name.inside or weight_name
        if file is None:
            names = [each for each in HfApi().list_repo_files(name.repository) if each.endswith(".safetensors")]
            file = choose_file(names, None, str(source))
        return Path(hf_hub_download(name.repository, file))

    return from_hub(str(source), "file", ask)
