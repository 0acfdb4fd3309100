"""A whole text-to-image call against the reference pipeline: from embeddings to pixels.

    python -m benchmarks.generate.text_to_image [--size 512] [--steps 8] [--rounds 3] [--dtype bfloat16] [--quick]

A random MMDiT of 208 M parameters (width 1024, 5 blocks), the VAE at its released width, guidance 4. Both sides have the same
weights, embeddings and noise, and take turns in one process. ``--quick`` is a 64 x 64 picture in two steps.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import diffusers
import torch
from torch import Tensor

from benchmarks.common import machine, table, take_turns
from glyphflow.flow import ScheduleConfig
from glyphflow.generate import Pipeline, Speed
from glyphflow.models import QWEN_IMAGE_VAE, VAE, MMDiT, MMDiTConfig

SIZES: dict[str, Any] = {
    "num_layers": 5,
    "attention_head_dim": 128,
    "num_attention_heads": 8,
    "joint_attention_dim": 1024,
    "axes_dims_rope": (16, 56, 56),
}
SCHEDULE = {"use_dynamic_shifting": True, "max_shift": 0.9, "max_image_seq_len": 8192, "shift_terminal": 0.02}


def sides(dtype: torch.dtype) -> tuple[Any, Pipeline]:
    """The reference pipeline and ours with the same random weights."""
    torch.manual_seed(0)
    network = diffusers.QwenImageTransformer2DModel(**SIZES)
    vae = diffusers.AutoencoderKLQwenImage()
    our_network, our_vae = MMDiT(MMDiTConfig(**SIZES)), VAE(QWEN_IMAGE_VAE)
    our_network.load_state_dict(network.state_dict())
    our_vae.load_state_dict(vae.state_dict())
    for module in (network, vae, our_network, our_vae):
        module.to(dtype).eval().requires_grad_(False)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**SCHEDULE)
    theirs = diffusers.QwenImagePipeline(scheduler, vae, None, None, network)
    theirs.set_progress_bar_config(disable=True)
    return theirs, Pipeline(our_network, our_vae, None, ScheduleConfig(**SCHEDULE), speed=Speed())


def calls(theirs: Any, ours: Pipeline, size: int, steps: int, dtype: torch.dtype) -> dict[str, Callable[[], Tensor]]:
    """Name -> one picture as a tensor in [0, 1]."""
    draw = torch.Generator().manual_seed(1)
    positive, negative = (torch.randn(1, length, 1024, generator=draw).to(dtype) for length in (96, 6))
    common = {"height": size, "width": size, "num_inference_steps": steps, "true_cfg_scale": 4.0, "output_type": "pt"}
    common |= {"prompt_embeds": positive, "negative_prompt_embeds": negative}
    masks = {f"{name}_mask": torch.ones(common[name].shape[:2]) for name in ("prompt_embeds", "negative_prompt_embeds")}

    def seed() -> torch.Generator:
        return torch.Generator().manual_seed(2)

    def run_ours(speed: Speed) -> Callable[[], Tensor]:
        def call() -> Tensor:
            ours.speed = speed
            picture: Tensor = ours.generate(**common, generator=seed(), progress=False).images  # type: ignore[arg-type]
            return picture

        return call

    return {
        "reference": lambda: theirs(**common, **masks, generator=seed()).images,
        "ours": run_ours(Speed()),
        "ours, all switches off": run_ours(Speed.reference()),
    }


@torch.inference_mode()
def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.size, options.steps, options.rounds = 64, 2, 1
    diffusers.utils.logging.set_verbosity_error()
    dtype = getattr(torch, options.dtype)
    works = calls(*sides(dtype), options.size, options.steps, dtype)
    truth = works["reference"]()
    apart = {name: (work() - truth).abs().max().item() * 255 for name, work in works.items()}
    seconds = take_turns(works, options.rounds)
    print(
        f"{machine('diffusers')}; {options.size} x {options.size}, {options.steps} steps, guidance 4, {options.dtype}; medians "
        f"of {options.rounds}\n"
    )
    rows = [(n, f"{s:.2f}", f"{seconds['reference'] / s:.2f}", f"{apart[n]:.2g}") for n, s in seconds.items()]
    print(table(("call", "seconds", "reference / this", "largest difference in grey levels of 255"), list(rows)))


if __name__ == "__main__":
    main()
