"""Bringing an MMDiT to another condition encoder: the least squares between what the two say of the same prompts.

An MMDiT that has learned on the states of one encoder understands nothing of another's, though the same may be said in them.
Training goes on from the best linear map from the new states to the old ones, put into the layer that takes them in, instead of
learning that language anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from glyphflow.core.errors import ConfigError
from glyphflow.core.files import atomic_path, require_new
from glyphflow.core.progress import Progress
from glyphflow.corpus.store import Corpus
from glyphflow.generate.directory import copy_without, locate
from glyphflow.models import MMDiT
from glyphflow.models.condition import ConditionEncoder

RIDGE = 1e-3
"""Of the mean square of a state (1, they are normalised): keeps directions that no prompt uses from being blown up."""


def align_pipeline(out: Path, mmdit: str | Path, old: str | Path, new: str | Path, corpus: Path, captions: int) -> float:
    """Write to ``out`` the pipeline ``new`` with the MMDiT of ``mmdit``, which knows the condition encoder of ``old``.

    The states compared are those of about ``captions`` captions, evenly from the rows of ``corpus``. Gives the share explained.
    Raises :class:`StorageError` when ``out`` exists and what :func:`align_text_input` raises.
    """
    require_new(Path(out))
    before, after = (ConditionEncoder.from_pretrained(locate(root), torch.float32) for root in (old, new))
    network = MMDiT.from_pretrained(locate(mmdit) / "transformer", dtype=torch.float32)
    explained = align_text_input(network, before, after, _captions(corpus, captions))
    with atomic_path(out) as temporary:
        copy_without(locate(new), temporary, "transformer")
        network.save_pretrained(temporary / "transformer")
    return explained


def _captions(corpus: Path, wanted: int) -> list[str]:
    """Captions of the corpus in every language, at least ``wanted`` where it has as many."""
    selection = Corpus.open(corpus).records(None)
    found: list[str] = []
    order = torch.randperm(len(selection), generator=torch.Generator().manual_seed(0)).tolist()
    with Progress("captions", wanted, "caption") as progress:
        for number in order:
            told = list(selection.load(number).captions.values())
            found += told
            progress.advance(len(told))
            if len(found) >= wanted:
                break
    return found


@torch.no_grad()
def align_text_input(mmdit: MMDiT, old: ConditionEncoder, new: ConditionEncoder, prompts: Sequence[str]) -> float:
    """Change ``mmdit`` so that it takes the states of ``new`` as it took those of ``old``; gives the share explained (R^2).

    Both encoders must cut ``prompts`` into the same tokens; the first that they do not is a :class:`ConfigError`.
    """
    pairs = [(_states(old, prompt), _states(new, prompt)) for prompt in prompts]
    for prompt, (before, after) in zip(prompts, pairs, strict=True):
        if len(before) != len(after):
            raise ConfigError(
                f"The encoders cut {prompt!r} into {len(before)} and {len(after)} tokens; states can be compared "
                "only where they share a tokenizer."
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
