"""Prompts with pictures: equal to whole passes of transformers with right positions, and what is computed only once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Regex, pre_tokenizers
from transformers import BatchFeature
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from glyphflow.core.errors import InputError
from glyphflow.core.hashing import fingerprint
from glyphflow.models import templates
from glyphflow.models.condition import ConditionEncoder
from glyphflow.models.vision import Preprocessing
from tiny import WORDS, seeded_weights, tiny_encoder, tiny_text_encoder, tiny_tokenizer

IMAGE = 5  # the tiny tokenizer's id of the picture's token
CAT = Image.effect_noise((140, 84), 90).convert("RGB")
DOG = Image.linear_gradient("L").resize((60, 190)).convert("RGB")
BIRD = Image.radial_gradient("L").resize((64, 64)).convert("RGBA")


@pytest.fixture
def encoder() -> ConditionEncoder:
    return telling_encoder()


def telling_encoder() -> ConditionEncoder:
    """A tiny encoder whose weights are large enough that attention, and with it every position, matters."""
    encoder: ConditionEncoder = tiny_encoder()
    seeded_weights(encoder.model, 0)
    return encoder


def processed(encoder: ConditionEncoder, texts: Sequence[str], images: Sequence[Image.Image]) -> BatchFeature:
    """What transformers' processor makes of texts with pictures (its own class does not load without torchvision)."""
    inputs = Qwen2VLImageProcessorPil()(list(images), return_tensors="pt")
    counts = iter((inputs["image_grid_thw"].prod(-1) // 4).tolist())
    pieces = [text.split(templates.IMAGE_TOKEN) for text in texts]
    long = [row[0] + "".join(templates.IMAGE_TOKEN * next(counts) + piece for piece in row[1:]) for row in pieces]
    return BatchFeature({**encoder.tokenizer(long, padding=True, return_tensors="pt"), **inputs})


class Corrected(torch.nn.Module):
    """transformers' whole model, told which tokens are pictures, as transformers 4 found out by itself."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, **inputs: Any) -> Any:
        return self.model(input_ids=input_ids, mm_token_type_ids=(input_ids == IMAGE).int(), **inputs)


def reference(encoder: ConditionEncoder, prompts: list[str], images: list[Image.Image], corrected: bool = True) -> list[Any]:
    """What diffusers' edit-plus pipeline computes for prompts that all speak of ``images``."""
    from diffusers import QwenImageEditPlusPipeline

    pipeline = QwenImageEditPlusPipeline.__new__(QwenImageEditPlusPipeline)
    pipeline.text_encoder = Corrected(encoder.model) if corrected else encoder.model
    pipeline.processor = lambda text, images, **_: processed(encoder, text, images * len(text))
    pipeline.prompt_template_encode = templates.EDIT_TEMPLATE
    pipeline.prompt_template_encode_start_idx = encoder.prefix_tokens("edit-plus")
    with torch.no_grad():
        embeds, mask = pipeline._get_qwen_prompt_embeds(prompts, images, device=torch.device("cpu"), dtype=torch.float32)
    return [row[keep.bool()] for row, keep in zip(embeds, mask, strict=True)]


@contextmanager
def counted(encoder: ConditionEncoder) -> Iterator[dict[str, list[int]]]:
    """Tokens of every pass of the language model and patches of every pass of the vision tower."""
    passes: dict[str, list[int]] = {"language": [], "vision": []}

    def language(_: Any, __: Any, inputs: dict[str, Any]) -> None:
        passes["language"].append(max(len(inputs[key][0]) for key in ("input_ids", "inputs_embeds") if key in inputs))

    def vision(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        passes["vision"].append(len(inputs[0]))

    core = encoder.model.model
    hooks = [
        core.language_model.register_forward_pre_hook(language, with_kwargs=True),
        core.visual.register_forward_pre_hook(vision),
    ]
    try:
        yield passes
    finally:
        for hook in hooks:
            hook.remove()


def test_templates_are_the_released_ones() -> None:
    from diffusers.modular_pipelines.qwenimage import prompt_templates as released

    assert templates.T2I_TEMPLATE == released.QWENIMAGE_PROMPT_TEMPLATE
    before, after = templates.templated("edit", "PROMPT", 1)
    assert before + after == released.QWENIMAGE_EDIT_PROMPT_TEMPLATE.format("PROMPT")
    pictures = "".join(released.QWENIMAGE_EDIT_PLUS_IMG_TEMPLATE.format(n) for n in (1, 2, 3))
    before, after = templates.templated("edit-plus", "PROMPT", 3)
    assert before + after == released.QWENIMAGE_EDIT_PLUS_PROMPT_TEMPLATE.format(pictures + "PROMPT")
    assert templates.CAPTION_TEMPLATES["en"] == released.QWENIMAGE_LAYERED_CAPTION_PROMPT_EN
    assert templates.CAPTION_TEMPLATES["zh"] == released.QWENIMAGE_LAYERED_CAPTION_PROMPT_CN
    # Latent caches carry this hash; they stay valid as long as it does.
    assert fingerprint(templates.TEMPLATES) == fingerprint({"t2i": released.QWENIMAGE_PROMPT_TEMPLATE})


@pytest.mark.parametrize(("template", "count"), [("t2i", 34), ("edit", 64), ("edit-plus", 64)])
def test_leading_tokens_of_the_released_tokenizer(template: str, count: int) -> None:
    """Every word of the templates is one token there, so the count is that of its pieces and special tokens."""
    words = pre_tokenizers.Split(Regex(WORDS), "isolated")
    pieces = re.split(r"(<\|im_\w+\|>)", templates.templated(template, "")[0])
    assert sum(1 if piece.startswith("<|") else len(words.pre_tokenize_str(piece)) for piece in pieces) == count


def test_edit_equals_a_whole_pass(encoder: ConditionEncoder) -> None:
    for image in (CAT, DOG):
        (ours,) = encoder.encode(["make it red"], template="edit", images=[[image]])
        text = "".join(templates.templated("edit", "make it red", 1))
        with torch.no_grad():
            states = Corrected(encoder.model.model)(**processed(encoder, [text], [image])).last_hidden_state[0]
        wanted = states[encoder.prefix_tokens("edit") :]
        assert ours.shape == wanted.shape
        assert (ours - wanted).abs().max() <= 1e-5


def test_in_bf16_sharing_is_as_near_to_fp32_as_a_whole_pass(encoder: ConditionEncoder) -> None:
    exact = torch.cat(encoder.encode(["make it red", ""], template="edit-plus", images=[[CAT, DOG]] * 2))
    half = ConditionEncoder(telling_encoder().model.bfloat16(), encoder.tokenizer)
    ours = torch.cat(half.encode(["make it red", ""], template="edit-plus", images=[[CAT, DOG]] * 2)).float()
    theirs = torch.cat([reference(half, [prompt], [CAT, DOG])[0] for prompt in ("make it red", "")])
    away = {name: float((got - exact).norm() / exact.norm()) for name, got in (("ours", ours), ("theirs", theirs))}
    assert away["ours"] <= 1.1 * away["theirs"] <= 0.05


@pytest.mark.parametrize("images", [[CAT], [CAT, DOG], [BIRD, CAT, DOG]])
def test_edit_plus_equals_the_reference_with_right_positions(encoder: ConditionEncoder, images: list[Image.Image]) -> None:
    prompts = ["put the cat beside the dog", "", '"你好" on a sign']
    ours = encoder.encode(prompts, template="edit-plus", images=[images] * 3)
    naive = reference(encoder, prompts, images, corrected=False)
    for mine, theirs, wrong in zip(ours, reference(encoder, prompts, images), naive, strict=True):
        assert mine.shape == theirs.shape == wrong.shape
        assert (mine - theirs).abs().max() <= 1e-5
        assert (mine - wrong).abs().max() > 1e-2  # what diffusers computes under transformers 5


def test_prompts_with_pictures_of_their_own(encoder: ConditionEncoder) -> None:
    rows = [[CAT], [DOG, CAT], [CAT], [BIRD]]
    prompts = ["one", "two pictures, and a much longer prompt", "one", "three"]
    together = encoder.encode(prompts, template="edit-plus", images=rows)
    assert torch.equal(together[0], together[2])
    for prompt, row, embed in zip(prompts, rows, together, strict=True):
        (alone,) = telling_encoder().encode([prompt], template="edit-plus", images=[row])
        assert alone.shape == embed.shape
        assert (alone - embed).abs().max() <= 1e-5
    swapped = encoder.encode(["two pictures, and a much longer prompt"], template="edit-plus", images=[[CAT, DOG]])
    assert (swapped[0] - together[1]).abs().max() > 1e-3


def test_what_is_common_is_computed_once(encoder: ConditionEncoder) -> None:
    with counted(encoder) as passes:
        (positive,) = encoder.encode(["make it red"], template="edit", images=[[CAT]])
        (negative,) = encoder.encode([""], template="edit", images=[[CAT.copy()]])
    beginning, *rests = passes["language"]
    assert beginning > sum(rests) > 0
    assert len(rests) == 2
    assert len(passes["vision"]) == 1
    assert not positive.is_inference()
    assert not negative.is_inference()
    with counted(encoder) as passes:
        again = encoder.encode(["make it red", ""], template="edit", images=[[CAT], [CAT]])
        encoder.to("cpu").encode(["make it red"], template="edit", images=[[CAT]])
    assert passes == {"language": [], "vision": []}
    assert torch.equal(again[0], positive)
    assert encoder.remembers(["", "make it red"], template="edit", images=[[CAT]] * 2)
    assert not encoder.remembers([""], template="edit", images=[[DOG]])
    assert not encoder.remembers([""])
    with counted(encoder) as passes:
        encoder.encode([""], template="edit-plus", images=[[DOG, CAT]])
    assert len(passes["vision"]) == 1  # the cat is known


def test_text_shares_its_beginning_in_fp32_and_is_bit_equal_in_bf16(encoder: ConditionEncoder) -> None:
    prompts = ["a cat", "a dog and a bird", "\nstarts with a line break, so the beginning is cut otherwise"]
    with counted(encoder) as passes:
        encoder.encode(prompts)
        encoder.encode(["another"])
    assert passes["language"].count(encoder.prefix_tokens()) == 1
    half = ConditionEncoder(tiny_text_encoder(len(encoder.tokenizer)).bfloat16(), encoder.tokenizer)
    for prompt in prompts:
        ids = half.tokenizer("".join(templates.templated("t2i", prompt)), return_tensors="pt")
        with torch.no_grad():
            states = half.model(**ids, output_hidden_states=True).hidden_states[-1][0]
        (ours,) = half.encode([prompt])
        assert torch.equal(ours, states[-len(ours) :])


def test_caption_is_the_likeliest_continuation_at_right_positions(encoder: ConditionEncoder) -> None:
    for language in ("en", "zh"):
        text = encoder.caption(CAT, language, max_new_tokens=6)
        inputs = processed(encoder, [templates.CAPTION_TEMPLATES[language]], [CAT])
        ids = inputs.pop("input_ids")
        inputs.pop("attention_mask")
        start = ids.shape[1]
        with torch.no_grad():
            for _ in range(6):
                token = Corrected(encoder.model)(ids, **inputs).logits[0, -1].argmax()
                ids = torch.cat([ids, token.view(1, 1)], dim=1)
                if token == encoder.model.generation_config.eos_token_id:
                    break
        assert text == encoder.tokenizer.decode(ids[0, start:], skip_special_tokens=True).strip()
    with pytest.raises(InputError, match=r"'fr'.* en, zh"):
        encoder.caption(CAT, "fr")
    with pytest.raises(InputError, match="lm_head"):
        ConditionEncoder(encoder.model.model, encoder.tokenizer).caption(CAT)


def test_pictures_that_do_not_fit_are_refused(encoder: ConditionEncoder) -> None:
    with pytest.raises(InputError, match="Prompt 1 has 1 pictures and the template 't2i' takes none"):
        encoder.encode(["a"], images=[[CAT]])
    with pytest.raises(InputError, match="Prompt 2 has no picture and the template 'edit' needs one"):
        encoder.encode(["a", "b"], template="edit", images=[[CAT], []])
    with pytest.raises(InputError, match="Prompt 1 has no picture"):
        encoder.encode(["a"], template="edit-plus")
    with pytest.raises(InputError, match="Prompt 1 has 2 pictures and 'edit' takes one"):
        encoder.encode(["a"], template="edit", images=[[CAT, DOG]])
    with pytest.raises(InputError, match="2 prompts and 1 lists of pictures"):
        encoder.encode(["a", "b"], template="edit", images=[[CAT]])
    with pytest.raises(InputError, match="no template 'video'; there are t2i, edit, edit-plus"):
        encoder.encode(["a"], template="video")
    with pytest.raises(InputError, match=r"contains <\|image_pad\|>"):
        encoder.encode(["a <|image_pad|>"], template="edit", images=[[CAT]])
    with pytest.raises(InputError, match="ratio of 300"):
        encoder.encode(["a"], template="edit", images=[[Image.new("RGB", (600, 2))]])
    assert encoder.encode(["a"], images=[[]])[0].shape[1] == 32


def test_the_limit_counts_words_not_pictures(encoder: ConditionEncoder) -> None:
    (embed,) = encoder.encode(["word"], template="edit", images=[[CAT]])
    spoken = len(embed) - 3 * 5  # 140 x 84 pixels
    assert len(encoder.encode(["word"], spoken, template="edit", images=[[CAT]])[0]) == len(embed)
    for fresh in (encoder, telling_encoder()):
        with pytest.raises(InputError, match=f"'word' has {spoken} tokens and the limit is {spoken - 1}"):
            fresh.encode(["word"], spoken - 1, template="edit", images=[[CAT]])


def test_a_checkpoint_without_vision_tower_serves_text(encoder: ConditionEncoder, tmp_path: Path) -> None:
    encoder.save_pretrained(tmp_path)
    file = tmp_path / "text_encoder/model.safetensors"
    whole = load_file(file)
    save_file({k: v for k, v in whole.items() if not k.startswith("visual")}, file, {"format": "pt"})
    blind = ConditionEncoder.from_pretrained(tmp_path, torch.float32)
    assert torch.equal(blind.encode(["a cat"])[0], encoder.encode(["a cat"])[0])
    assert blind.fingerprint == encoder.fingerprint
    for call in (lambda: blind.encode(["a"], template="edit", images=[[CAT]]), lambda: blind.caption(CAT)):
        with pytest.raises(InputError, match="no vision tower"):
            call()
    blind.save_pretrained(tmp_path / "again")
    assert not any(key.startswith("visual") for key in load_file(tmp_path / "again/text_encoder/model.safetensors"))
    part = {k: v for k, v in whole.items() if k != "visual.merger.ln_q.weight"}
    save_file(part, file, {"format": "pt"})
    with pytest.raises(InputError, match=r"visual\.merger\.ln_q\.weight"):
        ConditionEncoder.from_pretrained(tmp_path)


def test_processor_is_read_and_written_back(encoder: ConditionEncoder, tmp_path: Path) -> None:
    encoder.save_pretrained(tmp_path)
    assert not (tmp_path / "processor").exists()
    small = Preprocessing(max_pixels=56 * 56)
    small.save(tmp_path / "processor")
    again = ConditionEncoder.from_pretrained(tmp_path, torch.float32)
    assert again.preprocessing == small
    (few,) = again.encode(["a"], template="edit", images=[[CAT]])
    (many,) = encoder.encode(["a"], template="edit", images=[[CAT]])
    assert len(many) - len(few) == 3 * 5 - 2
    again.save_pretrained(tmp_path / "copy")
    assert ConditionEncoder.from_pretrained(tmp_path / "copy", torch.float32).preprocessing == small
    assert (tmp_path / "copy/processor/tokenizer_config.json").is_file()
    with pytest.raises(InputError, match=r"patches of 14 pixels.* makes 16"):
        ConditionEncoder(encoder.model, encoder.tokenizer, Preprocessing(patch_size=16))


def test_parts_go_where_they_are_needed() -> None:
    encoder = tiny_encoder()
    core, head = encoder.model.model, encoder.model.lm_head.weight
    encoder.to("meta")
    assert encoder.device.type == "meta"
    assert {p.device.type for p in core.visual.parameters()} == {head.device.type} == {"cpu"}
    encoder.to("meta", vision=True)
    assert {p.device.type for p in core.visual.parameters()} == {"meta"}
    assert head.device.type == "cpu"


def test_a_tokenizer_without_the_token_is_named() -> None:
    tokenizer = tiny_tokenizer()
    document = tokenizer.backend_tokenizer.to_str().replace(templates.IMAGE_TOKEN, "<|other_pad|>")
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(document), pad_token="<|endoftext|>")
    encoder = ConditionEncoder(tiny_text_encoder(len(other)), other)
    assert len(encoder.encode(["a"])) == 1
    with pytest.raises(InputError, match="no token"):
        encoder.encode(["a"], template="edit", images=[[CAT]])
