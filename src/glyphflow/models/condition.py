"""The condition encoder: a prompt becomes the last hidden states of Qwen2.5-VL's language model.

The prompt is set into a chat template; the states of the template's fixed beginning are dropped, everything after it (the
prompt and the closing tokens) is what the MMDiT attends to. Only the language model runs: the reference also computes the
logits of the whole vocabulary and throws them away.
"""

from __future__ import annotations

import collections
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from glyphflow.core.errors import InputError, MissingError
from glyphflow.core.hashing import fingerprint

# Wording of the released code. The report prints another order of the attributes; the weights were trained with this one.
T2I_TEMPLATE = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial "
    "relationships of the objects and background:<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
TEMPLATES = {"t2i": T2I_TEMPLATE}

_VERSION = 1  # raise it when the same weights and prompt would give other embeddings
_BATCH = 16  # prompts per forward pass, sorted by length so that little is padding
_REMEMBERED = 16  # prompts; at 1,024 tokens of the released width in bf16 this is 120 MB


class ConditionEncoder:
    """Prompts to embeddings, with Qwen2.5-VL (``transformers``) and the tokenizer that belongs to it.

    ``model`` is a ``Qwen2_5_VLForConditionalGeneration`` or a ``Qwen2_5_VLModel``, ``tokenizer`` any tokenizer of
    ``transformers`` that reports character offsets. The released one and the nano one go through the same code.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self._language = getattr(model, "model", model).language_model
        self._remembered: collections.OrderedDict[tuple[str, str], torch.Tensor] = collections.OrderedDict()
        self._fingerprint: str | None = None

    @classmethod
    def from_pretrained(
        cls, directory: str | Path, dtype: torch.dtype = torch.bfloat16, device: torch.device | str = "cpu"
    ) -> ConditionEncoder:
        """Read ``directory/text_encoder`` and ``directory/tokenizer`` (the released layout, old or new parameter names).

        Raises :class:`MissingError` when one of the two is not there and :class:`InputError` when weights are missing or
        have another shape than the configuration says.
        """
        root = Path(directory)
        for part in ("text_encoder", "tokenizer"):
            if not (root / part).is_dir():
                raise MissingError(f"{root} has no directory {part!r}; give a model directory in the released layout.")
        from transformers import AutoTokenizer, logging  # here because it takes seconds
        from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLForConditionalGeneration

        bars = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        try:
            model, report = Qwen2_5_VLForConditionalGeneration.from_pretrained(
                root / "text_encoder", dtype=dtype, local_files_only=True, output_loading_info=True
            )
            tokenizer = AutoTokenizer.from_pretrained(root / "tokenizer", local_files_only=True)
        except (OSError, RuntimeError, ValueError) as error:
            raise InputError(f"{root}: the condition encoder cannot be read: {' '.join(str(error).split())[:300]}") from error
        finally:
            if bars:
                logging.enable_progress_bar()
        missing = sorted(key for key in report["missing_keys"] if key != "lm_head.weight")
        if missing:
            raise InputError(
                f"{root / 'text_encoder'} lacks {len(missing)} of the weights that its config.json asks for, the first is "
                f"{missing[0]}; fetch the directory again."
            )
        return cls(model, tokenizer).to(device)

    def save_pretrained(self, directory: str | Path) -> None:
        """Write ``directory/text_encoder`` and ``directory/tokenizer`` in the released layout."""
        root = Path(directory)
        self.model.save_pretrained(root / "text_encoder")
        self.tokenizer.save_pretrained(root / "tokenizer")

    def to(self, device: torch.device | str) -> ConditionEncoder:
        """Move the language model to ``device``; what prompts do not need (vision tower, ``lm_head``) stays where it is."""
        self._language.to(device)
        self._remembered.clear()
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
    def memory_bytes(self) -> int:
        """Bytes of the weights that encoding prompts needs on the device."""
        return sum(p.numel() * p.element_size() for p in self._language.parameters())

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal characters: what embeddings depend on (weights, their dtype, tokenizer, templates)."""
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
        """How many leading tokens the fixed beginning of ``template`` has (34 with the released tokenizer)."""
        return len(self.tokenizer(TEMPLATES[template].split("{}")[0])["input_ids"])

    def encode(self, prompts: Sequence[str], max_sequence_length: int = 1024, *, template: str = "t2i") -> list[torch.Tensor]:
        """Embeddings of ``prompts``: one (L_i, D) tensor each, without padding, on the encoder's device.

        L_i counts the prompt's tokens and the template's closing ones. A prompt alone and a prompt among others give the
        same values to 1e-5 in fp32. The empty prompt is a prompt. A prompt with L_i over ``max_sequence_length`` raises
        :class:`InputError`: cutting it silently would drop the end of what was asked for.
        """
        wanted = [(template, prompt) for prompt in prompts]
        known = {key: self._remembered[key] for key in wanted if key in self._remembered}
        fresh = [key for key in dict.fromkeys(wanted) if key not in known]
        known |= dict(zip(fresh, self._encode([prompt for _, prompt in fresh], max_sequence_length, template), strict=True))
        for key in wanted:
            if len(known[key]) > max_sequence_length:
                raise _too_long(key[1], len(known[key]), max_sequence_length)
            self._remember(key, known[key])
        return [known[key] for key in wanted]

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

    def _encode(self, prompts: list[str], limit: int, template: str) -> list[torch.Tensor]:
        before, after = TEMPLATES[template].split("{}")
        tokens: list[tuple[list[int], int]] = []
        for prompt in prompts:
            encoded = self.tokenizer(before + prompt + after, return_offsets_mapping=True)
            # Counted for each prompt: how the prefix is cut may depend on what follows it (an unclosed quotation mark).
            drop = sum(start < len(before) for start, _ in encoded["offset_mapping"])
            if len(encoded["input_ids"]) - drop > limit:
                raise _too_long(prompt, len(encoded["input_ids"]) - drop, limit)
            tokens.append((encoded["input_ids"], drop))
        order = sorted(range(len(tokens)), key=lambda i: len(tokens[i][0]))
        results: dict[int, torch.Tensor] = {}
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            states = self._forward([tokens[i][0] for i in batch])
            for i, state in zip(batch, states, strict=True):
                ids, drop = tokens[i]
                results[i] = state[drop : len(ids)].clone()  # outside inference mode: usable in training, and compact
        return [results[i] for i in range(len(prompts))]

    @torch.inference_mode()
    def _forward(self, ids: list[list[int]]) -> torch.Tensor:
        # Padding stands behind and attention is causal: no real token can see it, so no mask is needed.
        padded = torch.zeros(len(ids), max(map(len, ids)), dtype=torch.long)
        for row, line in zip(padded, ids, strict=True):
            row[: len(line)] = torch.tensor(line)
        states: torch.Tensor = self._language(input_ids=padded.to(self.device), use_cache=False).last_hidden_state
        return states

    def _remember(self, key: tuple[str, str], embed: torch.Tensor) -> None:
        self._remembered[key] = embed
        self._remembered.move_to_end(key)
        if len(self._remembered) > _REMEMBERED:
            self._remembered.popitem(last=False)


def _too_long(prompt: str, tokens: int, limit: int) -> InputError:
    return InputError(
        f"The prompt {prompt[:40] + '…' if len(prompt) > 40 else prompt!r} has {tokens} tokens and the limit is {limit}; "
        "shorten it or raise max_sequence_length."
    )
