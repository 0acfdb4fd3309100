"""Who makes the pictures of a benchmark: a model directory, or an OpenAI-compatible image endpoint."""

from __future__ import annotations

import base64
import io
import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from glyphflow.core.errors import ConfigError
from glyphflow.core.files import atomic_path
from glyphflow.core.pictures import open_picture, plain
from glyphflow.evaluate.benchmark import Sample, Task
from glyphflow.evaluate.folder import load_picture
from glyphflow.evaluate.sample import NotMade
from glyphflow.perception.server import KEPT, Reply, Server

if TYPE_CHECKING:
    from glyphflow.generate import Pipeline


class PipelineMaker:
    """Makes pictures with ``pipeline``, one at a time, so that ``glyphflow generate --from`` makes each again, byte by byte.

    Sizes are pixels and default, like steps and guidance, to what the model directory says (of an edited picture: to the size
    that the model gives it). ``model`` is its name in the pictures' metadata.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        model: str,
        *,
        num_inference_steps: int | None = None,
        true_cfg_scale: float | None = None,
        width: int | None = None,
        height: int | None = None,
        negative_prompt: str = "",
    ) -> None:
        self._pipeline, self._model, self._width, self._height = pipeline, model, width, height
        steps = pipeline.facts.default_steps if num_inference_steps is None else num_inference_steps
        scale = pipeline.facts.default_true_cfg_scale if true_cfg_scale is None else true_cfg_scale
        self._request: dict[str, Any] = {
            "num_inference_steps": steps,
            "true_cfg_scale": float(scale),
            "negative_prompt": negative_prompt,
        }

    @property
    def identity(self) -> str:
        """The hash of the weights."""
        return self._pipeline.weights_hash

    def settings(self, task: Task) -> Mapping[str, Any]:
        """Steps, guidance, size, and where it is computed."""
        where = {"dtype": str(self._pipeline.dtype).removeprefix("torch."), "device": self._pipeline.device.type}
        return where if task == "reconstruct" else {**self._request, **self._size(task), **where}

    def _size(self, task: Task) -> dict[str, int | None]:
        side = self._pipeline.facts.native_side if task == "generate" else None
        return {"width": self._width or side, "height": self._height or side}

    def __call__(self, sample: Sample, prompt: str, seed: int, task: Task, path: Path) -> None:
        """Generate, edit the sample's references, or reconstruct the first of them."""
        import torch

        from glyphflow.generate import describe, write_picture

        references = [_open(reference) for reference in sample.references]
        if task == "reconstruct":
            _save(self._pipeline.reconstruct(references[0]), path)
            return
        request = {**self._request, **self._size(task)}
        generator = torch.Generator().manual_seed(seed)
        if task == "edit":
            _save(self._pipeline.edit(references, prompt, generator=generator, progress=False, **request).images[0], path)
            return
        image = self._pipeline.generate(prompt, generator=generator, progress=False, **request).images[0]
        write_picture(image, path, describe(self._pipeline, self._model, prompt=prompt, seed=seed, **request))


class EndpointMaker:
    """Asks ``model`` behind an OpenAI-compatible ``server`` (its address is the base, "…/v1") for one picture a request.

    ``size`` is "WIDTHxHEIGHT" where the server wants one; ``options`` are further fields of the request (quality, steps, …).
    Seeds are sent only with ``send_seed``: servers that do not know the field may refuse it.
    """

    def __init__(
        self,
        server: Server,
        model: str,
        *,
        size: str | None = None,
        options: Mapping[str, Any] | None = None,
        send_seed: bool = False,
    ) -> None:
        self._server, self._model, self._send_seed = server, model, send_seed
        self._fields: dict[str, Any] = {"model": model, "n": 1, **({"size": size} if size else {}), **(options or {})}

    @property
    def identity(self) -> str:
        """Who offers which model."""
        return f"{self._model} at {self._server.identity}"

    def settings(self, task: Task) -> Mapping[str, Any]:
        """The fields that every request has."""
        return {name: value for name, value in self._fields.items() if name != "model"} | {"seeds_sent": self._send_seed}

    def __call__(self, sample: Sample, prompt: str, seed: int, task: Task, path: Path) -> None:
        """Ask for the picture; a refusal, a time-out or rubbish is :class:`NotMade` with its reason."""
        fields = {**self._fields, "prompt": prompt, **({"seed": seed} if self._send_seed else {})}
        if task == "generate":
            body = json.dumps(fields).encode()
            reply = self._server.post(self._server.at("images/generations"), body, "application/json", _read_image)
        elif task == "edit":
            content_type, body = _form(fields, sample.references)
            reply = self._server.post(self._server.at("images/edits"), body, content_type, _read_image)
        else:
            raise ConfigError(f"An image endpoint cannot {task}; use a model directory.")
        if reply.status != "ok":
            raise NotMade(f"{reply.status}: {reply.text}")
        try:
            image = plain(open_picture(base64.b64decode(reply.text)))
        except Exception as error:  # damaged bytes make the codecs raise anything
            raise NotMade(f"error: the answer is no picture ({error})") from error
        _save(image, path)


def _read_image(text: str) -> Reply:
    try:
        entry = json.loads(text)["data"][0]
        data = entry["b64_json"]
    except (ValueError, KeyError, IndexError, TypeError):
        told = "the answer holds no b64_json picture (a link is not followed; ask for response_format b64_json)"
        return Reply("error", f"{told}: {text[:KEPT]}")
    return Reply("ok", data) if isinstance(data, str) and data else Reply("refused", "the picture is empty")


def _form(fields: Mapping[str, Any], pictures: tuple[Path, ...]) -> tuple[str, bytes]:
    """Content type and body of a multipart form with fields and pictures."""
    mark = secrets.token_hex(16)
    parts = [
        f'--{mark}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    name = "image" if len(pictures) == 1 else "image[]"
    for number, picture in enumerate(pictures):
        buffer = io.BytesIO()
        _open(picture).save(buffer, format="PNG")
        head = f'--{mark}\r\nContent-Disposition: form-data; name="{name}"; filename="{number}.png"\r\nContent-Type: image/png'
        parts.append(head.encode() + b"\r\n\r\n" + buffer.getvalue() + b"\r\n")
    return f"multipart/form-data; boundary={mark}", b"".join([*parts, f"--{mark}--\r\n".encode()])


def _open(path: Path) -> Image.Image:
    return Image.fromarray(load_picture(path))


def _save(image: Image.Image, path: Path) -> None:
    """Write 8-bit sRGB; transparency stays, and a judge sees it on white."""
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG")
