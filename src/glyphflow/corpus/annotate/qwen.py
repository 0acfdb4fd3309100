"""Qwen2.5-VL from a directory, through transformers, as something that answers chat requests in this process.

It answers one request after another, each by itself, so that an answer depends on nothing else. That keeps a card busy with one
picture at a time: for millions of pictures, serve the same weights (vLLM, SGLang) and annotate through the endpoint.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from glyphflow.core.errors import InputError, MissingError
from glyphflow.core.hardware import default_dtype, pick_device
from glyphflow.core.hashing import fingerprint, sha256_file
from glyphflow.perception.chat import EMPTY, answer_of
from glyphflow.perception.server import Reply

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SYSTEM = "You are a helpful assistant."  # what the weights were tuned with


class QwenVL:
    """A ``Transport``: chat requests with pictures in, replies out, the likeliest token each time.

    ``directory`` is a Qwen2.5-VL in transformers' layout, or a released model directory with such a one under ``text_encoder``
    and ``tokenizer``. ``device`` defaults to the best one here.
    """

    def __init__(self, directory: Path, device: str | None = None) -> None:
        import torch  # here because it takes seconds

        from glyphflow.models.qwen_vl import open_qwen_vl, open_tokenizer
        from glyphflow.models.templates import IMAGE_TOKEN
        from glyphflow.models.vision import Preprocessing

        weights, tokenizer, processor = _parts(Path(directory))
        place = pick_device(device)
        self._tokenizer = open_tokenizer(tokenizer)
        model, lacking = open_qwen_vl(weights, default_dtype(place))
        if lacking:
            raise InputError(
                f"{weights} lacks {len(lacking)} of the weights that its config.json asks for, the first is {min(lacking)}; a "
                "captioner needs all of Qwen2.5-VL, the vision tower too."
            )
        self._model = model.eval().to(place)
        self._how = Preprocessing.from_directory(processor) or Preprocessing()
        self._image_token = int(self._tokenizer.convert_tokens_to_ids(IMAGE_TOKEN))
        self._torch, self._lock = torch, threading.Lock()
        files = sorted(path for path in weights.iterdir() if path.suffix in (".safetensors", ".json"))
        self.identity = "qwen2.5-vl " + fingerprint([[path.name, sha256_file(path)] for path in files])
        """Changes with the weights."""

    def send(self, request: Mapping[str, Any], pictures: Mapping[str, NDArray[np.uint8]]) -> Reply:
        """The reply to a chat completion's ``messages``; ``max_tokens`` bounds it. Requests wait for one another."""
        try:
            with self._lock, self._torch.inference_mode():
                text = self._answer(request["messages"], pictures, int(request["max_tokens"]))
        except InputError as error:  # such as sides in a ratio over 200
            return Reply("error", str(error))
        text = answer_of(text).strip()
        return Reply("ok", text) if text else Reply("refused", EMPTY)

    def _answer(self, messages: list[dict[str, Any]], pictures: Mapping[str, NDArray[np.uint8]], limit: int) -> str:
        from glyphflow.models.vision import expand

        torch = self._torch
        shown = [self._how.picture(Image.fromarray(pictures[name])) for name in _pictures(messages)]
        ids = expand(self._tokenizer(spoken(messages))["input_ids"], self._image_token, shown)
        tokens = torch.tensor([ids], device=self._model.device)
        patches = torch.cat([self._how.patches(picture) for picture in shown]).to(self._model.device, self._model.dtype)
        grids = [[1, *(self._how.merge_size * side for side in picture.grid)] for picture in shown]
        written = self._model.generate(
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            pixel_values=patches,
            image_grid_thw=torch.tensor(grids, device=self._model.device),
            mm_token_type_ids=(tokens == self._image_token).int(),  # without it, pictures get the positions of text
            max_new_tokens=limit,
            do_sample=False,
            eos_token_id=self._tokenizer.eos_token_id,
            pad_token_id=self._tokenizer.pad_token_id,
            **dict.fromkeys(("temperature", "top_p", "top_k")),  # a checkpoint's own make no sense without sampling
        )
        text: str = self._tokenizer.decode(written[0, len(ids) :], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text.strip()


def _parts(root: Path) -> tuple[Path, Path, Path]:
    """Where weights, tokenizer and processor are."""
    parts = (root / "text_encoder", root / "tokenizer", root / "processor") if (root / "text_encoder").is_dir() else (root,) * 3
    for needed in (parts[0] / "config.json", parts[1] / "tokenizer_config.json"):
        if not needed.is_file():
            raise MissingError(f"{needed} does not exist; give the directory of a Qwen2.5-VL in transformers' layout.")
    return parts


def _pictures(messages: list[dict[str, Any]]) -> list[str]:
    parts = [part for message in messages if isinstance(message["content"], list) for part in message["content"]]
    return [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]


def spoken(messages: list[dict[str, Any]]) -> str:
    """The conversation in the model's own markup. Marks in the words themselves are broken up: they would be obeyed."""
    from glyphflow.models.templates import PICTURE

    def words(content: str | list[dict[str, Any]]) -> str:
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        return "".join(PICTURE if part["type"] == "image_url" else part["text"].replace("<|", "< |") for part in parts)

    turns = [{"role": "system", "content": _SYSTEM}, *messages]
    said = "".join(f"<|im_start|>{turn['role']}\n{words(turn['content'])}<|im_end|>\n" for turn in turns)
    return f"{said}<|im_start|>assistant\n"
