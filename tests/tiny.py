"""Seeded toy models in the released directory layout, for every test that needs a whole pipeline in a second."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLForConditionalGeneration

from glyphflow.models.condition import T2I_TEMPLATE

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>")
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
HIDDEN = 32
SCHEDULER = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "max_image_seq_len": 8192,
    "max_shift": 0.9,
    "num_train_timesteps": 1000,
    "shift": 1.0,
    "shift_terminal": 0.02,
    "time_shift_type": "exponential",
    "use_dynamic_shifting": True,
}


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of the Qwen2 kind with a few hundred merges learned from the template itself."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(WORDS), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL],
        show_progress=False,
    )
    tokenizer.train_from_iterator([T2I_TEMPLATE] * 4, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|endoftext|>", eos_token="<|im_end|>", model_max_length=32768
    )


def tiny_text_encoder(vocabulary: int, seed: int = 0) -> Any:
    """A Qwen2.5-VL of two layers and width 32 with seeded weights."""
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": vocabulary,
            "hidden_size": HIDDEN,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]},
            "bos_token_id": 0,
            "eos_token_id": 2,
        },
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": HIDDEN,
            "fullatt_block_indexes": [0],
        },
        vision_start_token_id=3,
        vision_end_token_id=4,
        image_token_id=5,
    )
    torch.manual_seed(seed)
    return Qwen2_5_VLForConditionalGeneration(config).eval()


def tiny_encoder(seed: int = 0) -> Any:
    """A :class:`glyphflow.models.condition.ConditionEncoder` over the two above."""
    from glyphflow.models.condition import ConditionEncoder

    tokenizer = tiny_tokenizer()
    return ConditionEncoder(tiny_text_encoder(len(tokenizer), seed), tokenizer)


def tiny_pipeline(directory: Path, seed: int = 0, native_area: int = 64 * 64, default_steps: int = 2) -> Path:
    """Write a whole toy pipeline to ``directory`` in the released layout; equal seeds give equal weights."""
    from glyphflow.models import VAE, MMDiT, MMDiTConfig, VAEConfig

    directory = Path(directory)
    torch.manual_seed(seed + 1)
    transformer = MMDiT(
        MMDiTConfig(
            num_layers=2, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=HIDDEN, axes_dims_rope=(4, 6, 6)
        )
    )
    vae = VAE(VAEConfig(base_dim=8, z_dim=16, dim_mult=(1, 2, 4, 4), num_res_blocks=1, temperal_downsample=(False, True, True)))
    for module in (transformer, vae):
        seeded_weights(module, seed)
    transformer.save_pretrained(directory / "transformer")
    vae.save_pretrained(directory / "vae")
    tiny_encoder(seed).save_pretrained(directory)
    (directory / "scheduler").mkdir()
    (directory / "scheduler/scheduler_config.json").write_text(json.dumps(SCHEDULER))
    index = {
        "_class_name": "QwenImagePipeline",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "Qwen2_5_VLForConditionalGeneration"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "transformer": ["diffusers", "QwenImageTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKLQwenImage"],
    }
    (directory / "model_index.json").write_text(json.dumps(index))
    # Comparisons with the reference are made against the empty text; the default of released weights has tests of its own.
    facts = {"native_area": native_area, "default_steps": default_steps, "default_negative_prompt": ""}
    (directory / "glyphflow.json").write_text(json.dumps(facts))
    return directory


def seeded_weights(module: torch.nn.Module, seed: int) -> None:
    """Fill every parameter so that each layer matters: matrices by fan-in, vectors around their neutral value."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(module.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1 and "gamma" not in name:
                parameter.copy_(noise * (parameter[0].numel() ** -0.5))
            elif "norm" in name or "gamma" in name:
                parameter.copy_(1 + 0.1 * noise)
            else:
                parameter.copy_(0.1 * noise)
