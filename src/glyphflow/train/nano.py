"""The starting point of the nano family: a whole pipeline directory with fresh weights.

``init_nano`` writes the released directory layout at toy size. The MMDiT starts random, the VAE from the best linear code of
blocks (:mod:`glyphflow.train.linear_vae`). The condition encoder has the Qwen2.5-VL architecture, vision tower included; before
anything has taught it language (:mod:`glyphflow.train.captioner` does), its token embeddings are given what a model that writes
needs most: the look of each character. The embedding of a one-character token is its glyph, drawn once and projected on the
principal components of all glyphs, so that the MMDiT can learn "draw what the token looks like" as one rule for every letter
and every Chinese character instead of thousands of facts. Other tokens get random vectors.

In bfloat16 the three networks are at most 48 MiB together:

    ==================  ==========  =========  ==================================================================
    part                parameters  MiB        of which
    ==================  ==========  =========  ==================================================================
    MMDiT               14,565,696      27.78  6 blocks of width 256
    VAE                  5,731,195      10.93  2.1 M at work on a picture, the rest are the kernels' slices for video
    condition encoder    4,721,984       9.01  10,176 x 256 embeddings 2.61 M, 3 layers 1.48 M, vision tower 0.64 M
    together            25,018,875      47.72
    ==================  ==========  =========  ==================================================================
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import Qwen2_5_VLConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLForConditionalGeneration

from glyphflow.core.config import to_dict
from glyphflow.core.files import atomic_path, require_new, write_json
from glyphflow.core.hardware import require
from glyphflow.core.hashing import derive_seed
from glyphflow.core.progress import Progress
from glyphflow.corpus.annotate.prompts import IMAGE_TYPES, KEYS, request_text
from glyphflow.flow import ScheduleConfig
from glyphflow.generate.directory import ModelFacts, index
from glyphflow.models import VAE, MMDiT
from glyphflow.models.presets import NANO_MMDIT, NANO_VAE
from glyphflow.models.templates import EDIT_TEMPLATE, T2I_TEMPLATE
from glyphflow.models.vision import Preprocessing
from glyphflow.render import FontLibrary, RenderSpec, render
from glyphflow.render.schedule import standard_characters
from glyphflow.train.linear_vae import init_block_transform
from glyphflow.train.tokenizer import PUNCTUATION, build_tokenizer, save_tokenizer, vocabulary_texts

GLYPH_FONT = "noto-sans-cjk-sc-regular"
GLYPH_PX = 32
HIDDEN = NANO_MMDIT.joint_attention_dim
PREPROCESSING = Preprocessing(max_pixels=28 * 28 * 100)
"""A token of the vision tower is 28 x 28 pixels; pictures over 280 x 280 are shrunk."""
SCHEDULE = ScheduleConfig(
    use_dynamic_shifting=True, max_shift=0.9, max_image_seq_len=8192, shift_terminal=0.02
)  # the released one
_IDENTITY_SHARE = 0.3  # how much of an embedding is random, so that look-alikes (O, 0) stay apart


def init_nano(directory: Path, seed: int = 0, captions: int = 4000, *, side: int = 128, edits: bool = False) -> None:
    """Write a fresh nano pipeline to ``directory`` (released layout); ``captions`` rendered ones teach the tokenizer.

    ``side`` is that of the pictures it shall draw, in pixels; ``edits``: it shall edit pictures, too. Needs the fonts of the
    ``demo`` extra. Raises :class:`StorageError` when ``directory`` exists already.
    """
    directory = Path(directory)
    require_new(directory)
    fonts = FontLibrary.from_manifest()
    texts, pictures = _samples(fonts, captions, seed)
    tokenizer = build_tokenizer([*texts, *_fixed_texts() * 10])
    generator = torch.Generator().manual_seed(derive_seed(seed, "nano"))
    transformer = MMDiT(NANO_MMDIT)
    transformer.init_weights(generator)
    vae = VAE(NANO_VAE).init_weights(generator)
    init_block_transform(vae, pictures)
    language = _condition_encoder(tokenizer, fonts, seed)
    with atomic_path(directory) as temporary:
        transformer.save_pretrained(temporary / "transformer")
        vae.save_pretrained(temporary / "vae")
        language.save_pretrained(temporary / "text_encoder")
        save_tokenizer(tokenizer, temporary / "tokenizer")
        SCHEDULE.to_json(temporary / "scheduler" / "scheduler_config.json")
        save_tokenizer(tokenizer, temporary / "processor")
        PREPROCESSING.save(temporary / "processor")
        write_json(
            temporary / "model_index.json", index("edit" if edits else "t2i", "PreTrainedTokenizerFast", with_processor=True)
        )
        # more guidance than this grows specks around what so small a model draws (measured: the model card)
        facts = ModelFacts(native_area=side**2, default_steps=20, default_true_cfg_scale=1.5)
        write_json(temporary / "glyphflow.json", to_dict(facts))


def _fixed_texts() -> list[str]:
    """What is said around prompts and pictures, for the tokenizer to keep short: in quotation marks it would be spelled."""
    said = [T2I_TEMPLATE, EDIT_TEMPLATE, *(request_text(language) for language in ("en", "zh"))]
    return [*(text.replace("{}", "").replace('"', " ") for text in said), *KEYS, *IMAGE_TYPES, "flat", "realistic"]


_TEMPLATES = ("word", "emoji", "word", "edit")


def _samples(fonts: FontLibrary, count: int, seed: int) -> tuple[list[str], list[np.ndarray]]:
    """Captions that the tokenizer's merges are learned from, and pictures for the VAE's starting point (at most 500)."""
    texts: list[str] = []
    pictures: list[np.ndarray] = []
    with Progress("samples", count, "render") as progress:
        for n in range(count):
            template = _TEMPLATES[n % len(_TEMPLATES)]
            drawn = render(RenderSpec(template, derive_seed(seed, "sample", n), 128, 128, {}), fonts)
            texts += drawn.captions.values()
            pictures += [drawn.image] if n < 500 else []
            progress.advance()
    return texts, pictures


def _condition_encoder(tokenizer: Tokenizer, fonts: FontLibrary, seed: int) -> Qwen2_5_VLForConditionalGeneration:
    vocabulary = -(-tokenizer.get_vocab_size() // 64) * 64
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": vocabulary,
            "hidden_size": HIDDEN,
            "intermediate_size": 384,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]},
            "tie_word_embeddings": True,
            "bos_token_id": tokenizer.token_to_id("<|endoftext|>"),
            "eos_token_id": tokenizer.token_to_id("<|im_end|>"),
        },
        vision_config={
            "depth": 3,
            "hidden_size": 96,
            "intermediate_size": 192,
            "num_heads": 4,
            "out_hidden_size": HIDDEN,
            "window_size": 112,
            "fullatt_block_indexes": [0, 1, 2],  # a window is a fifth of a picture: cutting gains nothing
        },
        bos_token_id=tokenizer.token_to_id("<|endoftext|>"),
        eos_token_id=tokenizer.token_to_id("<|im_end|>"),
        image_token_id=tokenizer.token_to_id("<|image_pad|>"),
        video_token_id=tokenizer.token_to_id("<|video_pad|>"),
        vision_start_token_id=tokenizer.token_to_id("<|vision_start|>"),
        vision_end_token_id=tokenizer.token_to_id("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    torch.manual_seed(derive_seed(seed, "nano-condition"))
    model = Qwen2_5_VLForConditionalGeneration(config)
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(_embeddings(tokenizer, fonts, vocabulary, seed))
        # Embeddings of length 16 are the output layer, too: logits begin with a spread of 1.
        model.model.language_model.norm.weight.fill_(HIDDEN**-0.5)
    return model


def _embeddings(tokenizer: Tokenizer, fonts: FontLibrary, vocabulary: int, seed: int) -> torch.Tensor:
    """(vocabulary, HIDDEN) with root-mean-square 1 per row: glyphs for one-character tokens, noise for the others."""
    rows = np.random.default_rng(derive_seed(seed, "embeddings")).standard_normal((vocabulary, HIDDEN))
    drawable = set(standard_characters()) | set(PUNCTUATION) | {chr(code) for code in range(33, 127)}
    single = {token: text for token, text in vocabulary_texts(tokenizer).items() if text in drawable}
    look = _principal_components(_glyphs(fonts, list(single.values())), HIDDEN)
    for token, row in zip(single, look, strict=True):
        rows[token] = _unit(row) + _IDENTITY_SHARE * rows[token]
    return torch.from_numpy(np.stack([_unit(row) for row in rows]).astype(np.float32))


def _glyphs(fonts: FontLibrary, characters: list[str]) -> np.ndarray:
    """(n, GLYPH_PX**2) coverage in [0, 1]: each character on the same baseline, centred by its advance."""
    skia = require("skia", "corpus")
    font = fonts.font(GLYPH_FONT)
    size = GLYPH_PX * 0.8
    drawn = np.zeros((len(characters), GLYPH_PX, GLYPH_PX), np.uint8)
    for canvas, character in zip(drawn, characters, strict=True):
        surface = skia.Surface.MakeRasterDirect(skia.ImageInfo.MakeA8(GLYPH_PX, GLYPH_PX), canvas)
        x = (GLYPH_PX - font.shape(character).advance * size) / 2
        skia_font = skia.Font(font.typeface, size)
        surface.getCanvas().drawString(character, x, GLYPH_PX * 0.82, skia_font, skia.Paint(AntiAlias=True))
    return drawn.reshape(len(characters), -1).astype(np.float64) / 255


def _principal_components(values: np.ndarray, count: int) -> np.ndarray:
    """Project (n, d) ``values`` on their first ``count`` components, each divided by the root of its standard deviation.

    Full weight would let a few coarse components drown the strokes, full whitening would blow up noise; half-way keeps both.
    """
    centred = values - values.mean(0)
    variance, axes = np.linalg.eigh(centred.T @ centred / len(values))
    strongest = np.argsort(variance)[::-1][:count]
    kept: np.ndarray = centred @ axes[:, strongest] / (np.maximum(variance[strongest], 0.0) ** 0.25 + 1e-6)
    return kept


def _unit(row: np.ndarray) -> np.ndarray:
    scaled: np.ndarray = row / np.sqrt(np.mean(row**2) + 1e-12)
    return scaled
