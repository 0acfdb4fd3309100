"""The condition encoder against the reference pipeline's own prompt path, and the promises it makes beyond it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from glyphflow.core.errors import InputError, MissingError
from glyphflow.models.condition import T2I_TEMPLATE, ConditionEncoder
from tiny import tiny_encoder, tiny_text_encoder, tiny_tokenizer

PROMPTS = ["a cat", 'a poster that says "HELLO 你好"', "", " ", "字" * 40, 'an open " quote', "\nstarts with a line break"]


@pytest.fixture(scope="module")
def encoder() -> ConditionEncoder:
    return tiny_encoder()


def reference(encoder: ConditionEncoder, prompts: list[str]) -> list[torch.Tensor]:
    """What diffusers' pipeline computes for ``prompts``, one tensor without padding each."""
    from diffusers import QwenImagePipeline

    pipeline = QwenImagePipeline.__new__(QwenImagePipeline)
    pipeline.text_encoder, pipeline.tokenizer = encoder.model, encoder.tokenizer
    pipeline.tokenizer_max_length = 1024
    pipeline.prompt_template_encode = T2I_TEMPLATE
    pipeline.prompt_template_encode_start_idx = encoder.prefix_tokens()
    with torch.no_grad():
        embeds, mask = pipeline._get_qwen_prompt_embeds(prompts, device=torch.device("cpu"), dtype=torch.float32)
    return [row[keep.bool()] for row, keep in zip(embeds, mask, strict=True)]


def test_equals_the_reference(encoder: ConditionEncoder) -> None:
    ours = encoder.encode(PROMPTS)
    for prompt, mine, theirs in zip(PROMPTS, ours, reference(encoder, PROMPTS), strict=True):
        assert mine.shape == theirs.shape, prompt
        assert (mine - theirs).abs().max() <= 1e-5, prompt


def test_alone_and_among_others_are_equal() -> None:
    together = tiny_encoder().encode(PROMPTS * 3)
    for n, prompt in enumerate(PROMPTS):
        (alone,) = tiny_encoder().encode([prompt])
        assert alone.shape == together[n].shape
        assert (alone - together[n]).abs().max() <= 1e-5
        assert torch.equal(together[n], together[n + len(PROMPTS)])


def test_nothing_but_the_language_model_runs(encoder: ConditionEncoder) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a part that prompts do not need was run")

    model = tiny_text_encoder(len(encoder.tokenizer))
    model.lm_head.register_forward_pre_hook(refuse)
    model.model.visual.register_forward_pre_hook(refuse)
    lone = ConditionEncoder(model.model, encoder.tokenizer)  # the model without its head is accepted, too
    (embed,) = lone.encode(["a cat"])
    assert embed.shape[1] == lone.hidden_size == 32
    assert not embed.is_inference()


def test_prefix_is_what_the_template_begins_with(encoder: ConditionEncoder) -> None:
    ids = encoder.tokenizer(T2I_TEMPLATE.split("{}")[0])["input_ids"]
    assert encoder.prefix_tokens() == len(ids)
    (empty,) = encoder.encode([""])
    assert len(empty) == len(encoder.tokenizer(T2I_TEMPLATE.split("{}")[1])["input_ids"])


def test_prefix_is_dropped_even_when_the_prompt_changes_how_it_is_cut() -> None:
    """A tokenizer may cut ``user`` into letters when an unclosed quotation mark follows."""
    from tokenizers import Regex, pre_tokenizers

    tokenizer = tiny_tokenizer()
    backend = tokenizer.backend_tokenizer
    spelled = pre_tokenizers.Split(Regex(r'[^"](?=[^"]*"[^"]*$)'), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([spelled, backend.pre_tokenizer])
    encoder = ConditionEncoder(tiny_text_encoder(len(tokenizer)), tokenizer)
    plain, quoted = encoder.encode(["ab", 'ab"'])
    assert len(encoder.tokenizer('user\nab"')["input_ids"]) > len(encoder.tokenizer("user\nab")["input_ids"]) + 1
    closing = len(encoder.encode([""])[0])
    assert len(quoted) == closing + 3
    assert len(plain) <= closing + 2


def test_a_long_prompt_is_refused_with_both_numbers(encoder: ConditionEncoder) -> None:
    length = len(encoder.encode(["字" * 20])[0])
    assert len(encoder.encode(["字" * 20], max_sequence_length=length)[0]) == length
    with pytest.raises(InputError, match=rf"{length} tokens and the limit is {length - 1}"):
        encoder.encode(["字" * 20], max_sequence_length=length - 1)  # remembered
    with pytest.raises(InputError, match="the limit is 1024"):
        encoder.encode(["x 1 " * 2000])


def test_pad(encoder: ConditionEncoder) -> None:
    short, long = torch.ones(2, 32), torch.ones(5, 32)
    padded, mask = encoder.pad([short, long])
    assert padded.shape == (2, 5, 32)
    assert mask is not None and mask.tolist() == [[True, True, False, False, False], [True] * 5]
    assert padded[0, 2:].abs().sum() == 0
    assert encoder.pad([long, long])[1] is None
    assert encoder.encode([]) == []


def test_round_trip_and_fingerprint(encoder: ConditionEncoder, tmp_path: Path) -> None:
    encoder.save_pretrained(tmp_path)
    again = ConditionEncoder.from_pretrained(tmp_path, torch.float32)
    assert again.fingerprint == encoder.fingerprint
    assert torch.equal(again.encode(["a cat"])[0], tiny_encoder().encode(["a cat"])[0])
    assert ConditionEncoder.from_pretrained(tmp_path, dtype=torch.bfloat16).fingerprint != encoder.fingerprint
    assert tiny_encoder(seed=1).fingerprint != encoder.fingerprint


@pytest.mark.parametrize("newer", [False, True])
def test_both_families_of_parameter_names_load(encoder: ConditionEncoder, tmp_path: Path, newer: bool) -> None:
    """Released files say ``model.*`` and ``visual.*``; newer ones ``model.language_model.*`` and ``model.visual.*``."""
    encoder.save_pretrained(tmp_path)
    file = tmp_path / "text_encoder/model.safetensors"
    weights = load_file(file)
    assert {key.split(".")[0] for key in weights} == {"model", "visual", "lm_head"}
    assert not any(key.startswith("model.language_model") for key in weights)
    if newer:
        longer = {"model": "model.language_model", "visual": "model.visual", "lm_head": "lm_head"}
        renamed = {re.sub(r"^\w+", lambda head: longer[head[0]], key): value for key, value in weights.items()}
        save_file(renamed, file, metadata={"format": "pt"})
    assert ConditionEncoder.from_pretrained(tmp_path, torch.float32).fingerprint == encoder.fingerprint


def test_incomplete_directories_are_named(encoder: ConditionEncoder, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="text_encoder"):
        ConditionEncoder.from_pretrained(tmp_path)
    encoder.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "text_encoder/model.safetensors")
    dropped = "model.norm.weight"
    save_file({k: v for k, v in weights.items() if k != dropped}, tmp_path / "text_encoder/model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"language_model\.norm\.weight"):
        ConditionEncoder.from_pretrained(tmp_path)
    shutil.rmtree(tmp_path / "tokenizer")
    with pytest.raises(MissingError, match="tokenizer"):
        ConditionEncoder.from_pretrained(tmp_path)
