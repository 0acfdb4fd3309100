"""Bringing an MMDiT to another condition encoder: the least squares between what the two say of the same prompts.

An MMDiT that has learned on the states of one encoder understands nothing of another's, though the same may be said in them. The
best linear map from the new states to the old ones, put into the layer that takes them in, is where training goes on from, instead
of learning that language anew.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from glyphflow.core.errors import ConfigError
from glyphflow.models import MMDiT
from glyphflow.models.condition import ConditionEncoder

RIDGE = 1e-3
"""Of the mean square of a state (1, they are normalised): keeps directions that no prompt uses from being blown up."""


@torch.no_grad()
def align_text_input(mmdit: MMDiT, old: ConditionEncoder, new: ConditionEncoder, prompts: Sequence[str]) -> float:
    """Change ``mmdit`` so that it takes the states of ``new`` as it took those of ``old``; gives the share explained (R^2).

    Both encoders must cut ``prompts`` into the same tokens; the first that they do not is a :class:`ConfigError`.
    """
    pairs = [(_states(old, prompt), _states(new, prompt)) for prompt in prompts]
    for prompt, (before, after) in zip(prompts, pairs, strict=True):
        if len(before) != len(after):
            raise ConfigError(
                f"The encoders cut {prompt!r} into {len(before)} and {len(after)} tokens; states can be compared only where they "
                "share a tokenizer."
            )
    y, x = (torch.cat(states).double() for states in zip(*pairs, strict=True))
    x_mean, y_mean = x.mean(0), y.mean(0)
    centred = x - x_mean
    gram = centred.T @ centred + RIDGE * len(x) * torch.eye(x.shape[1], dtype=x.dtype)
    linear = torch.linalg.solve(gram, centred.T @ (y - y_mean))  # x @ linear ~ y
    constant = y_mean - x_mean @ linear
    rest = y - x @ linear - constant
    taken = mmdit.txt_in.weight.double() * mmdit.txt_norm.weight.double()
    mmdit.txt_in.bias.add_((taken @ constant).to(mmdit.txt_in.bias.dtype))
    mmdit.txt_in.weight.copy_(taken @ linear.T)
    mmdit.txt_norm.weight.fill_(1.0)
    return float(1 - rest.square().sum() / (y - y_mean).square().sum())


def _states(encoder: ConditionEncoder, prompt: str) -> Tensor:
    """(tokens, width): the states of a prompt as the MMDiT's normalisation leaves them."""
    states_LD = encoder.encode([prompt])[0].float()
    return states_LD * states_LD.square().mean(-1, keepdim=True).add(1e-6).rsqrt()
