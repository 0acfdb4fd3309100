"""A fresh nano pipeline opens with our classes and with the reference's, and its embeddings show what characters look like."""

from pathlib import Path

import pytest
import torch

from glyphflow.core.errors import StorageError
from glyphflow.generate import Pipeline
from glyphflow.train.nano import init_nano

pytest.importorskip("manimgx_fonts_cjk")


@pytest.mark.slow
def test_init_writes_a_pipeline_that_generates(tmp_path: Path) -> None:
    init_nano(tmp_path / "nano", seed=1, captions=120, side=256, edits=True)
    pipeline = Pipeline.from_pretrained(tmp_path / "nano", dtype=torch.float32)
    assert pipeline.kind == "edit" and pipeline.facts.native_side == 256
    counts = [sum(p.numel() for p in part.parameters()) for part in (pipeline.transformer, pipeline.vae)]
    assert counts[0] <= 16_000_000
    encoder = pipeline.condition_encoder
    assert encoder is not None
    table = encoder.model.get_input_embeddings().weight.detach().float()

    def embedding(character: str) -> torch.Tensor:
        (index,) = encoder.tokenizer(character).input_ids
        return table[index]

    def alike(a: str, b: str) -> float:
        return float(torch.cosine_similarity(embedding(a), embedding(b), dim=0))

    assert alike("大", "太") > 0.6 > 0.4 > alike("大", "鼎")
    assert alike("O", "Q") > 0.6 > alike("O", "X")
    assert float(embedding("好").square().mean().sqrt()) == pytest.approx(1.0, abs=1e-3)

    # From 120 captions the tokenizer learns fewer merges than from all; a whole vocabulary has 10,176 tokens.
    missing = max(0, 10_176 - len(table)) * table.shape[1]
    counts.append(sum(p.numel() for p in encoder.model.parameters()) + missing)
    assert 2 * sum(counts) <= 48 * 2**20  # bfloat16

    images = pipeline.generate('a poster that says "HI"', num_inference_steps=2, height=64, width=64).images
    assert images[0].size == (64, 64)
    edited = pipeline.edit(images[0], 'write "NO" instead', num_inference_steps=2, height=64, width=64).images
    assert edited[0].size == (64, 64)
    with pytest.raises(StorageError, match="exists already"):
        init_nano(tmp_path / "nano")
