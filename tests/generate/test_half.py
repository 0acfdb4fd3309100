"""float16 stays finite and near float32 where activations leave its range."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pipeline_pairs import photo, texts

from glyphflow.generate import Pipeline
from glyphflow.generate.half import keep_finite
from glyphflow.models import MMDiT, MMDiTConfig
from tiny import HIDDEN, seeded_weights, tiny_pipeline


def loud(loudness: float) -> MMDiT:
    """A toy MMDiT whose streams and what is added to them are ``loudness`` times as large as usual."""
    config = MMDiTConfig(
        num_layers=3, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=HIDDEN, axes_dims_rope=(4, 6, 6)
    )
    model = MMDiT(config)
    seeded_weights(model, 0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("transformer_blocks") and name.endswith(("net.2.weight", "to_out.0.weight", "to_q.weight")):
                parameter.mul_(loudness)
    return model.eval().requires_grad_(False)


def run(model: MMDiT, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    image, text = (torch.randn(1, n, width, generator=generator) for n, width in ((24, 64), (9, HIDDEN)))
    return model(image.to(dtype), text.to(dtype), torch.tensor([0.75]), [[(1, 4, 6)]]).float()


def lora() -> dict[str, torch.Tensor]:
    generator, name = torch.Generator().manual_seed(1), "transformer_blocks.0.img_mlp.net.2"
    shapes = {f"{name}.lora_A.weight": (2, 128), f"{name}.lora_B.weight": (32, 2)}
    return {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}


@pytest.mark.parametrize("loudness", [1.0, 3e3, 3e4])
def test_the_mmdit_stays_near_float32(loudness: float) -> None:
    model = loud(loudness)
    expected = run(model, torch.float32)
    plain = run(model.half(), torch.float16)
    keep_finite(model)
    names = [name for name, _ in model.named_parameters()]
    half = run(model, torch.float16)
    assert torch.isfinite(half).all()
    error = ((half - expected).norm() / expected.norm()).item()
    assert error < 0.005
    assert bool(torch.isfinite(plain).all()) == (loudness < 1e4)  # what this protects from does happen
    assert names == [name for name, _ in loud(1.0).named_parameters()]


def test_a_float16_pipeline_draws_what_float32_draws(tmp_path: Path) -> None:
    directory = tiny_pipeline(tmp_path / "model")
    loud(3e4).save_pretrained(directory / "transformer")
    whole, half = (Pipeline.from_pretrained(directory, dtype=dtype, device="cpu") for dtype in (torch.float32, torch.float16))
    assert half.dtype == torch.float16
    call = texts(True) | {"num_inference_steps": 4, "output_type": "np"}
    for verb, inputs in (("generate", []), ("restyle", [photo(64, 64)])):
        first, second = (
            getattr(p, verb)(*inputs, **call, generator=torch.Generator().manual_seed(0)).images for p in (whole, half)
        )
        assert np.isfinite(second).all()
        # Another dtype draws other random numbers, so only statistics can be compared; see below for the same latents.
        assert abs(first.mean() - second.mean()) < 0.2
    latents = torch.randn(1, 16, 64, generator=torch.Generator().manual_seed(0)).half().float()
    first, second = (p.generate(**call, latents=latents).images for p in (whole, half))
    assert np.abs(first - second).mean() < 0.01
    whole.kind = half.kind = "edit-plus"
    for network in (whole, half):
        network.load_lora_weights(lora(), weight=0.5)
    call["latents"] = latents
    first, second = (p.edit([photo(64, 64)], **call, width=64, height=64).images for p in (whole, half))
    assert np.abs(first - second).mean() < 0.01
    prompt = [p.generate("a sign", latents=latents, num_inference_steps=2, output_type="np").images for p in (whole, half)]
    assert np.abs(prompt[0] - prompt[1]).mean() < 0.02
