"""Toy models of every kind with pictures to work on, and the command line as a function."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from glyphflow.cli import main as cli
from glyphflow.models import VAE, MMDiT, MMDiTConfig, VAEConfig
from glyphflow.models.control import ControlNet, ControlNetConfig
from tiny import HIDDEN, seeded_weights, tiny_pipeline

SHAPE = {"num_attention_heads": 2, "attention_head_dim": 16, "joint_attention_dim": HIDDEN, "axes_dims_rope": (4, 6, 6)}


@dataclass(frozen=True)
class Done:
    """What a command left: its exit code and what it said."""

    code: int
    out: str
    err: str


def glyphflow(*arguments: object) -> Done:
    """Run a command line in this process, as ``glyphflow`` would."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    argv = ["glyphflow", *map(str, arguments)]
    with mock.patch.object(sys, "argv", argv), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    return Done(code, out.getvalue(), err.getvalue())


def make_place(root: Path) -> Path:
    """Models "t2i", "plus" (edit-plus) and "layered", a ControlNet "net", a "lora.safetensors" and pictures in ``root``."""
    for name, kind in (("t2i", ""), ("plus", "EditPlus"), ("layered", "Layered")):
        tiny_pipeline(root / name)
        index = root / name / "model_index.json"
        index.write_text(json.dumps(json.loads(index.read_text()) | {"_class_name": f"QwenImage{kind}Pipeline"}))
    layered = {
        "transformer": MMDiT(MMDiTConfig(num_layers=2, use_additional_t_cond=True, use_layer3d_rope=True, **SHAPE)),  # type: ignore[arg-type]
        "vae": VAE(VAEConfig(base_dim=8, z_dim=16, num_res_blocks=1, input_channels=4)),
    }
    for part, module in layered.items():
        seeded_weights(module, 3)
        module.save_pretrained(root / "layered" / part)
    net = ControlNet(ControlNetConfig(num_layers=1, **SHAPE))  # type: ignore[arg-type]
    seeded_weights(net, 8)
    net.save_pretrained(root / "net")
    name = "transformer_blocks.0.attn.to_q"
    save_file(
        {f"{name}.lora_A.weight": torch.ones(2, 32), f"{name}.lora_B.weight": torch.ones(32, 2)}, root / "lora.safetensors"
    )
    save_file({"unet.lora_A.weight": torch.ones(2, 32), "unet.lora_B.weight": torch.ones(32, 2)}, root / "strange.safetensors")
    for n, file in enumerate(("a.png", "b.png")):
        photo(60, 48, n).save(root / file)
    for file, side in (("mask.png", 60), ("small.png", 20)):
        grey = np.zeros((48, side), np.uint8)
        grey[10:40, 10:15] = 255
        Image.fromarray(grey).save(root / file)
    (root / "text.png").write_text("no picture")
    (root / "cut.png").write_bytes((root / "a.png").read_bytes()[:200])
    return root


def photo(width: int, height: int, seed: int) -> Image.Image:
    """A soft colourful picture."""
    colours = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC)
