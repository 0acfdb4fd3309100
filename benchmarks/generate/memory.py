"""The plan of a streamed run against the run: bytes in each phase, bytes copied, and the picture.

    python -m benchmarks.generate.memory                       # a random model of 434 M parameters, counted on the CPU
    python -m benchmarks.generate.memory --device cuda         # the same on a card, by torch.cuda.max_memory_allocated
    python -m benchmarks.generate.memory --device cuda --released --size 1328x1328 --budgets 24GB,48GB

On the CPU the "device" is simulated: lent weights are real copies, and every tensor that is alive is counted. Prompts are
random embeddings, so the condition encoder is a stub.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from typing import Any

import torch

from glyphflow.core.hardware import gigabytes, parse_bytes
from glyphflow.flow import ScheduleConfig
from glyphflow.generate import Pipeline, Speed
from glyphflow.generate.activations import LiveBytes
from glyphflow.generate.sizes import EncoderConfig, ModelConfig
from glyphflow.models import QWEN_IMAGE_MMDIT, VAE, MMDiT, MMDiTConfig
from glyphflow.plan import GenerationPlan, Request, plan_generation

MIDDLE = MMDiTConfig(num_layers=8, attention_head_dim=128, num_attention_heads=8, joint_attention_dim=1024)
STUB = EncoderConfig(64, 64, 1, 1, 1, 64, vision_depth=0)


class Counter:
    """The most bytes on the device since the last :meth:`restart`."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self.live = LiveBytes()
        self.before = torch.cuda.memory_allocated() if self.cuda else 0

    def __enter__(self) -> Counter:
        if not self.cuda:
            self.live.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if not self.cuda:
            self.live.__exit__(*error)

    def restart(self) -> None:
        """Forget the highest point so far."""
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        self.live.peak = self.live.now

    @property
    def peak(self) -> int:
        """The highest point."""
        return torch.cuda.max_memory_allocated() - self.before if self.cuda else self.live.peak


def watch(method: Callable[..., Any], after: Callable[[], None]) -> Callable[..., Any]:
    """``method``, with a call of ``after`` behind each call."""

    def run(*args: Any, **kwargs: Any) -> Any:
        result = method(*args, **kwargs)
        after()
        return result

    return run


def run(pipeline: Pipeline, request: Request, counter: Counter) -> tuple[torch.Tensor, dict[str, int], float]:
    """The picture, the highest point of each phase, and seconds a step."""
    peaks: dict[str, int] = {}
    times: list[float] = []
    draw = torch.Generator().manual_seed(1)
    width = pipeline.transformer.config.joint_attention_dim
    embeds = {
        name: torch.randn(request.batch, length, width, generator=draw).to(pipeline.device, pipeline.dtype)
        for name, length in (("prompt_embeds", request.text_tokens), ("negative_prompt_embeds", 5))
    }
    with counter:
        pipeline.residency.use = watch(pipeline.residency.use, counter.restart)  # type: ignore[method-assign]
        for phase, name in (("denoise", "sample"), ("decode", "decode")):
            note = lambda phase=phase: peaks.__setitem__(phase, counter.peak)  # noqa: E731
            setattr(pipeline, name, watch(getattr(pipeline, name), note))
        image = pipeline.generate(
            **embeds,
            width=request.width,
            height=request.height,
            num_inference_steps=request.steps,
            generator=torch.Generator().manual_seed(2),
            output_type="pt",
            progress=False,
            callback_on_step_end=lambda *_: times.append(time.perf_counter()),
        ).images
    return image.cpu(), peaks, (times[-1] - times[0]) / max(len(times) - 1, 1)


def random_model(config: ModelConfig, dtype: torch.dtype) -> tuple[MMDiT, VAE]:
    """Networks with random weights in the machine's memory."""
    torch.manual_seed(0)
    with torch.device("meta"):
        networks = MMDiT(config.transformer).to(dtype), VAE(config.vae).to(dtype)
    for network in networks:
        network.to_empty(device="cpu").eval().requires_grad_(False)
        for parameter in network.parameters():
            parameter.normal_(0, 0.02) if parameter.ndim > 1 else parameter.fill_(0.1)
    return networks


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--released", action="store_true", help="the released sizes in bfloat16 (60 GB of memory)")
    parser.add_argument("--size", default="256x256")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--budgets", help="such as 24GB,48GB; the least that all phases need, and a block more, if absent")
    options = parser.parse_args()
    device = torch.device(options.device)
    config = ModelConfig(QWEN_IMAGE_MMDIT if options.released else MIDDLE, encoder=STUB)
    dtype = torch.bfloat16 if options.released else torch.float32
    width, height = map(int, options.size.split("x"))
    request = Request(width, height, steps=options.steps, text_tokens=96)
    transformer, vae = random_model(config, dtype)
    schedule = ScheduleConfig(use_dynamic_shifting=False)
    blocks = config.part_sizes(dtype)["transformer"].blocks
    least = plan_generation(config, request, 0, dtype).peak.placement.peak
    some = [least, least + blocks[0]]
    budgets: list[int] = [0, *(some if options.budgets is None else map(parse_bytes, options.budgets.split(",")))]

    parameters = sum(p.numel() for network in (transformer, vae) for p in network.parameters())
    print(
        f"{platform.machine()}, {device}, PyTorch {torch.__version__}, {parameters / 1e6:.0f} M parameters, {dtype}, ", end=""
    )
    print(f"{options.size}, {options.steps} steps, guided\n")
    print("| memory | phase | planned | counted | difference | copied a step, planned | counted | s a step | same picture |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    expected = None
    for budget in budgets:
        plan = plan_generation(config, request, budget, dtype)
        pipeline = Pipeline(transformer, vae, None, schedule, device=device, budget=budget, speed=Speed())
        image, peaks, seconds = run(pipeline, request, Counter(device))
        expected = image if expected is None else expected
        report(plan, peaks, pipeline.residency.copied // options.steps, seconds, torch.equal(image, expected))
        pipeline.residency.recall()
    if not options.released or device.type == "cuda":
        whole = Pipeline(transformer.to(device), vae.to(device), None, schedule, speed=Speed())
        image, _, seconds = run(whole, request, Counter(device))
        print(f"| resident | | | | | | | {seconds:.2f} | {'yes' if torch.equal(image, expected) else 'NO'} |")


def report(plan: GenerationPlan, peaks: dict[str, int], copied: int, seconds: float, same: bool) -> None:
    """One line a phase."""
    for name, peak in peaks.items():
        planned = plan.phase(name).placement.peak
        memory = gigabytes(plan.budget) if plan.budget else "streamed"
        steps = f"{gigabytes(plan.per_step)} | {gigabytes(copied)} | {seconds:.2f}" if name == "denoise" else " | |"
        print(
            f"| {memory} | {name} | {gigabytes(planned)} | {gigabytes(peak)} | {100 * (planned / peak - 1):+.1f} % | {steps} | "
            f"{'yes' if same else 'NO'} |"
        )


if __name__ == "__main__":
    main()
