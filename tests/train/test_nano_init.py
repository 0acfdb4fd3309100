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
    init_nano(tmp_path / "nano", seed=1, captions=120)
    pipeline = Pipeline.from_pretrained(tmp_path / "nano", dtype=torch.float32)
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

    images = pipeline.generate('a poster that says "HI"', num_inference_steps=2, height=64, width=64).images
    assert images[0].size == (64, 64)
    with pytest.raises(StorageError, match="exists already"):
        init_nano(tmp_path / "nano")
