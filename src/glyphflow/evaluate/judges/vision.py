"""Objects and likeness: a COCO detector and CLIP, both transformers models in directories that the user has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from glyphflow.core.errors import InputError
from glyphflow.core.hardware import pick_device
from glyphflow.core.hashing import fingerprint, sha256_file
from glyphflow.core.pretrained import loading
from glyphflow.evaluate.case import Case, Detection, Verdict, failed

THRESHOLD = 0.3
GREY = 0x99
COLOUR_TEMPLATES = ("a photo of a {colour} {name}", "a photo of a {colour}-colored {name}", "a photo of a {colour} object")
ALIASES = {"computer mouse": "mouse", "tv remote": "remote", "computer keyboard": "keyboard", "hair drier": "hair dryer"}
"""Names that benchmarks use, and what detectors call the same thing."""

_Picture = NDArray[np.uint8]


class CLIP:
    """CLIP's embeddings, of unit length, from a directory that transformers reads."""

    def __init__(self, directory: Path, device: str | None = None) -> None:
        from transformers import AutoProcessor, CLIPModel

        self._device = pick_device(device)
        self._model = _open(CLIPModel, directory, "a CLIP model").to(self._device).eval()
        self._processor = _open(AutoProcessor, directory, "a CLIP processor")
        self.identity = f"clip {weights_name(directory)}"
        self._length = self._model.config.text_config.max_position_embeddings

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        """(B, D); longer texts are cut at the model's length, as everybody's CLIPScore does."""
        tokens = self._processor(
            text=list(texts), return_tensors="pt", padding=True, truncation=True, max_length=self._length
        ).to(self._device)
        return _unit(self._model.get_text_features(**tokens))

    @torch.inference_mode()
    def pictures(self, pictures: Sequence[_Picture]) -> torch.Tensor:
        """(B, D)."""
        images = [Image.fromarray(picture) for picture in pictures]
        return _unit(self._model.get_image_features(**self._processor(images=images, return_tensors="pt").to(self._device)))

    @property
    def scale(self) -> float:
        """What cosines are multiplied by before a softmax."""
        return float(self._model.logit_scale.detach().exp())


class SimilarityJudge:
    """The cosine of a picture and the request's text, or of two pictures (kind "similarity")."""

    kinds = frozenset({"similarity"})
    batch = 16

    def __init__(self, clip: Path, device: str | None = None) -> None:
        self._clip = CLIP(clip, device)

    @property
    def identity(self) -> str:
        return f"similarity/1 {self._clip.identity}"

    def __call__(self, cases: Sequence[Case]) -> list[Verdict]:
        first = self._clip.pictures([case.images[0] for case in cases])
        texts = [str(case.request["text"]) for case in cases if "text" in case.request]
        others = [case.images[1] for case in cases if "text" not in case.request]
        by_text = iter(self._clip.texts(texts) if texts else ())
        by_picture = iter(self._clip.pictures(others) if others else ())
        second = torch.stack([next(by_text if "text" in case.request else by_picture) for case in cases])
        return [Verdict("ok", round(float(value), 6), {}, self.identity) for value in (first * second).sum(dim=1)]


class ObjectJudge:
    """Finds objects, and with ``clip`` the colours of those whose colour is asked for (kind "objects").

    ``detector`` holds a model for object detection (DETR, RT-DETR, YOLOS, …: boxes) or a Mask2Former for instances (boxes and
    outlines). A colour is chosen among the request's by CLIP, on the object's box, with everything outside its outline grey
    where there is one. A class that the detector does not know is an "error": a detector of other classes would otherwise find
    nothing and give zeros.
    """

    kinds = frozenset({"objects"})
    batch = 4

    def __init__(self, detector: Path, clip: Path | None = None, device: str | None = None) -> None:
        from transformers import AutoConfig, AutoImageProcessor, AutoModelForObjectDetection
        from transformers import Mask2FormerForUniversalSegmentation as Mask2Former

        self._device = pick_device(device)
        self._outlines = _open(AutoConfig, detector, "a detector").model_type == "mask2former"
        kind: Any = Mask2Former if self._outlines else AutoModelForObjectDetection
        self._model = _open(kind, detector, "a detector").to(self._device).eval()
        self._processor = _open(AutoImageProcessor, detector, "a detector's image processor")
        self._names = {int(number): str(name) for number, name in self._model.config.id2label.items()}
        self._clip = CLIP(clip, device) if clip is not None else None
        self._weights = weights_name(detector)
        self._colours: dict[tuple[str, tuple[str, ...]], torch.Tensor] = {}

    @property
    def identity(self) -> str:
        colours = f", colours by {self._clip.identity}" if self._clip else ""
        return f"objects/1 {self._model.config.model_type} {self._weights}{colours}"

    def __call__(self, cases: Sequence[Case]) -> list[Verdict]:
        return [self._judge(case) for case in cases]

    def _judge(self, case: Case) -> Verdict:
        wanted = {_detector_name(name): name for name in case.request.get("classes", self._names.values())}
        unknown = [name for known, name in wanted.items() if known not in map(_detector_name, self._names.values())]
        coloured = set(case.request.get("coloured", ()))
        if unknown:
            return failed(self.identity, "error", f"the detector knows no class {', '.join(unknown)}")
        if coloured and self._clip is None:
            return failed(
                self.identity, "error", f"the colour of {', '.join(sorted(coloured))} is asked for, and there is no CLIP"
            )
        found: list[Detection] = []
        for name, score, box, outline in self._find(case.images[0], float(case.request.get("threshold", THRESHOLD))):
            label = wanted.get(_detector_name(name))
            if label is None:
                continue
            detection: Detection = {"label": label, "box": [round(x, 2) for x in box], "score": round(score, 5)}
            if label in coloured:
                cut = _cut(case.images[0], box, outline)
                detection["colours"] = self._colour(cut, label, tuple(case.request["colours"]))
            found.append(detection)
        return Verdict("ok", sorted(found, key=lambda detection: -detection["score"]), {}, self.identity)

    @torch.inference_mode()
    def _find(
        self, picture: _Picture, threshold: float
    ) -> list[tuple[str, float, tuple[float, float, float, float], NDArray[np.bool_] | None]]:
        """Name, score, box (left, top, right, bottom) in pixels and outline (H, W) of every object."""
        inputs = self._processor(images=Image.fromarray(picture), return_tensors="pt").to(self._device)
        outputs, sizes = self._model(**inputs), [picture.shape[:2]]
        if not self._outlines:
            [boxes] = self._processor.post_process_object_detection(outputs, threshold=threshold, target_sizes=sizes)
            rows = zip(boxes["labels"].tolist(), boxes["scores"].tolist(), boxes["boxes"].tolist(), strict=True)
            return [(self._names[label], score, tuple(box), None) for label, score, box in rows]
        [segments] = self._processor.post_process_instance_segmentation(
            outputs, threshold=threshold, target_sizes=sizes, return_binary_maps=True
        )
        found = []
        for segment, outline in zip(segments["segments_info"], segments["segmentation"], strict=True):
            mask = outline.cpu().numpy().astype(bool)
            if mask.any():
                rows_, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
                box = (float(columns[0]), float(rows_[0]), float(columns[-1] + 1), float(rows_[-1] + 1))
                found.append((self._names[segment["label_id"]], float(segment["score"]), box, mask))
        return found

    def _colour(self, cut: _Picture, name: str, colours: tuple[str, ...]) -> dict[str, float]:
        """Probability of each of ``colours`` for the object in ``cut``."""
        assert self._clip is not None
        if (name, colours) not in self._colours:
            texts = [template.format(colour=colour, name=name) for colour in colours for template in COLOUR_TEMPLATES]
            embedded = self._clip.texts(texts).view(len(colours), len(COLOUR_TEMPLATES), -1).mean(dim=1)
            self._colours[name, colours] = torch.nn.functional.normalize(embedded, dim=-1)
        logits = self._clip.scale * self._clip.pictures([cut])[0] @ self._colours[name, colours].T
        return {colour: round(float(share), 5) for colour, share in zip(colours, logits.softmax(dim=0), strict=True)}


def weights_name(directory: Path) -> str:
    """Fingerprint of the weights and the configuration in ``directory``."""
    files = sorted(path for path in directory.iterdir() if path.suffix in (".safetensors", ".bin", ".json"))
    return fingerprint([[path.name, sha256_file(path)] for path in files])


def _open(kind: Any, directory: Path, what: str) -> Any:
    if not Path(directory).is_dir():
        raise InputError(f"{directory} is not a directory; give one with {what} in transformers' layout.")
    try:
        with loading():
            return kind.from_pretrained(directory, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{directory} holds no {what.split(' ', 1)[1]} that transformers can read: {error}") from error


def _unit(output: Any) -> torch.Tensor:
    features = output if isinstance(output, torch.Tensor) else output.pooler_output
    return torch.nn.functional.normalize(features.float(), dim=-1)


def _detector_name(name: str) -> str:
    plain = name.casefold().replace("_", " ").strip()
    return ALIASES.get(plain, plain)


def _cut(picture: _Picture, box: tuple[float, float, float, float], outline: NDArray[np.bool_] | None) -> _Picture:
    """The object's box, grey outside its outline; never empty."""
    seen = picture if outline is None else np.where(outline[..., None], picture, np.uint8(GREY))
    left, top = (max(0, min(int(low), side - 1)) for low, side in zip(box[:2], picture.shape[1::-1], strict=True))
    right, bottom = max(left + 1, round(box[2])), max(top + 1, round(box[3]))
    return np.ascontiguousarray(seen[top:bottom, left:right])
