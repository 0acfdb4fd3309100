"""``glyphflow evaluate``: make a benchmark's pictures, score any folder of pictures, compare two, show what was seen."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glyphflow.core.errors import ConfigError, InputError
from glyphflow.core.files import read_json_object
from glyphflow.core.numbers import checked

if TYPE_CHECKING:
    from glyphflow.evaluate.benchmark import Benchmark
    from glyphflow.evaluate.sample import Maker

DATA = "Folder of a benchmark whose data may not be shipped (docs/evaluation.md shows the layouts)."
LIMIT = "Only so many samples, spread over the benchmark: a quick look, whose numbers stand for themselves."


def register(app: typer.Typer) -> None:
    """Add the verbs to ``app``."""
    group = typer.Typer(no_args_is_help=True, help="Benchmarks: make the pictures, score them, compare, show what was seen.")
    app.add_typer(group, name="evaluate")
    _register_sample(group)
    _register_score(group)

    @group.command("list")
    def list_command() -> None:
        """Every benchmark, and whether it needs data that you bring."""
        from glyphflow.evaluate.benchmarks import names

        for name, brought in names().items():
            typer.echo(f"{name:18}{'needs --data' if brought else 'ships with its prompts'}")

    @group.command("prompts")
    def prompts_command(
        bench: Annotated[str, typer.Argument(help="Benchmark (see `evaluate list`) or a .jsonl file of prompts.")],
        data: Annotated[Path | None, typer.Option(help=DATA)] = None,
        limit: Annotated[int | None, typer.Option(min=1, help=LIMIT)] = None,
    ) -> None:
        """Print what pictures a benchmark asks for, one JSON object a line, for whoever makes them by other means."""
        from glyphflow.evaluate import load_benchmark
        from glyphflow.evaluate.benchmark import picture_name

        benchmark = load_benchmark(bench, data, limit)
        for entry in benchmark.samples():
            row = {
                "id": entry.id,
                "prompt": entry.prompt,
                "pictures": [picture_name(entry.id, repeat, benchmark.repeats) for repeat in range(benchmark.repeats)],
                "seeds": [entry.seed(repeat) for repeat in range(benchmark.repeats)],
                **({"references": [str(path) for path in entry.references]} if entry.references else {}),
            }
            typer.echo(json.dumps(row, ensure_ascii=False))

    @group.command("report")
    def report_command(
        folder: Annotated[Path, typer.Argument(help="Folder that was scored.")],
        out: Annotated[Path, typer.Option("-o", "--out", help="HTML file to write.")] = Path("page.html"),
    ) -> None:
        """Write one self-contained page: the numbers, the worst and best pictures, and what the judge saw."""
        from glyphflow.core.files import write_text
        from glyphflow.evaluate.report import page

        _require_new_place(out, folder)
        write_text(out, page(folder))
        typer.echo(f"Wrote {out}")

    @group.command("compare")
    def compare_command(
        a: Annotated[Path, typer.Argument(help="Folder that was scored.")],
        b: Annotated[Path, typer.Argument(help="Folder scored on the same benchmark by the same judges.")],
        data: Annotated[Path | None, typer.Option(help=DATA)] = None,
        resamples: Annotated[int, typer.Option(min=100, max=1_000_000, help="Rounds of the bootstrap.")] = 1000,
        out: Annotated[Path | None, typer.Option("-o", "--out", help="JSON file to write as well.")] = None,
    ) -> None:
        """How much better B is than A, with 95 % intervals of the difference over the same prompts."""
        from glyphflow.core.files import write_json
        from glyphflow.evaluate.compare import compare, table
        from glyphflow.evaluate.sample import benchmark_of

        for folder in (a, b):
            _require_new_place(out, folder)
        result = compare(a, b, benchmark_of(a, data), resamples)
        typer.echo(table(result))
        if out is not None:
            write_json(out, result)


def _register_sample(group: typer.Typer) -> None:
    @group.command("sample")
    def sample_command(
        bench: Annotated[str, typer.Argument(help="Benchmark (see `evaluate list`) or a .jsonl file of prompts.")],
        out: Annotated[Path, typer.Option(help="Folder for the pictures; the same command continues in it.")],
        model: Annotated[
            str, typer.Option(help="Model directory, hub name, nano for the shipped weights, or the endpoint's name for it.")
        ] = "nano",
        endpoint: Annotated[
            str | None, typer.Option(help="Base address of an OpenAI-compatible image endpoint, such as http://host:8000/v1.")
        ] = None,
        key_env: Annotated[str, typer.Option(help="Environment variable with the endpoint's key.")] = "OPENAI_API_KEY",
        data: Annotated[Path | None, typer.Option(help=DATA)] = None,
        limit: Annotated[int | None, typer.Option(min=1, help=LIMIT)] = None,
        steps: Annotated[
            int | None, typer.Option(min=1, max=10_000, help="Denoising steps (default: the model's own).")
        ] = None,
        cfg: Annotated[
            float | None, typer.Option(help="True guidance scale (default: the model's own); 1 turns it off.")
        ] = None,
        size: Annotated[
            str | None, typer.Option(help="WIDTHxHEIGHT in pixels, or one side (default: the model's own).")
        ] = None,
        rewritten: Annotated[
            Path | None, typer.Option(help="JSON file with other prompts by sample id; recorded, because it moves scores.")
        ] = None,
        option: Annotated[
            list[str] | None, typer.Option(help="Further field of the endpoint's requests, as name=value.")
        ] = None,
        seeds: Annotated[bool, typer.Option(help="Send the samples' seeds to the endpoint.")] = False,
        device: Annotated[str | None, typer.Option(help="cpu or cuda (default: the best here).")] = None,
    ) -> None:
        """Make the pictures of a benchmark, one PNG each."""
        from glyphflow.evaluate import load_benchmark
        from glyphflow.evaluate.sample import not_made, sample

        benchmark, (width, height) = load_benchmark(bench, data, limit), parse_size(size)  # mistakes show before a model loads
        prompts = None if rewritten is None else _prompts(rewritten)
        check_numbers(cfg=cfg)
        maker: Maker
        if endpoint is None:
            if option or seeds:
                raise ConfigError("--option and --seeds speak to an endpoint; name it with --endpoint, or leave them out.")
            from glyphflow.evaluate.makers import PipelineMaker
            from glyphflow.generate import Pipeline

            pipeline = Pipeline.from_pretrained(model, device=device)
            maker = PipelineMaker(pipeline, model, num_inference_steps=steps, true_cfg_scale=cfg, width=width, height=height)
        else:
            from glyphflow.cli.judges import server
            from glyphflow.evaluate.makers import EndpointMaker

            wanted = None if width is None else f"{width}x{height}"
            maker = EndpointMaker(
                server(endpoint, key_env, 600), model, size=wanted, options=parse_options(option or []), send_seed=seeds
            )
        source = Path(bench) if _is_file_of_prompts(benchmark, bench) else None
        sample(maker, benchmark, out, source=source, rewritten=prompts)
        failures = not_made(out)
        total = len(benchmark.samples()) * benchmark.repeats
        told = f" ({failures} could not be made, see {out / 'failures.jsonl'})" if failures else ""
        brought = f" --data {data}" if data is not None else ""
        typer.echo(f"{total - failures} pictures of {benchmark.name} are in {out}{told}")
        typer.echo(f"next: glyphflow evaluate score {out}{brought}")


def _register_score(group: typer.Typer) -> None:
    @group.command("score")
    def score_command(
        folder: Annotated[Path, typer.Argument(help="Folder of pictures with a manifest.json.")],
        data: Annotated[Path | None, typer.Option(help=DATA)] = None,
        ceiling: Annotated[bool, typer.Option(help="Also judge perfect pictures: the same texts typeset.")] = True,
        strict: Annotated[bool, typer.Option(help="Fail when any question has no answer.")] = False,
        again: Annotated[bool, typer.Option(help="Ask again where the judge refused or could not be understood.")] = False,
        threads: Annotated[
            int | None, typer.Option(min=1, max=1024, help="Threads of the OCR judge (default: every core).")
        ] = None,
        judge_url: Annotated[str | None, typer.Option(help="Base address of an OpenAI-compatible vision endpoint.")] = None,
        judge_model: Annotated[str | None, typer.Option(help="Name of the model there.")] = None,
        judge_key_env: Annotated[str, typer.Option(help="Environment variable with its key.")] = "OPENAI_API_KEY",
        replies: Annotated[
            Path | None, typer.Option(help="Recorded replies (a verdicts.jsonl) instead of an endpoint.")
        ] = None,
        read_by_model: Annotated[bool, typer.Option(help="Let that model read texts instead of the packaged OCR.")] = False,
        temperature: Annotated[float, typer.Option(min=0.0, help="Temperature of that model.")] = 0.0,
        repeats: Annotated[int, typer.Option(min=1, max=100, help="How often each question is put to it.")] = 1,
        quorum: Annotated[int | None, typer.Option(min=1, max=100, help="Answers needed of those (default: most).")] = None,
        detector: Annotated[Path | None, typer.Option(help="Directory of a COCO detector (transformers).")] = None,
        clip: Annotated[Path | None, typer.Option(help="Directory of a CLIP model (transformers).")] = None,
        lpips: Annotated[
            tuple[Path, Path] | None, typer.Option(help="Files of LPIPS: AlexNet's trunk and the linear heads.")
        ] = None,
        device: Annotated[str | None, typer.Option(help="cpu or cuda for detector and CLIP (default: the best here).")] = None,
    ) -> None:
        """Let judges look at the pictures, and print what it adds up to."""
        from glyphflow.cli.judges import JudgeOptions, judges, missing, typesetter
        from glyphflow.evaluate import score
        from glyphflow.evaluate.folder import tally
        from glyphflow.evaluate.report import table
        from glyphflow.evaluate.sample import benchmark_of

        check_numbers(temperature=temperature)
        benchmark = benchmark_of(folder, data)
        options = JudgeOptions(
            threads=threads,
            url=judge_url,
            model=judge_model,
            key_env=judge_key_env,
            replies=replies,
            read_by_model=read_by_model,
            temperature=temperature,
            repeats=repeats,
            quorum=quorum,
            detector=detector,
            clip=clip,
            lpips=lpips,
            device=device,
        )
        found = judges(options, benchmark.kinds)
        for sentence in missing(benchmark.kinds, found):
            typer.echo(f"not judged: {sentence}", err=True)
        typeset = typesetter(benchmark) if ceiling else None
        result = score(folder, benchmark, found, typeset, strict=strict, again=again)
        typer.echo(table(result))
        found = result["pictures"]
        typer.echo(f"{tally(found['taken'], found['missing'], found['left_out'])}. Everything is in {folder / 'scores.json'}")


def check_numbers(**options: float | None) -> None:
    """Refuse what a number on the command line may be and no option can: nan, inf."""
    for name, value in options.items():
        if value is not None:
            checked(value, f"--{name}")


def _require_new_place(out: Path | None, folder: Path) -> None:
    """Refuse to write a result over what it is made from."""
    from glyphflow.evaluate.folder import SUFFIXES

    kept = ("manifest.json", "scores.json", "verdicts.jsonl", "prompts.jsonl", "failures.jsonl")
    if out is None or out.resolve().parent not in (folder.resolve(), (folder / "ceiling").resolve()):
        return
    if out.name in kept or (out.suffix.lower() in SUFFIXES and out.exists()):
        raise InputError(f"--out {out} is a file of the scored folder itself, which would be lost; choose another name.")


def _prompts(path: Path) -> dict[str, str]:
    """Other prompts by sample id."""
    found = read_json_object(path)
    for name, prompt in found.items():
        if not isinstance(prompt, str):
            raise InputError(f"{path} gives {name!r} the prompt {prompt!r}; every value must be a text.")
    return found


def parse_size(size: str | None) -> tuple[int | None, int | None]:
    """Width and height of "192x128" or "128"; nothing of nothing."""
    if size is None:
        return None, None
    match = re.fullmatch(r"([0-9]{1,6})(?:[xX×*]([0-9]{1,6}))?", size.strip())
    if match is None or 0 in (int(match[1]), int(match[2] or match[1])):
        raise InputError(f"--size {size} is not a size; give WIDTHxHEIGHT such as 192x128, or one side such as 128.")
    return int(match[1]), int(match[2] or match[1])


def parse_options(options: list[str]) -> dict[str, object]:
    """Fields from "name=value"; a value that is JSON (a number, true) is taken as such."""
    found: dict[str, object] = {}
    for entry in options:
        name, equals, value = entry.partition("=")
        if not name.strip() or not equals:
            raise InputError(f"--option {entry} is not a field; give name=value, such as quality=high.")
        try:
            found[name] = json.loads(value)
        except (ValueError, RecursionError):
            found[name] = value
    return found


def _is_file_of_prompts(benchmark: Benchmark, bench: str) -> bool:
    from glyphflow.evaluate.benchmarks import names

    return benchmark.name not in names() and Path(bench).is_file()
