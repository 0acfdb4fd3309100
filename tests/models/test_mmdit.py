"""The MMDiT against diffusers' transformer (same weights, same inputs) and against closed forms."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from glyphflow.core.errors import GlyphFlowError, InputError
from glyphflow.models import NANO_MMDIT, QWEN_IMAGE_MMDIT, MMDiT, MMDiTConfig, pack_latents, unpack_latents
from glyphflow.models.block import clip_half, sinusoid
from glyphflow.models.kernels import EAGER, TRACEABLE

diffusers = pytest.importorskip("diffusers")

TINY: dict[str, Any] = {
    "in_channels": 16,
    "out_channels": 4,
    "num_layers": 3,
    "attention_head_dim": 16,
    "num_attention_heads": 3,
    "joint_attention_dim": 24,
    "axes_dims_rope": (8, 4, 4),
}
SHAPES = {
    "square": [(1, 4, 4)],
    "odd": [(1, 5, 3)],
    "one reference": [(1, 5, 3), (1, 3, 7)],
    "two references": [(1, 4, 2), (1, 3, 7), (1, 2, 2)],
    "three references": [(1, 3, 5), (1, 2, 2), (1, 4, 1), (1, 1, 3)],
}
MASKS = {"none": None, "padded": [[1] * 7, [1] * 4 + [0] * 3], "holes": [[1, 1, 0, 1, 1, 0, 1], [0, 1, 1, 1, 0, 0, 0]]}


LAYERED = {"use_additional_t_cond": True, "use_layer3d_rope": True}


@functools.cache
def twins(dtype: torch.dtype, zero_cond_t: bool = False, layered: bool = False) -> tuple[Any, MMDiT]:
    """The reference with random weights everywhere (also where training starts at zero), and ours with the same."""
    torch.manual_seed(0)
    config = {**TINY, "zero_cond_t": zero_cond_t, **(LAYERED if layered else {})}
    reference = diffusers.QwenImageTransformer2DModel(**config).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    reference = reference.to(dtype)
    ours = MMDiT(MMDiTConfig(**config)).to(dtype).eval()
    ours.load_state_dict(reference.state_dict())
    return reference, ours


def inputs(shapes: list[tuple[int, int, int]], dtype: torch.dtype, mask: list[list[int]] | None) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(1)
    tokens = sum(f * h * w for f, h, w in shapes)
    latents = torch.randn(2, tokens, 16, generator=generator).to(dtype)
    text = torch.randn(2, 7, 24, generator=generator).to(dtype)
    sigma = torch.tensor([0.937, 0.0213], dtype=dtype)
    return latents, text, sigma, [shapes] * 2, None if mask is None else torch.tensor(mask)


@torch.no_grad()
def both(dtype: torch.dtype, shapes: str, mask: str, zero_cond_t: bool = False) -> tuple[Tensor, Tensor]:
    reference, ours = twins(dtype, zero_cond_t)
    latents, text, sigma, img_shapes, text_mask = inputs(SHAPES[shapes], dtype, MASKS[mask])
    expected = reference(latents, text, text_mask, sigma, img_shapes, return_dict=False)[0]
    return expected, ours(latents, text, sigma, img_shapes, text_mask)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("shapes", SHAPES)
def test_float32_equals_the_reference(shapes: str, mask: str) -> None:
    expected, got = both(torch.float32, shapes, mask)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("shapes", SHAPES)
def test_bfloat16_is_bit_equal_to_the_reference(shapes: str, mask: str) -> None:
    expected, got = both(torch.bfloat16, shapes, mask)
    assert torch.equal(got, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shapes", ["odd", "two references"])
def test_zero_cond_t_equals_the_reference(shapes: str, dtype: torch.dtype) -> None:
    expected, got = both(dtype, shapes, "padded", zero_cond_t=True)
    torch.testing.assert_close(got, expected, atol=1e-5 if dtype == torch.float32 else 0, rtol=0)


@pytest.mark.parametrize("zero_cond_t", [False, True])
@torch.no_grad()
def test_modulation_evaluated_ahead_gives_the_same_bits(zero_cond_t: bool) -> None:
    ours = twins(torch.bfloat16, zero_cond_t)[1]
    latents, text, sigma, shapes, _ = inputs(SHAPES["one reference"], torch.bfloat16, None)
    sigma = sigma[:1].expand(2)
    table = ours.modulation(torch.stack([sigma[0], sigma[0] / 2]))
    assert torch.equal(ours(latents, text, sigma, shapes, modulation=table.row(0)), ours(latents, text, sigma, shapes))


@torch.no_grad()
def test_controlnet_residuals_equal_the_reference() -> None:
    reference, ours = twins(torch.float32)
    latents, text, sigma, shapes, _ = inputs(SHAPES["odd"], torch.float32, None)
    residuals = list(torch.randn(2, 2, 15, 48, generator=torch.Generator().manual_seed(2)))
    expected = reference(
        latents, text, None, sigma, shapes, controlnet_block_samples=residuals, return_dict=False
    )[0]  # fmt: skip
    got = ours(latents, text, sigma, shapes, controlnet_block_samples=residuals)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("mask", ["none", "padded"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shapes", ["two references", "many layers"])
@torch.no_grad()
def test_layered_equals_the_reference(shapes: str, dtype: torch.dtype, mask: str) -> None:
    reference, ours = twins(dtype, layered=True)
    many = [(1, 2, 2)] * 5  # more layers than half the side: text starts behind the last layer
    latents, text, sigma, img_shapes, text_mask = inputs(SHAPES.get(shapes, many), dtype, MASKS[mask])
    kind = torch.tensor([0, 1])
    expected = reference(
        latents, text, text_mask, sigma, img_shapes, additional_t_cond=kind, return_dict=False
    )[0]  # fmt: skip
    got = ours(latents, text, sigma, img_shapes, text_mask, additional_t_cond=kind)
    torch.testing.assert_close(got, expected, atol=1e-5 if dtype == torch.float32 else 0, rtol=0)


def test_the_second_time_condition_is_asked_for_by_layered_models_only() -> None:
    latents, text, sigma, shapes, _ = inputs(SHAPES["odd"], torch.float32, None)
    with pytest.raises(InputError, match="was not given"):
        twins(torch.float32, layered=True)[1](latents, text, sigma, shapes)
    with pytest.raises(InputError, match="was given"):
        twins(torch.float32)[1](latents, text, sigma, shapes, additional_t_cond=torch.tensor([0]))


@pytest.mark.parametrize("zero_cond_t", [False, True])
@torch.no_grad()
def test_only_the_wanted_tokens_are_computed_with_the_same_bits(zero_cond_t: bool) -> None:
    ours = twins(torch.bfloat16, zero_cond_t)[1]
    latents, text, sigma, shapes, mask = inputs(SHAPES["two references"], torch.bfloat16, MASKS["padded"])
    whole = ours(latents, text, sigma, shapes, mask)
    assert torch.equal(ours(latents, text, sigma, shapes, mask, target_tokens=8), whole[:, :8])


@pytest.mark.parametrize("zero_cond_t", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_prompts_of_different_lengths_need_no_padding(dtype: torch.dtype, zero_cond_t: bool) -> None:
    ours = twins(dtype, zero_cond_t)[1]
    latents, text, sigma, shapes, _ = inputs(SHAPES["one reference"], dtype, None)
    sigma, ragged = sigma[:1], [text[0], text[1, :3]]
    together = ours(latents, ragged, sigma, shapes)
    alone = [ours(latents[i : i + 1], one[None], sigma, shapes[:1]) for i, one in enumerate(ragged)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5 if dtype == torch.float32 else 2**-6, rtol=0)
    table = ours.modulation(sigma)
    assert torch.equal(ours(latents, ragged, sigma, shapes, modulation=table), together)


def test_ragged_prompts_with_several_sigmas_are_refused() -> None:
    latents, text, sigma, shapes, _ = inputs(SHAPES["odd"], torch.float32, None)
    with pytest.raises(InputError, match=r"\(7, 3\) share one sigma, but there are 2"):
        twins(torch.float32)[1](latents, [text[0], text[1, :3]], sigma, shapes)


@pytest.mark.parametrize("zero_cond_t", [False, True])
@torch.no_grad()
def test_kernels_for_the_compiler_compute_the_same(zero_cond_t: bool) -> None:
    ours = twins(torch.bfloat16, zero_cond_t)[1]
    latents, text, sigma, shapes, mask = inputs(SHAPES["two references"], torch.bfloat16, MASKS["padded"])
    expected = ours(latents, text, sigma, shapes, mask)
    ours.use_kernels(TRACEABLE)
    got = ours(latents, text, sigma, shapes, mask)
    ours.use_kernels(EAGER)
    torch.testing.assert_close(got, expected, atol=2**-6, rtol=0)


@torch.no_grad()
def test_padding_changes_nothing() -> None:
    ours = twins(torch.float32)[1]
    latents, text, sigma, shapes, _ = inputs(SHAPES["odd"], torch.float32, None)
    alone = ours(latents, text, sigma, shapes)
    padded = torch.cat([text, torch.full((2, 3, 24), 7.0)], dim=1)
    mask = torch.tensor([[1] * 7 + [0] * 3] * 2)
    torch.testing.assert_close(ours(latents, padded, sigma, shapes, mask), alone, atol=1e-5, rtol=0)


def test_float16_streams_are_clipped() -> None:
    assert clip_half(torch.tensor([float("inf"), -float("inf")], dtype=torch.float16)).tolist() == [65504, -65504]


def test_sinusoid_starts_with_the_cosines_of_1000_sigma() -> None:
    wave = sinusoid(torch.tensor([0.5]))[0]
    expected = [torch.tensor(500.0).cos(), torch.tensor(500 / 10000 ** (1 / 128)).cos(), torch.tensor(500.0).sin()]
    torch.testing.assert_close(wave[[0, 1, 128]], torch.stack(expected), atol=2e-4, rtol=0)


def test_released_size_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        model = MMDiT(QWEN_IMAGE_MMDIT)
    assert sum(p.numel() for p in model.parameters()) == 20_430_401_088
    assert len(model.state_dict()) == 1933


def test_initial_weights_predict_zero_and_learn() -> None:
    model = MMDiT(NANO_MMDIT.model_copy(update={"num_layers": 2})).init_weights(torch.Generator().manual_seed(0))
    latents, text, sigma = torch.randn(2, 4, 64), torch.randn(2, 3, 256), torch.rand(2)
    assert model(latents, text, sigma, [[(1, 2, 2)]] * 2).abs().max() == 0
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(4):  # zeros open one layer of the network per step
        loss = (model(latents, text, sigma, [[(1, 2, 2)]] * 2) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    untouched = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    last = "transformer_blocks.1."  # nothing reads the text after it
    dead = tuple(last + part for part in ("txt_mlp", "attn.to_add_out", "attn.add_q_proj", "attn.norm_added_q"))
    assert loss < 1 and all(name.startswith(dead) for name in untouched)


def test_initial_weights_repeat_from_a_seed() -> None:
    config = MMDiTConfig(**TINY)
    one, two = (MMDiT(config).init_weights(torch.Generator().manual_seed(3)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_autocast_training_step_agrees_with_float32() -> None:
    model = twins(torch.float32)[1]
    latents, text, sigma, shapes, mask = inputs(SHAPES["one reference"], torch.float32, MASKS["padded"])
    gradients = []
    for enabled in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            out = model(latents, text, sigma, shapes, mask)
        out.float().square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    model.zero_grad()
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.995


def test_packing_puts_channel_row_column_in_that_order() -> None:
    z = torch.arange(2 * 4 * 6).reshape(1, 2, 4, 6).float()
    tokens = pack_latents(z)
    assert tokens.shape == (1, 6, 8)
    assert tokens[0, 4].tolist() == [14, 15, 20, 21, 38, 39, 44, 45]  # second row of patches, second column
    assert torch.equal(unpack_latents(tokens, 32, 48), z)


def test_packing_equals_the_reference_pipeline() -> None:
    from diffusers import QwenImagePipeline

    z = torch.randn(2, 16, 6, 10)
    assert torch.equal(pack_latents(z), QwenImagePipeline._pack_latents(z, 2, 16, 6, 10))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"guidance_embeds": True}, "guidance_embeds"),
        ({"axes_dims_rope": (8, 4, 6)}, "18, but attention_head_dim is 16"),
    ],
)
def test_impossible_configs_say_why(change: dict[str, Any], words: str) -> None:
    with pytest.raises(GlyphFlowError, match=words):
        MMDiTConfig(**{**TINY, **change})


def test_contradicting_inputs_name_both_values() -> None:
    ours = twins(torch.float32)[1]
    latents, text, sigma, shapes, _ = inputs(SHAPES["odd"], torch.float32, None)
    with pytest.raises(InputError, match="16 tokens, but hidden_states has 15"):
        ours(latents, text, sigma, [[(1, 4, 4)]] * 2)
    with pytest.raises(InputError, match="same image shapes"):
        ours(latents, text, sigma, [[(1, 5, 3)], [(1, 3, 5)]])
    with pytest.raises(InputError, match=r"\(2, 5\), but the text is \(2, 7\)"):
        ours(latents, text, sigma, shapes, torch.ones(2, 5))
    with pytest.raises(InputError, match="additional_t_cond"):
        ours(latents, text, sigma, shapes, additional_t_cond=torch.zeros(2))
    with pytest.raises(InputError, match="3 tokens do not fill a picture of 32 x 32, which has 4"):
        unpack_latents(torch.zeros(1, 3, 64), 32, 32)
    with pytest.raises(InputError, match="5 x 4"):
        pack_latents(torch.zeros(1, 16, 5, 4))
