"""An MMDiT brought to another encoder takes its states as it took those of its own, where one is a linear map of the other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from glyphflow.core.errors import ConfigError
from glyphflow.models import MMDiT
from glyphflow.models.condition import ConditionEncoder
from glyphflow.train.align import align_text_input
from tiny import tiny_pipeline

PROMPTS = [
    f"{colour} text {word!r} on a {ground} sign"
    for colour in ("red", "blue")
    for word in "abcdefgh"
    for ground in ("gray", "white")
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline(tmp_path_factory.mktemp("models") / "one", seed=2)


class Turned:
    """The states of an encoder turned by an orthogonal matrix, which keeps their length."""

    def __init__(self, encoder: ConditionEncoder, matrix: torch.Tensor) -> None:
        self._encoder, self._matrix = encoder, matrix

    def encode(self, prompts: list[str]) -> list[torch.Tensor]:
        return [states @ self._matrix for states in self._encoder.encode(prompts)]


def taken(mmdit: MMDiT, encoder: ConditionEncoder) -> torch.Tensor:
    with torch.no_grad():
        return mmdit.txt_in(mmdit.txt_norm(torch.cat(encoder.encode(PROMPTS[:6]))))


def test_what_the_text_layer_says_is_kept(root: Path) -> None:
    encoder, mmdit = (
        ConditionEncoder.from_pretrained(root, torch.float32),
        MMDiT.from_pretrained(root / "transformer", torch.float32),
    )
    with torch.no_grad():
        mmdit.txt_norm.weight.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(0))
    width = encoder.hidden_size
    turn = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(1)))[0]
    other = Turned(encoder, turn)
    before = taken(mmdit, encoder)
    assert align_text_input(mmdit, encoder, other, PROMPTS) > 0.99  # type: ignore[arg-type]
    after = taken(mmdit, other)  # type: ignore[arg-type]
    assert (after - before).abs().max() < 0.1 * before.abs().max()
    assert (taken(mmdit, encoder) - before).abs().max() > 0.5 * before.abs().max()


def test_other_tokens_cannot_be_compared(root: Path) -> None:
    encoder = ConditionEncoder.from_pretrained(root, torch.float32)

    class Shorter(Turned):
        def encode(self, prompts: list[str]) -> list[torch.Tensor]:
            return [states[1:] for states in self._encoder.encode(prompts)]

    mmdit = MMDiT.from_pretrained(root / "transformer", torch.float32)
    with pytest.raises(ConfigError, match=r"cut .* into \d+ and \d+ tokens"):
        align_text_input(mmdit, encoder, Shorter(encoder, torch.eye(2)), PROMPTS)  # type: ignore[arg-type]
