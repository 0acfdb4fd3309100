"""How long and with how much memory a transformer is opened: `python -m benchmarks.models.loading [--rounds 5] [--layers 8]`.

A random MMDiT of width 1024 (8 blocks are 307 M parameters) is written in bfloat16 as shards with an index, and opened by
diffusers and by us in processes of their own that take turns. The files are in the page cache on both sides. Time runs until
every weight has been read once; memory is the highest anonymous memory (pages of the mapped file, which the system can drop,
are not in it) and the highest resident memory, both beyond what the process had before.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.common import machine, table
from glyphflow.models import MMDiT, MMDiTConfig

OPEN = {
    "diffusers, bf16": "diffusers.QwenImageTransformer2DModel.from_pretrained(path, torch_dtype=torch.bfloat16)",
    "ours, bf16": "MMDiT.from_pretrained(path, torch.bfloat16)",
    "diffusers, fp16": "diffusers.QwenImageTransformer2DModel.from_pretrained(path, torch_dtype=torch.float16)",
    "ours, fp16": "MMDiT.from_pretrained(path, torch.float16)",
    "ours, int8": 'MMDiT.from_pretrained(path, torch.bfloat16, quantize="int8")',
    "ours, int4": 'MMDiT.from_pretrained(path, torch.bfloat16, quantize="int4")',
}
PROGRAM = """
import json, re, sys, threading, time, warnings
import diffusers, torch
from diffusers import QwenImageTransformer2DModel
from glyphflow.models import MMDiT
warnings.simplefilter("ignore")
path, stop, highest = sys.argv[1], False, {}

def look():
    text = open("/proc/self/status").read()
    for name in ("RssAnon", "VmRSS"):
        highest[name] = max(highest.get(name, 0), int(re.search(name + r":\\s+(\\d+)", text)[1]) * 1024)

def watch():
    while not stop:
        look()
        time.sleep(0.005)

look()
before = dict(highest)
watcher = threading.Thread(target=watch)
watcher.start()
begin, work = time.perf_counter(), time.process_time()
model = OPEN
for weight in model.parameters():
    weight.view(-1)[::64].sum()
seconds, cpu = time.perf_counter() - begin, time.process_time() - work
stop = True
watcher.join()
size = sum(weight.nbytes for weight in model.parameters())
print(json.dumps({"seconds": seconds, "cpu": cpu, "size": size, **{name: highest[name] - before[name] for name in highest}}))
"""


def run(opened: str, path: Path) -> dict[str, float]:
    """One process that opens ``path``."""
    program = PROGRAM.replace("OPEN", opened)
    out = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    result: dict[str, float] = json.loads(out.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=8)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        config = MMDiTConfig(num_layers=arguments.layers, num_attention_heads=8, joint_attention_dim=1024)
        MMDiT(config).to(torch.bfloat16).save_pretrained(path, max_shard_bytes=2 * 10**8)
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in OPEN}
        for index in range(arguments.rounds + 1):
            for name, opened in OPEN.items():
                result = run(opened, path)
                if index:
                    runs[name].append(result)
    rows: list[tuple[object, ...]] = []
    for name, each in runs.items():
        middle = {key: statistics.median(result[key] for result in each) for key in each[0]}
        size, own, resident = (middle[key] / 1e6 for key in ("size", "RssAnon", "VmRSS"))
        seconds = [f"{middle[key]:.2f}" for key in ("seconds", "cpu")]
        rows.append((name, *seconds, f"{size:.0f}", f"{own:.0f}", f"{own / size:.2f}", f"{resident:.0f}"))
    print(machine("safetensors", "diffusers") + "\n")
    header = ("opened by", "s", "CPU s", "weights, MB", "anonymous memory, MB", "of the weights", "resident memory, MB")
    print(table(header, rows))


if __name__ == "__main__":
    main()
