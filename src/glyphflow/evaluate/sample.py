"""Making the pictures of a benchmark: one PNG per prompt in a folder with a manifest; finished ones are not made again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from glyphflow.core.files import exclusive
from glyphflow.core.progress import Progress
from glyphflow.evaluate.folder import Manifest, picture_path, write_manifest
from glyphflow.evaluate.prompts import Benchmark
from glyphflow.generate import describe, write_png

if TYPE_CHECKING:
    from glyphflow.generate import Pipeline


def sample(
    pipeline: Pipeline,
    model: str,
    benchmark: Benchmark,
    folder: Path,
    *,
    num_inference_steps: int | None = None,
    true_cfg_scale: float = 4.0,
    width: int | None = None,
    height: int | None = None,
    negative_prompt: str = "",
) -> Manifest:
    """Make every picture of ``benchmark`` that ``folder`` does not hold yet, each from its prompt's own seed.

    Sizes are pixels and default, like the steps, to what the model directory says; ``model`` is its name in the pictures'
    metadata. Pictures are made one at a time, so that ``glyphflow generate --from`` makes each of them again, byte by byte. A
    folder begun with another model, prompts or settings raises :class:`ConfigError` with both values.
    """
    steps = pipeline.facts.default_steps if num_inference_steps is None else num_inference_steps
    width, height = width or pipeline.facts.native_side, height or pipeline.facts.native_side
    settings = {
        "num_inference_steps": steps,
        "true_cfg_scale": float(true_cfg_scale),
        "negative_prompt": negative_prompt,
        "width": width,
        "height": height,
        "dtype": str(pipeline.dtype).removeprefix("torch."),
        "device": pipeline.device.type,
    }
    manifest = Manifest(benchmark.name, benchmark.prompts, pipeline.weights_hash, settings)
    with exclusive(folder, "sampling"):
        write_manifest(folder, manifest)
        todo = [prompt for prompt in benchmark.prompts if not picture_path(folder, prompt).exists()]
        done = len(benchmark.prompts) - len(todo)
        with Progress("sample", total=len(benchmark.prompts), unit="img", initial=done) as progress:
            for prompt in todo:
                image = pipeline.generate(
                    prompt.prompt,
                    negative_prompt,
                    num_inference_steps=steps,
                    true_cfg_scale=true_cfg_scale,
                    width=width,
                    height=height,
                    generator=torch.Generator().manual_seed(prompt.seed),
                    progress=False,
                ).images[0]
                facts = describe(
                    pipeline,
                    model,
                    prompt=prompt.prompt,
                    negative_prompt=negative_prompt,
                    seed=prompt.seed,
                    num_inference_steps=steps,
                    true_cfg_scale=true_cfg_scale,
                    width=width,
                    height=height,
                )
                write_png(image, picture_path(folder, prompt), facts)
                progress.advance()
    return manifest
