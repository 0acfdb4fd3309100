"""What it costs that every picture and every caption is encoded alone, and what it buys.

    python -m benchmarks.feed.encoding [DIRECTORY] [--side 128] [--dtype float32]

The frozen encoders of a pipeline directory (default: nano) on 32 pictures and captions: alone, and as many at once as a plain
script would take. The last column says whether the bits of all samples are those of the sample alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.common import machine, table, take_turns
from glyphflow.feed.pixels import to_tensor
from glyphflow.generate.directory import locate
from glyphflow.models import VAE
from glyphflow.models.condition import ConditionEncoder

COUNT = 32
ROUNDS = 5


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", nargs="?", default="nano")
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    root, dtype = locate(options.directory), getattr(torch, options.dtype)
    rng = np.random.default_rng(0)
    pictures = to_tensor(rng.integers(0, 256, (COUNT, options.side, options.side, 3), dtype=np.uint8)).to(device)
    words = ["white", "text", "on", "a", "dark", "blue", "background", "大学", "蓝色", "emoji"]
    captions = [" ".join(rng.choice(words, 6 + n % 20)) + f" {n}" for n in range(COUNT)]
    vae = VAE.from_pretrained(root / "vae", torch.float32, device)
    condition = ConditionEncoder.from_pretrained(root, dtype, device)

    def latents(at_once: int) -> Callable[[], list[torch.Tensor]]:
        def work() -> list[torch.Tensor]:
            with torch.no_grad(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                return [mode for part in pictures.split(at_once) for mode in vae.encode(part).mode()]

        return work

    def texts(at_once: int) -> Callable[[], list[torch.Tensor]]:
        def work() -> list[torch.Tensor]:
            condition._remembered.clear()
            return [one for n in range(0, COUNT, at_once) for one in condition.encode(captions[n : n + at_once])]

        return work

    print(f"{machine(device=device.type)}; {options.directory}, {options.side} px, {options.dtype}\n")
    rows: list[tuple[object, ...]] = []
    for name, make in (("pictures", latents), ("captions", texts)):
        works = {at_once: make(at_once) for at_once in (1, 8, 32)}
        seconds = take_turns({str(at_once): work for at_once, work in works.items()}, ROUNDS)
        alone = works[1]()
        for at_once, work in works.items():
            same = sum(torch.equal(one, other) for one, other in zip(work(), alone, strict=True))
            rows.append((name, at_once, f"{COUNT / seconds[str(at_once)]:.1f}", f"{same} of {COUNT}"))
    print(table(("what", "at once", "a second", "same bits as alone"), rows))


if __name__ == "__main__":
    main()
