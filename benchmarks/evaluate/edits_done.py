"""Which edits a model did, and which it left: nearer to what was asked than to what there was, in a folder of `nano-edits`.

    python -m benchmarks.evaluate.edits_done runs/nano-edits

The PSNR of the untouched region is best when nothing is touched. So here stands the other half: of the pixels that the true
target changes, whether the result's are nearer (in mean square) to the target's or to the source's. No judge, no threshold
besides the one that says which pixels change (more than 5 of 255 in a channel).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from glyphflow.evaluate.folder import load_picture
from glyphflow.evaluate.metrics.pixels import psnr_of


def nearness(source: Path, made: Path) -> tuple[float, float]:
    """PSNR in dB of the changed pixels: of the result to the target, and to the source; the target lies beside the source."""
    paths = (source, source.with_name(f"{source.stem}-target.png"), made)
    before, after, found = (torch.from_numpy(load_picture(path).copy()).permute(2, 0, 1)[None].double() / 255 for path in paths)
    changed = ((after - before).abs() > 5 / 255).any(dim=1)
    return float(psnr_of(found, after, changed)), float(psnr_of(found, before, changed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a scored folder of nano-edits")
    folder = parser.parse_args().folder
    scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    categories = {row["sample"]: row["category"] for row in scores["rows"]}
    found: dict[str, list[tuple[float, float]]] = {}
    for sample in scores["samples"]:
        pair = nearness(Path(sample["references"][0]), folder / sample["pictures"][0])
        found.setdefault(categories[sample["id"]], []).append(pair)
    print("| edit | nearer to the target | changed pixels: to the target | to the source |\n| --- | --- | --- | --- |")
    for category, pairs in found.items():
        target, source = np.mean(pairs, axis=0)
        done = sum(to_target > to_source for to_target, to_source in pairs)
        print(f"| {category} | {done} of {len(pairs)} | {target:.1f} dB | {source:.1f} dB |")


if __name__ == "__main__":
    main()
