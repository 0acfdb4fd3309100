"""The condition encoder: a prompt, alone or with pictures, becomes the last hidden states of Qwen2.5-VL's language model.

The prompt is set into a chat template; the states of the template's fixed beginning are dropped, everything after it (the
pictures, the prompt and the closing tokens) is what the MMDiT attends to. Only the language model runs, and the vision tower
for pictures: the reference also computes the logits of the whole vocabulary and throws them away. Attention is causal, so what
stands before the prompt has the same states for every prompt: it is computed once and shared, by the negative prompt first of
all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from glyphflow.core.errors import InputError, MissingError
from glyphflow.core.files import give_usual_modes
from glyphflow.core.hashing import fingerprint
from glyphflow.core.progress import Progress
from glyphflow.models.qwen_vl import open_qwen_vl, open_tokenizer
from glyphflow.models.shared_prefix import Line, Recent, SharedPrefixModel
from glyphflow.models.templates import CAPTION_TEMPLATES, IMAGE_TOKEN, PICTURE_TEMPLATES, T2I_TEMPLATE, TEMPLATES, templated
from glyphflow.models.vision import Picture, Preprocessing, expand

__all__ = ["T2I_TEMPLATE", "TEMPLATES", "ConditionEncoder"]

_VERSION = 1  # raise it when the same weights and prompt would give other embeddings
_REMEMBERED = 16  # prompts; at 1,024 tokens of the released width in bf16 this is 120 MB of host memory
_ABSENT = -1  # no token has this id
_REMEMBERED_PICTURES = 8  # at 1,369 tokens each (1036 x 1036 pixels) 80 MB of host memory


class ConditionEncoder:
    """Prompts and pictures to embeddings, with Qwen2.5-VL (``transformers``) and the tokenizer that belongs to it.

    ``model`` is a ``Qwen2_5_VLForConditionalGeneration`` or a ``Qwen2_5_VLModel``, ``tokenizer`` any tokenizer of
    ``transformers`` that reports character offsets, ``preprocessing`` what is done to pictures (None: the defaults, which are
    then not saved either). The released encoder and the nano one go through the same code.
    """

    def __init__(self, model: Any, tokenizer: Any, preprocessing: Preprocessing | None = None) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.preprocessing = preprocessing
        self._how = preprocessing or Preprocessing()
        self._core = getattr(model, "model", model)
        self._language = self._core.language_model
        tower = self._core.config.vision_config
        patch, merge, frames = tower.patch_size, tower.spatial_merge_size, tower.temporal_patch_size
        if (patch, merge, frames) != (self._how.patch_size, self._how.merge_size, self._how.temporal_patch_size):
            raise InputError(
                f"The vision tower takes patches of {patch} pixels and {frames} frames, {merge} x {merge} to a token, and the "
                f"processor makes {self._how.patch_size} pixels, {self._how.temporal_patch_size} frames and "
                f"{self._how.merge_size} x {self._how.merge_size}; take both from one model."
            )
        known = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        self._image_token: int = _ABSENT if known is None or known == tokenizer.unk_token_id else known
        self._shared = SharedPrefixModel(self._language, self._image_token, self._features)
        self._remembered: Recent[torch.Tensor] = Recent(_REMEMBERED)
        self._remembered_pictures: Recent[torch.Tensor] = Recent(_REMEMBERED_PICTURES)
        self._fingerprint: str | None = None

    @classmethod
    def from_pretrained(
        cls, directory: str | Path, dtype: torch.dtype = torch.bfloat16, device: torch.device | str = "cpu"
    ) -> ConditionEncoder:
        """Read ``directory/text_encoder`` and ``directory/tokenizer`` (the released layout, old or new parameter names).

        ``directory/processor`` is read where there is one. A checkpoint without any weight of the vision tower serves prompts
        alone. Raises :class:`MissingError` when a directory is not there and :class:`InputError` when weights are missing or
        have another shape than the configuration says.
        """
        root = Path(directory)
        for part in ("text_encoder", "tokenizer"):
            if not (root / part).is_dir():
                raise MissingError(f"{root} has no directory {part!r}; give a model directory in the released layout.")
        tokenizer = open_tokenizer(root / "tokenizer")
        model, missing = open_qwen_vl(root / "text_encoder", dtype)
        known = model.get_input_embeddings().num_embeddings
        if len(tokenizer) > known:
            raise InputError(
                f"The tokenizer in {root / 'tokenizer'} has {len(tokenizer)} tokens and the text encoder knows {known}; take "
                "both from one model."
            )
        tower = {f"model.visual.{name}" for name in model.model.visual.state_dict()}
        if tower <= missing:
            model.model.visual = None
            missing -= tower
        if missing:
            raise InputError(
                f"{root / 'text_encoder'} lacks {len(missing)} of the weights that its config.json asks for, the first is "
                f"{min(missing)}; fetch the directory again."
            )
        return cls(model, tokenizer, Preprocessing.from_directory(root / "processor")).to(device)

    def save_pretrained(self, directory: str | Path) -> None:
        """Write ``text_encoder``, ``tokenizer`` and, where one was read, ``processor`` into ``directory`` (released layout)."""
        root = Path(directory)
        self.model.save_pretrained(root / "text_encoder")
        give_usual_modes(root / "text_encoder")
        self.tokenizer.save_pretrained(root / "tokenizer")
        if self.preprocessing is not None:
            self.tokenizer.save_pretrained(root / "processor")  # the reference's processor holds both
            self.preprocessing.save(root / "processor")

    def to(self, device: torch.device | str, *, vision: bool = False) -> ConditionEncoder:
        """Move the language model to ``device``, and the vision tower with ``vision=True``.

        Without it the tower waits on the host, like ``lm_head``: prompts alone do not need them. What is remembered of earlier
        prompts and pictures stays, on the host.
        """
        self._language.to(device)
        if self._core.visual is not None:
            self._core.visual.to(device if vision else "cpu")
        return self

    @property
    def device(self) -> torch.device:
        """Where the language model is."""
        return self._any_weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights and of the embeddings."""
        return self._any_weight.dtype

    @property
    def _any_weight(self) -> torch.Tensor:
        weight: torch.Tensor = next(iter(self._language.parameters()))
        return weight

    @property
    def hidden_size(self) -> int:
        """Width D of the embeddings (3584 in the released model)."""
        return int(self._language.config.hidden_size)

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal characters: what embeddings of text alone depend on (weights, their dtype, tokenizer, template)."""
        if self._fingerprint is None:
            digest = hashlib.sha256()
            for name, tensor in sorted(self._language.state_dict().items()):
                digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
                digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
            tokenizer = json.loads(self.tokenizer.backend_tokenizer.to_str())
            for state in ("padding", "truncation"):  # left behind by earlier calls
                tokenizer.pop(state, None)
            self._fingerprint = fingerprint([_VERSION, digest.hexdigest(), fingerprint(tokenizer), TEMPLATES])
        return self._fingerprint

    def prefix_tokens(self, template: str = "t2i") -> int:
        """How many leading tokens are dropped (with the released tokenizer: t2i 34, edit and edit-plus 64)."""
        return len(self.tokenizer(templated(template, "")[0])["input_ids"])

    def encode(
        self,
        prompts: Sequence[str],
        max_sequence_length: int = 1024,
        *,
        template: str = "t2i",
        images: Sequence[Sequence[Image.Image]] | None = None,
    ) -> list[torch.Tensor]:
        """Embeddings of ``prompts``: one (L_i, D) tensor each, without padding, on the encoder's device.

        ``template`` is "t2i" (no pictures), "edit" (one picture) or "edit-plus" (one or more); ``images[i]`` are prompt i's
        pictures, each of any size. L_i counts the pictures' tokens, the prompt's and the template's closing ones. A prompt
        alone and a prompt among others give the same values to 1e-5 in fp32. The empty prompt is a prompt. More than
        ``max_sequence_length`` tokens, the pictures' not counted, raise :class:`InputError`: cutting the prompt silently would
        drop the end of what was asked for. So do pictures that do not fit the template and pictures whose sides have a ratio
        over 200.
        """
        pictures = self._pictures(template, len(prompts), images)
        wanted = _keys(template, prompts, pictures)
        known = {key: self._remembered[key] for key in wanted if key in self._remembered}
        fresh: dict[tuple[str, ...], Line] = {}
        for key, prompt, row in zip(wanted, prompts, pictures, strict=True):
            spoken = len(known[key]) - _tokens(row) if key in known else 0
            if key not in known and key not in fresh:
                fresh[key] = self._line(template, prompt, row)
                spoken = len(fresh[key].ids) - fresh[key].drop - _tokens(row)
            if spoken > max_sequence_length:
                raise _too_long(prompt, spoken, max_sequence_length)
        known |= dict(zip(fresh, self._shared.states(list(fresh.values())), strict=True))
        for key in wanted:
            self._remembered[key] = known[key].cpu()
        return [known[key].to(self.device) for key in wanted]

    def prompt_tokens(self, prompt: str, template: str = "t2i", pictures: int = 0) -> int:
        """How many tokens :meth:`encode` counts ``prompt`` as, the template's closing ones included and pictures' not."""
        before, after = templated(template, prompt, pictures)
        encoded = self.tokenizer(before + after, return_offsets_mapping=True)
        spoken: int = sum(start >= len(before) for start, _ in encoded["offset_mapping"])
        return spoken - pictures

    def remembers(
        self, prompts: Sequence[str], *, template: str = "t2i", images: Sequence[Sequence[Image.Image]] | None = None
    ) -> bool:
        """Whether :meth:`encode` would run no network for these, so that the weights need not be on the device for it."""
        keys = _keys(template, prompts, self._pictures(template, len(prompts), images))
        return all(key in self._remembered for key in keys)

    def caption(self, image: Image.Image, language: str = "en", max_new_tokens: int = 512) -> str:
        """Describe ``image`` in English ("en") or Chinese ("zh"), at most ``max_new_tokens`` tokens, the likeliest each time.

        The layered pipeline's stand-in for an empty prompt. Needs a model with its ``lm_head``, which is on the device for as
        long as this takes.
        """
        if language not in CAPTION_TEMPLATES:
            raise InputError(f"There is no caption request in {language!r}; there are {', '.join(CAPTION_TEMPLATES)}.")
        if not hasattr(self.model, "lm_head"):
            raise InputError("This condition encoder was made without its lm_head, so it cannot write captions; give a prompt.")
        picture = self._picture(image)
        ids = expand(self.tokenizer(CAPTION_TEMPLATES[language])["input_ids"], self._image_token, [picture])
        head = self.model.lm_head
        home = head.weight.device
        head.to(self.device)
        self._core.visual.to(self.device)
        try:
            with Progress("caption", max_new_tokens, "token") as progress:
                new = self._generate(ids, picture, max_new_tokens, _Streamer(progress))
        finally:
            head.to(home)
        text: str = self.tokenizer.decode(new, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text.strip()

    @staticmethod
    def pad(embeds: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Stack (L_i, D) tensors to (B, L, D), zeros behind, and the boolean mask (B, L) of real tokens.

        The mask is None when nothing was padded: attention without a mask is the faster one.
        """
        lengths = [len(e) for e in embeds]
        padded = torch.nn.utils.rnn.pad_sequence(list(embeds), batch_first=True)
        if min(lengths) == max(lengths):
            return padded, None
        ends = torch.tensor(lengths, device=padded.device)
        return padded, torch.arange(padded.shape[1], device=padded.device)[None] < ends[:, None]

    def _pictures(
        self, template: str, prompts: int, images: Sequence[Sequence[Image.Image]] | None
    ) -> list[tuple[Picture, ...]]:
        """The pictures of each prompt, resized; refuses what does not fit ``template``."""
        if template not in TEMPLATES and template not in PICTURE_TEMPLATES:
            raise InputError(f"There is no template {template!r}; there are {', '.join([*TEMPLATES, *PICTURE_TEMPLATES])}.")
        given = [()] * prompts if images is None else [tuple(row) for row in images]
        if len(given) != prompts:
            raise InputError(f"There are {prompts} prompts and {len(given)} lists of pictures; give one list for each prompt.")
        for n, row in enumerate(given):
            if template in TEMPLATES and row:
                raise InputError(
                    f"Prompt {n + 1} has {len(row)} pictures and the template {template!r} takes none; use 'edit'."
                )
            if template in PICTURE_TEMPLATES and not row:
                raise InputError(f"Prompt {n + 1} has no picture and the template {template!r} needs one; give images.")
            if template == "edit" and len(row) > 1:
                raise InputError(f"Prompt {n + 1} has {len(row)} pictures and 'edit' takes one; use 'edit-plus' for several.")
        return [tuple(self._picture(image) for image in row) for row in given]

    def _picture(self, image: Image.Image) -> Picture:
        if self._core.visual is None:
            raise InputError("This checkpoint has no vision tower, so it takes no pictures; use one with model.visual weights.")
        if self._image_token == _ABSENT:
            raise InputError(f"The tokenizer has no token {IMAGE_TOKEN}, so it takes no pictures; use the released one.")
        return self._how.picture(image)

    def _line(self, template: str, prompt: str, pictures: Sequence[Picture]) -> Line:
        before, after = templated(template, prompt, len(pictures))
        encoded = self.tokenizer(before + after, return_offsets_mapping=True)
        ids = encoded["input_ids"]
        # Counted for each prompt: how the prefix is cut may depend on what follows it (an unclosed quotation mark).
        drop = sum(start < len(before) for start, _ in encoded["offset_mapping"])
        if not pictures:
            # A continuation rounds elsewhere than a whole pass. In half precision text alone runs whole: bit-equal to the
            # reference is worth more than 34 tokens. In fp32, where caches are filled, sharing them gains up to 1.8x.
            prefix = self.tokenizer(before)["input_ids"] if self.dtype == torch.float32 else []
            return Line(tuple(ids), drop, len(prefix) if ids[: len(prefix)] == prefix else 0)
        if ids.count(self._image_token) != len(pictures):
            raise InputError(f"The prompt {_shown(prompt)} contains {IMAGE_TOKEN}, which stands for a picture; leave it out.")
        ids = expand(ids, self._image_token, pictures)
        ending = len(ids) - ids[::-1].index(self._image_token) + 1  # with the token that closes the last picture
        return Line(tuple(ids), drop, ending, tuple(pictures))

    @torch.inference_mode()
    def _features(self, picture: Picture) -> torch.Tensor:
        """(tokens, D) from the vision tower, which is brought to the language model if it is elsewhere."""
        if picture.key not in self._remembered_pictures:
            tower = self._core.visual.to(self.device)
            patches, grid = self._tower_input(picture)
            features = tower(patches.to(self.dtype), grid_thw=grid).pooler_output
            self._remembered_pictures[picture.key] = features.cpu()
        return self._remembered_pictures[picture.key]

    def _tower_input(self, picture: Picture) -> tuple[torch.Tensor, torch.Tensor]:
        rows, columns = (self._how.merge_size * side for side in picture.grid)
        return self._how.patches(picture).to(self.device), torch.tensor([[1, rows, columns]], device=self.device)

    @torch.inference_mode()
    def _generate(self, ids: list[int], picture: Picture, limit: int, streamer: Any) -> list[int]:
        patches, grid = self._tower_input(picture)
        tokens = torch.tensor([ids], device=self.device)
        written = self.model.generate(
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            pixel_values=patches,
            image_grid_thw=grid,
            mm_token_type_ids=(tokens == self._image_token).int(),  # without it, pictures get the positions of text
            max_new_tokens=limit,
            streamer=streamer,
            do_sample=False,
            **dict.fromkeys(("temperature", "top_p", "top_k")),  # a checkpoint's own make no sense without sampling
        )
        new: list[int] = written[0, len(ids) :].tolist()
        return new


class _Streamer:
    """What ``generate`` tells about its tokens, as a progress line; the first report is the request itself."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._started = False

    def put(self, _: torch.Tensor) -> None:
        self._progress.advance(int(self._started))
        self._started = True

    def end(self) -> None:
        """Nothing to do: the line is closed by its owner."""


def _keys(template: str, prompts: Sequence[str], pictures: Sequence[Sequence[Picture]]) -> list[tuple[str, ...]]:
    return [(template, prompt, *(p.key for p in row)) for prompt, row in zip(prompts, pictures, strict=True)]


def _tokens(pictures: Sequence[Picture]) -> int:
    return sum(picture.tokens for picture in pictures)


def _shown(prompt: str) -> str:
    return repr(prompt[:40] + "…" if len(prompt) > 40 else prompt)


class TooLong(InputError):
    """A prompt of more tokens than are taken."""

    def __init__(self, sentence: str, tokens: int, limit: int) -> None:
        super().__init__(sentence)
        self.tokens, self.limit = tokens, limit


def _too_long(prompt: str, tokens: int, limit: int) -> TooLong:
    return TooLong(
        f"The prompt {_shown(prompt)} has {tokens} tokens and the limit is {limit}; shorten it or raise max_sequence_length.",
        tokens,
        limit,
    )
