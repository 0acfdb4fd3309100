"""The command line: every verb is one module with ``register(app)``; this file joins them and turns errors into sentences.

Verb modules import their rooms inside the functions, so that ``glyphflow --help`` loads neither PyTorch nor a database.
"""

from __future__ import annotations

import errno
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import glyphflow
from glyphflow.cli import (
    align,
    control,
    corpus,
    demo,
    doctor,
    edit,
    encode,
    evaluate,
    feed,
    generate,
    init,
    inpaint,
    layers,
    plan,
    reconstruct,
    restyle,
    train,
)
from glyphflow.core.errors import GlyphFlowError, InterruptedRun, StorageError
from glyphflow.core.files import expanded, storage_errors
from glyphflow.core.text import utf8_stream

EXIT_ERROR = 1
EXIT_INTERRUPTED = 130
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
_NO_MEMORY = "There is not enough memory for this; ask for less at once: a smaller --size, --batch, or --memory streamed."
_NO_ROOM = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS)


class _Verbs(TyperGroup):
    """The verbs; a home directory that no shell has expanded (``--out=~/x``, an argument list) is expanded here."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, [_at_home(each) for each in args])


def _at_home(argument: str) -> str:
    option, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    return f"{option}{equals}{expanded(value)}" if value == "~" or value.startswith(("~/", "~\\")) else argument


app = typer.Typer(
    name="glyphflow",
    cls=_Verbs,
    help="Image models that write: the whole Qwen-Image system in the open. Start with: glyphflow demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"glyphflow {glyphflow.__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


_MAKING = (generate, edit, restyle, inpaint, control, layers, reconstruct)
for _verb in (demo, *_MAKING, corpus, init, encode, feed, align, train, evaluate, plan, doctor):
    _verb.register(app)


def main() -> None:
    """Run the command line of this process.

    A :class:`GlyphFlowError`, or the disk's refusal to take a file, is one sentence on standard error and exit code 1; Ctrl-C
    is one sentence and 130. Any other exception is a bug of ours and keeps its traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            utf8_stream(stream)
    with warnings.catch_warnings():
        warnings.showwarning = _say  # one sentence, without the line of ours that it came from
        _run()


def _run() -> None:
    try:
        app()
    except InterruptedRun as error:
        _leave(str(error), EXIT_INTERRUPTED)
    except KeyboardInterrupt:
        _leave("", EXIT_INTERRUPTED)
    except GlyphFlowError as error:
        _leave(str(error), EXIT_ERROR)
    except OSError as error:
        if error.errno not in _NO_ROOM and error.filename is None:
            raise
        _leave(_storage_sentence(error) if error.errno in _NO_ROOM else _path_sentence(error), EXIT_ERROR)
    except MemoryError:
        _leave(_NO_MEMORY, EXIT_ERROR)
    except RuntimeError as error:  # PyTorch's refusals of memory, which is not imported for their sake
        if not any(words in str(error) for words in _OUT_OF_MEMORY):
            raise
        _leave(_NO_MEMORY, EXIT_ERROR)
    except SystemExit as stop:  # typer turns Ctrl-C into this exit
        if stop.code != EXIT_INTERRUPTED:
            raise
        _leave("", EXIT_INTERRUPTED)


def _say(message: Warning | str, *_: object, **__: object) -> None:
    print(f"Warning: {' '.join(str(message).split())}", file=sys.stderr, flush=True)


def _leave(sentence: str, code: int) -> None:
    print(sentence or "Stopped; what was finished is kept, and the same command continues.", file=sys.stderr, flush=True)
    raise SystemExit(code)


def _storage_sentence(error: OSError) -> str:
    """The sentence for a disk's refusal met outside core.files, for example by a library that writes its own file."""
    try:
        with storage_errors(Path(os.fsdecode(error.filename or Path.cwd()))):
            raise error
    except StorageError as sentence:
        return str(sentence)


def _path_sentence(error: OSError) -> str:
    name = error.filename
    return f"{os.fsdecode(name) if isinstance(name, str | bytes) else name}: {error.strerror or error}; check the path."
