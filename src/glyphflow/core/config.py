"""Strict configuration: YAML into typed, frozen objects; a misspelt key is an error that names the nearest known one."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml

from glyphflow.core.errors import ConfigError, InputError
from glyphflow.core.files import expanded, write_text
from glyphflow.core.text import read_text


class Config(pydantic.BaseModel):
    """Base of every recipe object: frozen, unknown keys forbidden, types checked."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    @pydantic.field_validator("*", mode="after")
    @classmethod
    def _expanded(cls, value: Any) -> Any:
        """Paths with ``~`` and environment variables replaced."""
        if isinstance(value, Path):
            try:
                return expanded(value)
            except InputError as error:  # which pydantic would not gather
                raise ValueError(str(error).rstrip(".")) from error
        if isinstance(value, tuple) and any(isinstance(one, Path) for one in value):
            return tuple(cls._expanded(one) for one in value)
        return value


C = TypeVar("C", bound=Config)


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """YAML 1.1 reads ``1e-4`` as text; recipes mean a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    __import__("re").compile(r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$"),
    list("-+0123456789"),
)


def parse_yaml(text: str, origin: str) -> Any:
    """Parse YAML text; ``origin`` names it in the error."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin} is not valid YAML: {' '.join(str(error).split())}.") from error


def load_config(cls: type[C], source: Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> C:
    """Read ``source`` (a YAML file or a mapping) into ``cls``.

    ``overrides`` are ``dotted.key=value`` strings whose values are YAML (``train.lr=1e-4``). Unknown keys, wrong types and
    unreadable files raise :class:`ConfigError` with the key, the nearest known key, or the value that was refused.
    """
    if isinstance(source, Mapping):
        name, data = cls.__name__, dict(source)
    else:
        name = str(source)
        try:
            text = read_text(Path(source))
        except InputError as error:
            raise ConfigError(f"Cannot read the recipe: {error}") from error
        data = parse_yaml(text, name) or {}
        if not isinstance(data, dict):
            raise ConfigError(f"{name} must hold key: value pairs at the top, not a {type(data).__name__}.")
    data = with_overrides(data, overrides)
    try:
        return cls.model_validate(data)
    except pydantic.ValidationError as error:
        raise ConfigError(_sentence(cls, name, error)) from error


def to_dict(config: Config) -> dict[str, Any]:
    """The plain, JSON-able content of ``config``."""
    return config.model_dump(mode="json")


def dump_config(config: Config, path: Path) -> None:
    """Save the resolved ``config`` as YAML beside an output, atomically."""
    write_text(path, yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True))


def with_overrides(data: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """``data`` with ``dotted.key=value`` strings applied, whose values are YAML; a malformed one is a :class:`ConfigError`.

    An entry of a list is reached by its ``name`` or its number: ``stages.F5.rules.0.min=3``.
    """
    changed = dict(data)
    for override in overrides:
        changed = _override(changed, override)
    return changed


def _override(data: dict[str, Any], override: str) -> dict[str, Any]:
    key, separator, value = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"The override {override!r} is not of the form key=value, for example train.lr=1e-4.")
    parsed = parse_yaml(value, f"the value of {key}")
    root = dict(data)
    level: Any = root
    *parents, last = key.split(".")
    for parent in parents:
        place = _place(level, parent, override)
        below = level[place] if isinstance(level, list) else level.get(parent) or {}
        if not isinstance(below, dict | list):
            raise ConfigError(f"The override {override!r} goes into {parent!r}, which holds {below!r} and no keys.")
        level[place] = below.copy()
        level = level[place]
    level[_place(level, last, override)] = parsed
    return root


def _place(level: dict[str, Any] | list[Any], part: str, override: str) -> Any:
    """The key ``part``; in a list the number of the entry that is called so, or that stands at that number."""
    if isinstance(level, dict):
        return part
    names = [str(entry["name"]) if isinstance(entry, dict) and "name" in entry else str(at) for at, entry in enumerate(level)]
    if part in names or (part.isdecimal() and int(part) < len(level)):
        return names.index(part) if part in names else int(part)
    raise ConfigError(f"The override {override!r} names {part!r} in a list that has only {', '.join(names) or 'no entries'}.")


def _sentence(cls: type[Config], name: str, error: pydantic.ValidationError) -> str:
    # A misspelt key is also a missing one; the misspelling is the news.
    first = min(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    path = ".".join(str(part) for part in first["loc"])
    more = f" ({len(error.errors()) - 1} more)" if len(error.errors()) > 1 else ""
    if first["type"] == "extra_forbidden":
        known = _known_keys(cls)
        key = str(first["loc"][-1])
        near = difflib.get_close_matches(path, known, 1, 0.5) or difflib.get_close_matches(
            key, [k.rsplit(".", 1)[-1] for k in known], 1, 0.5
        )
        hint = f"; did you mean {near[0]!r}?" if near else f"; known keys are {', '.join(sorted(known)[:12])}."
        return f"{name}: unknown key {path!r}{hint}{more}"
    if first["type"] == "missing":
        return f"{name}: the key {path!r} is missing; add it.{more}"
    return f"{name}: {path} = {first.get('input')!r} is refused: {first['msg']}.{more}"


def _known_keys(cls: type[pydantic.BaseModel], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, field in cls.model_fields.items():
        keys.append(prefix + name)
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, pydantic.BaseModel):
            keys += _known_keys(kind, f"{prefix}{name}.")
    return keys
