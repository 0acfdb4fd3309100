"""Atomic files: whoever reads a path sees the old content or the new, never a half."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
import stat
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from glyphflow.core.errors import GlyphFlowError, InputError, InUseError, StorageError
from glyphflow.core.text import TextError, read_text, whole_characters

_DISK = {
    errno.ENOSPC: "the disk is full",
    errno.EFBIG: "the file would be larger than this process may write",
    errno.EDQUOT: "the disk quota is used up",
    errno.EACCES: "permission is denied",
    errno.EROFS: "the file system is read-only",
    errno.ENAMETOOLONG: "its name is too long for the file system",
    errno.EISDIR: "a directory is in its place",
    errno.ENOTDIR: "a file is in the place of one of its directories",
    errno.ELOOP: "its symbolic links go in a circle",
}
_HINTS = {errno.ENAMETOOLONG: "choose a shorter name"}
_NAME_KEPT = 24  # characters of a file's name in that of its temporary sibling, so that this is shorter than a name may be

_VARIABLE = re.compile(r"\$(?:\{[A-Za-z_]\w*\}|[A-Za-z_]\w*)")
_TOLD = re.compile(r"(?:os error|errno)[ :]*(\d+)", re.IGNORECASE)  # safetensors: "(os error 28)", Arrow: "[errno 28]"


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write ``path`` into one sentence (:class:`StorageError`)."""
    try:
        yield
    except GlyphFlowError:
        raise
    except Exception as error:
        number = _error_number(error)
        reason = _DISK.get(number)
        if reason is None:
            raise
        hint = _HINTS.get(number, "free some room or choose another place")
        raise StorageError(
            f"Could not write {path}: {reason}; {hint}, then run the same command again (finished work is kept)."
        ) from error


def _error_number(error: BaseException | None) -> int:
    """The operating system's number behind ``error``.

    Libraries with writers of their own say it in their text only, or die of something else while they close the file that they
    could not write: the first error is then in the context of the one that arrives here.
    """
    while error is not None:
        told = _TOLD.search(str(error))
        number = getattr(error, "errno", None) or (int(told[1]) if told else 0)
        if number in _DISK:
            return number
        error = error.__cause__ or error.__context__
    return 0


def expanded(path: Path | str) -> Path:
    """``path`` with a leading ``~`` and environment variables (``$DATA/x``) replaced, as a shell would do it.

    A shell does not behind ``key=``, and files are read by none. A file whose name holds such signs is taken as it is. Raises
    :class:`InputError` for a user or a variable that there is not.
    """
    text = str(path)
    if not text.startswith("~") and "$" not in text:
        return Path(path)
    with contextlib.suppress(OSError, ValueError):
        if not text.startswith("~/") and os.path.lexists(text):
            return Path(path)
    text = os.path.expandvars(text)
    if unset := _VARIABLE.search(text):
        raise InputError(
            f"{path} names the environment variable {unset[0]}, which is not set; set it, or write the whole path."
        )
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise InputError(f"{path} begins with a home directory that there is not; write the whole path.") from error


def require_new(path: Path) -> None:
    """Raise :class:`StorageError` where ``path`` exists: a directory that is written whole is never mixed with another."""
    if path.exists():
        raise StorageError(f"{path} exists already; choose another directory or remove it first.")


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of ``path``; on success it becomes ``path`` (rename), on failure it is removed.

    The body may create a file or a directory there. Refusals of the disk become :class:`StorageError`.
    """
    path = Path(path)
    temporary = _sibling(path)
    try:
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            give_usual_modes(temporary)
            if temporary.is_dir() and path.is_dir():
                shutil.rmtree(path)
            temporary.replace(path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def _sibling(path: Path) -> Path:
    return path.with_name(f".{path.name[:_NAME_KEPT]}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


def require_writable(path: Path) -> None:
    """Raise :class:`StorageError` where ``path`` could not be written: work that ends in it is not begun.

    A file is made and removed in the directory, or in the nearest one above that exists; nothing else is touched.
    """
    path = Path(path)
    try:
        path.lstat()  # says of a name, or a directory's in it, that it is too long
    except FileNotFoundError:
        pass
    except NotADirectoryError:
        pass  # told below, with the file that is in the way
    except (OSError, ValueError) as error:
        why = _DISK.get(getattr(error, "errno", None) or 0) or getattr(error, "strerror", None) or str(error)
        raise StorageError(f"{path} cannot be written: {why}; choose another place.") from error
    there = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    if not there.is_dir():
        raise StorageError(f"{path} cannot be written: {there} is a file and no directory; choose another place.")
    probe = _sibling(there / path.name)
    try:
        os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        probe.unlink()
    except PermissionError as error:
        raise StorageError(f"{path} cannot be written: {there} may not be written to; choose another place.") from error
    except OSError as error:
        why = _DISK.get(error.errno or 0) or error.strerror
        raise StorageError(f"{path} cannot be written: {why}; choose another place.") from error


def give_usual_modes(made: Path) -> None:
    """Give ``made``, or the files below it, the mode that any new file gets here.

    safetensors and temporary files are made for their owner alone; a corpus or an adapter is shared with a group.
    """
    private = [file for file in (made.rglob("*") if made.is_dir() else [made]) if _is_private(file)]
    if not private or os.name == "nt":
        return
    probe = made.with_name(f".{os.getpid()}-{secrets.token_hex(4)}.mode")
    try:
        os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))  # the umask can only be read by changing it
        mode = stat.S_IMODE(probe.stat().st_mode)
    finally:
        probe.unlink(missing_ok=True)
    for file in private:
        file.chmod(mode)


def _is_private(file: Path) -> bool:
    kind = file.lstat().st_mode
    return stat.S_ISREG(kind) and stat.S_IMODE(kind) == 0o600


def kind_of(path: str | Path) -> Literal["file", "directory"] | None:
    """What lies at ``path``; None for nothing, and for what may not be looked at or can be no name at all."""
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError):
        return None
    return "directory" if stat.S_ISDIR(mode) else "file"


def existing(path: Path) -> Path:
    """``path``, or the file beside it whose name differs only in how its accents are coded, as other systems store them."""
    if os.path.lexists(path) or path.name.isascii() or kind_of(path.parent) != "directory":
        return path
    wanted = unicodedata.normalize("NFC", path.name)
    return next((each for each in path.parent.iterdir() if unicodedata.normalize("NFC", each.name) == wanted), path)


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` atomically, creating parent directories."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8 to ``path`` atomically."""
    write_bytes(path, whole_characters(text).encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON (UTF-8, keys in given order) to ``path`` atomically."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON from ``path`` (:func:`read_text`); a missing or broken file is an :class:`InputError` that names it."""
    try:
        return json.loads(read_text(Path(path)))
    except (TextError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON ({error}); restore the file or make it again.") from error


def read_json_object(path: Path) -> dict[str, Any]:
    """Read JSON from ``path`` as :func:`read_json`, where names with values are expected; anything else is an InputError."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(
            f"{path} holds a {type(content).__name__} and no names with values; restore the file or make it again."
        )
    return content


@contextlib.contextmanager
def exclusive(directory: Path, purpose: str, others: bool = False) -> Iterator[None]:
    """Let one process at a time do ``purpose`` in ``directory``; a second one gets a :class:`StorageError` with the pid.

    With ``others``, any number of processes that say so may be there together, and only those that do not are kept out (and
    keep them out). The lock is the operating system's own (released when the process dies, however it dies).
    """
    directory = Path(directory)
    with storage_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
        file = (directory / ".lock").open("a+")
    with file:
        if not _try_lock(file.fileno(), others):
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise InUseError(
                f"Cannot start {purpose} in {directory}: process {holder} is already at work there; wait for it or choose "
                "another directory."
            )
        file.seek(0)
        file.truncate()
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def _try_lock(descriptor: int, others: bool) -> bool:
    if os.name == "nt":  # pragma: no cover - exercised on Windows only, where a lock is always for one
        import msvcrt

        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if others else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
