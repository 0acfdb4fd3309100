"""What takes memory on a training card beside the step: the encoders before it, and previews between steps."""

from __future__ import annotations

import torch

from glyphflow.feed.frozen import encoders_bytes
from glyphflow.generate.activations import Work, decoding_bytes
from glyphflow.generate.directory import NANO, locate
from glyphflow.generate.rooms import of_sampling
from glyphflow.generate.sizes import EncoderConfig
from glyphflow.train.curriculum import Curriculum


def encoding_bytes(curriculum: Curriculum, side: int) -> int:
    """Bytes on a card of ``glyphflow encode`` at its highest point, for pictures of ``side`` px, both encoders resident."""
    return encoders_bytes(_encoder(curriculum), curriculum.vae, torch.bfloat16, side)


def preview_bytes(curriculum: Curriculum) -> int:
    """Bytes that drawing the recipe's prompts takes beside the network's weights: the loop, or the VAE at its work."""
    preview = curriculum.preview
    high, wide = (preview.height or 16) // 16, (preview.width or 16) // 16
    text = curriculum.caption_tokens
    work = Work(((1, high, wide),), len(preview.prompts), text, text, preview.steps or 50)
    drawing = of_sampling(curriculum.model, work, torch.bfloat16)
    return max(drawing, decoding_bytes(curriculum.vae, (1, 2 * high, 2 * wide), torch.float32))


def _encoder(curriculum: Curriculum) -> EncoderConfig:
    """The condition encoder's sizes: the released one's where the text is as wide, else those of the run's model."""
    released = EncoderConfig()
    if curriculum.model.joint_attention_dim == released.hidden_size:
        return released
    return EncoderConfig.read(locate(curriculum.train.init_from or NANO) / "text_encoder")
