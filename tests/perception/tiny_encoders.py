"""SigLIP and Chinese-CLIP with random weights, small enough for a test, saved as the released ones are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoImageProcessor,
    BertTokenizer,
    ChineseCLIPConfig,
    ChineseCLIPModel,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipModel,
)

_SMALL: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
_VISION = {"image_size": 32, "patch_size": 8, **_SMALL}
_PIXELS = """{"image_processor_type": "%s", "do_resize": true, "size": {"height": 32, "width": 32}, "do_center_crop": false,
"do_rescale": true, "do_normalize": true, "image_mean": [0.5, 0.4, 0.45], "image_std": [0.5, 0.3, 0.25], "resample": 3}"""


def siglip(directory: Path, seed: int = 0) -> tuple[Any, Any, Any]:
    """Model, image processor and tokenizer, saved in ``directory``."""
    directory.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    words = {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3}
    words |= {word: 4 + number for number, word in enumerate(["a", "photo", "of", "cat", "dog", "red", "bus", "street"])}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
    text = {"vocab_size": len(words), "max_position_embeddings": 16, "projection_size": 32, **_SMALL}
    text |= {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=_VISION)).eval()
    return _save(directory, model, tokenizer, "SiglipImageProcessor")


def chinese_clip(directory: Path, seed: int = 0) -> tuple[Any, Any, Any]:
    """Model, image processor and tokenizer, saved in ``directory``."""
    directory.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"一张猫的照片红色车在街上"]
    (directory / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    text = {"vocab_size": len(vocabulary), "max_position_embeddings": 64, **_SMALL}
    model = ChineseCLIPModel(
        ChineseCLIPConfig(text_config=text, vision_config={**_VISION, "projection_dim": 16}, projection_dim=16)
    ).eval()
    return _save(directory, model, BertTokenizer(str(directory / "vocab.txt")), "ChineseCLIPImageProcessor")


def _save(directory: Path, model: Any, tokenizer: Any, processor: str) -> tuple[Any, Any, Any]:
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    (directory / "preprocessor_config.json").write_text(_PIXELS % processor, encoding="utf-8")
    return model, AutoImageProcessor.from_pretrained(directory), tokenizer
