"""The condition encoder against the reference's way of calling it.

`python -m benchmarks.models.condition [--rounds 5] [--only text|edit] [--cpu-time]`

A Qwen2.5-VL of about 100 M random parameters, fp32, with the shares of the released one: the vocabulary's logits are 8 % of
the language model's work (7 % there), the vision tower 8 % of all weights (as there). Both sides get the same prompts in the
same process, taking turns; the medians are printed as Markdown. The reference is diffusers' own function (told which tokens are
pictures, without which it is wrong under transformers 5). Prompts are new in every round, pictures too: what our side remembers
is the beginning of the text template, as in any process that has embedded a prompt before.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from PIL import Image
from transformers import AutoTokenizer, BatchFeature, Qwen2_5_VLConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from glyphflow.models.condition import ConditionEncoder
from glyphflow.models.templates import EDIT_TEMPLATE, IMAGE_TOKEN, T2I_TEMPLATE
from glyphflow.models.vision import Preprocessing

WORDS = ("a", "quiet", "street", "at", "night", "with", "red", "lanterns", "and", "one", "sign", "that", "says", "hello")
PAIR = ("replace the sign by a red lantern and make it night", "")
TEXTS: tuple[list[int], ...] = ([64], [128], [256], [64] * 8, [256] * 8, [64] * 7 + [256])  # tokens of each prompt
EDITS = ((1, 384), (3, 384), (1, 1024))  # pictures and their sides
PIXELS = 12_845_056  # the released limit
Encode = Callable[[int], list[torch.Tensor]]  # given the number of the round


def model() -> tuple[Any, Any]:
    """The scaled-down model and the nano tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(str(files("glyphflow") / "assets/nano/tokenizer"))
    special = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("vision_start", "vision_end", "image_pad")}
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": -(-len(tokenizer) // 64) * 64,
            "hidden_size": 768,
            "intermediate_size": 4056,
            "num_hidden_layers": 8,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
            "bos_token_id": 0,
            "eos_token_id": 0,
        },
        vision_config={
            "depth": 8,
            "hidden_size": 256,
            "intermediate_size": 680,
            "num_heads": 4,
            "out_hidden_size": 768,
            "fullatt_block_indexes": [3, 7],
        },
        image_token_id=special["image_pad"],
        vision_start_token_id=special["vision_start"],
        vision_end_token_id=special["vision_end"],
    )
    torch.manual_seed(0)
    return Qwen2_5_VLForConditionalGeneration(config).eval(), tokenizer


class Processor:
    """transformers' processor, whose own class does not load without torchvision."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.images = Qwen2VLImageProcessorPil(max_pixels=PIXELS)

    def __call__(self, text: list[str], images: list[Image.Image], **_: Any) -> BatchFeature:
        inputs = self.images(images, return_tensors="pt")
        counts = iter((inputs["image_grid_thw"].prod(-1) // 4).tolist())
        pieces = [one.split(IMAGE_TOKEN) for one in text]
        long = [row[0] + "".join(IMAGE_TOKEN * next(counts) + piece for piece in row[1:]) for row in pieces]
        return BatchFeature({**self.tokenizer(long, padding=True, return_tensors="pt"), **inputs})


def reference(kind: type, network: Any, tokenizer: Any, template: str, drop: int) -> Any:
    """diffusers' pipeline with nothing but what embedding prompts needs."""
    token = network.config.image_token_id
    pipeline = kind.__new__(kind)
    pipeline.text_encoder = lambda input_ids, **more: network(
        input_ids=input_ids, **({"mm_token_type_ids": (input_ids == token).int()} if "pixel_values" in more else {}), **more
    )
    pipeline.tokenizer, pipeline.processor, pipeline.tokenizer_max_length = tokenizer, Processor(tokenizer), 1024
    pipeline.prompt_template_encode, pipeline.prompt_template_encode_start_idx = template, drop
    return pipeline


def unpadded(pair: tuple[torch.Tensor, torch.Tensor]) -> list[torch.Tensor]:
    """What the reference returns, as rows without padding."""
    return [row[keep.bool()] for row, keep in zip(*pair, strict=True)]


def prompt(tokenizer: Any, tokens: int, n: int) -> str:
    """Words of about ``tokens`` tokens, different for each ``n``."""
    words = [str(n)]
    while len(tokenizer(" ".join(words))["input_ids"]) < tokens:
        words.append(WORDS[len(words) % len(WORDS)])
    return " ".join(words)


def picture(side: int, seed: int) -> Image.Image:
    """Noise."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8))


def compare(label: str, ours: Encode, theirs: Encode, rounds: int, clock: Callable[[], float]) -> None:
    """One line of the table."""
    times: dict[str, list[float]] = {"ours": [], "theirs": []}
    results: dict[str, list[torch.Tensor]] = {}
    for turn in range(rounds + 1):
        for name, run in (("theirs", theirs), ("ours", ours)):
            start = clock()
            results[name] = run(turn)
            if turn:  # the first one warms up
                times[name].append(clock() - start)
    apart = max((a - b).abs().max().item() for a, b in zip(results["ours"], results["theirs"], strict=True))
    a, b = (statistics.median(times[name]) for name in ("theirs", "ours"))
    print(f"| {label} | {1000 * a:.0f} | {1000 * b:.0f} | {a / b:.2f} | {apart:.1e} |", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=("text", "edit"), help="one half of the table")
    parser.add_argument(
        "--cpu-time", action="store_true", help="count this process's CPU time: for a machine that is not quiet"
    )
    given = parser.parse_args()
    rounds = given.rounds
    clock = time.process_time if given.cpu_time else time.perf_counter
    transformers.logging.set_verbosity_error()
    network, tokenizer = model()
    probe = ConditionEncoder(network, tokenizer)
    text = reference(diffusers.QwenImagePipeline, network, tokenizer, T2I_TEMPLATE, probe.prefix_tokens())
    edit = reference(diffusers.QwenImageEditPlusPipeline, network, tokenizer, EDIT_TEMPLATE, probe.prefix_tokens("edit-plus"))
    where = (torch.device("cpu"), torch.float32)

    print(
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads; PyTorch {torch.__version__}, "
        f"transformers {transformers.__version__}, diffusers {diffusers.__version__}; medians of {rounds}"
        f"{', CPU time' if given.cpu_time else ''}\n"
    )
    print("| what | reference ms | ours ms | ratio | largest difference |\n| --- | --- | --- | --- | --- |")
    with torch.no_grad():
        for lengths in TEXTS if given.only != "edit" else ():
            kinds = {n: lengths.count(n) for n in lengths}
            label = " and ".join(f"{count} prompt{'s' if count > 1 else ''} of {n} tokens" for n, count in kinds.items())
            embed = ConditionEncoder(network, tokenizer).encode

            def prompts(turn: int, lengths: list[int] = lengths) -> list[str]:
                return [prompt(tokenizer, length, 8 * turn + n) for n, length in enumerate(lengths)]

            def whole(turn: int, prompts: Callable[[int], list[str]] = prompts) -> list[torch.Tensor]:
                return unpadded(text._get_qwen_prompt_embeds(prompts(turn), *where))

            compare(label, lambda turn, embed=embed, prompts=prompts: embed(prompts(turn)), whole, rounds, clock)
        for count, side in EDITS if given.only != "text" else ():
            embed = ConditionEncoder(network, tokenizer, Preprocessing(max_pixels=PIXELS)).encode

            def pictures(turn: int, count: int = count, side: int = side) -> list[Image.Image]:
                return [picture(side, 3 * turn + n) for n in range(count)]

            def shared(turn: int, embed: Any = embed, pictures: Any = pictures) -> list[torch.Tensor]:
                images = pictures(turn)  # as a pipeline does it: one call for each side
                return [embed([one], template="edit-plus", images=[images])[0] for one in PAIR]

            def twice(turn: int, pictures: Any = pictures) -> list[torch.Tensor]:
                images = pictures(turn)
                return [unpadded(edit._get_qwen_prompt_embeds([one], images, *where))[0] for one in PAIR]

            several = f"{count} pictures" if count > 1 else "1 picture"
            compare(f"positive and negative prompt with {several} of {side} x {side}", shared, twice, rounds, clock)


if __name__ == "__main__":
    main()
