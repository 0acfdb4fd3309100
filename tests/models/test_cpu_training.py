"""What training under autocast on the CPU does by other ways: the same functions and gradients, at least as near to exact."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from glyphflow.models.attention import ShortAttention, attend
from glyphflow.models.kernels import EAGER, rms_norm
from glyphflow.models.msrope import rotate, rotation_table


def gradients(function: Callable[..., Tensor], inputs: list[Tensor], dtypes: list[torch.dtype], weight: Tensor) -> list[Tensor]:
    """Output, and the gradient of its sum under ``weight`` by each input."""
    leaves = [each.to(dtype).requires_grad_() for each, dtype in zip(inputs, dtypes, strict=True)]
    out = function(*leaves)
    out.backward(weight.to(out.dtype))
    return [out.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def error(found: list[Tensor], exact: list[Tensor]) -> list[float]:
    return [float((a.double() - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True)]


def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)


@pytest.mark.parametrize("queries", [90, 23])
def test_short_attention_is_nearer_to_exact_than_the_fused_kernel(queries: int) -> None:
    torch.manual_seed(0)
    inputs = [2 * torch.randn(2, queries, 3, 16), 2 * torch.randn(2, 90, 3, 16), torch.randn(2, 90, 3, 16)]
    inputs[2] = inputs[2].bfloat16().float()  # queries and keys come from their norms in float32, values from a linear
    weight = torch.randn(2, queries, 3, 16).bfloat16()
    exact = gradients(fused, inputs, [torch.float64] * 3, weight)
    half = error(gradients(fused, inputs, [torch.bfloat16] * 3, weight), exact)
    ours = error(gradients(ShortAttention.apply, inputs, [torch.float32, torch.float32, torch.bfloat16], weight), exact)
    assert max(ours) < 0.01
    assert all(a < b for a, b in zip(ours, half, strict=True))


def test_long_and_masked_sequences_agree_with_short_ones() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 8, 2, 8) for _ in range(3))
    nothing_hidden = torch.ones(1, 1, 1, 8, dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(attend(q, k, v, None).float(), attend(q, k, v, nothing_hidden), atol=0.02, rtol=0)


def test_norm_and_rotation_have_the_gradient_that_autograd_finds() -> None:
    torch.manual_seed(0)
    table = rotation_table(((1, 3, 4),), 2, (4, 6, 6), torch.device("cpu"))
    x, scale = torch.randn(2, 14, 3, 16), torch.rand(16) + 0.5
    weight = torch.randn(2, 3, 14, 16).transpose(1, 2)  # as attention gives it back

    def plain(x: Tensor, scale: Tensor) -> Tensor:
        return rotate(rms_norm(x, scale, 1e-6), table)

    def ours(x: Tensor, scale: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return EAGER.norm_rotate(x, scale, 1e-6, table)

    wanted = gradients(plain, [x, scale], [torch.float32] * 2, weight)
    for found, expected in zip(gradients(ours, [x, scale], [torch.float32] * 2, weight), wanted, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
