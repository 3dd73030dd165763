"""Command-line pairs ``--key value`` onto a frozen configuration: known keys alone, each in its own type."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")

_BOOLS = {"true": True, "false": False}


def override(config: T, pairs: dict[str, str]) -> T:
    """``config`` with the values of ``pairs``; a key may be spelled with - for _.

    Raises:
        ValueError: an unknown key, or a value that is not of its type; names key and value.
    """
    types = get_type_hints(type(config))
    known = [field.name for field in fields(config)]  # type: ignore[arg-type]
    changes: dict[str, Any] = {}
    for key, text in pairs.items():
        name = key.replace("-", "_")
        if name not in known:
            raise ValueError(f"unknown option --{key}; there are {', '.join(known)}")
        try:
            changes[name] = _parse(text, types[name])
        except ValueError as error:
            raise ValueError(f"--{key} {text}: {error}") from error
    return replace(config, **changes)  # type: ignore[type-var]


def described(config: Any) -> Iterator[str]:
    """A line per option with its present value, spelled as ``override`` reads it."""
    for field in fields(config):
        yield f"--{field.name.replace('_', '-')} {_spelled(getattr(config, field.name))}"


def pairs_of(arguments: list[str]) -> dict[str, str]:
    """``--key value`` and ``--key=value`` as a dictionary.

    Raises:
        ValueError: something that is not such a pair, or a key given twice.
    """
    pairs: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        key, equals, value = rest.pop(0).partition("=")
        if not key.startswith("--") or len(key) < 3:
            raise ValueError(f"{key!r} is not an option --key")
        if not equals and not rest:
            raise ValueError(f"{key} has no value")
        if key[2:] in pairs:
            raise ValueError(f"{key} is given twice")
        pairs[key[2:]] = value if equals else rest.pop(0)
    return pairs


def _spelled(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_spelled, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _parse(text: str, kind: Any) -> Any:
    if get_origin(kind) in (Union, UnionType):
        (inner,) = (part for part in get_args(kind) if part is not NoneType)
        return None if text.lower() == "none" else _parse(text, inner)
    if get_origin(kind) is Literal:
        if text not in get_args(kind):
            raise ValueError(f"not one of {', '.join(get_args(kind))}")
        return text
    if get_origin(kind) is tuple:
        return _parse_tuple(text, get_args(kind))
    if kind is bool:
        if text.lower() not in _BOOLS:
            raise ValueError("neither true nor false")
        return _BOOLS[text.lower()]
    return Path(text) if kind is Path else kind(text)


def _parse_tuple(text: str, kinds: tuple[Any, ...]) -> tuple[Any, ...]:
    parts = text.split(",")
    if kinds[-1] is Ellipsis:
        kinds = (kinds[0],) * len(parts)
    if len(parts) != len(kinds):
        raise ValueError(f"{len(kinds)} values with commas between them are needed")
    return tuple(_parse(part, kind) for part, kind in zip(parts, kinds, strict=True))


def run_reporting(program: str, run: Callable[[], object]) -> int:
    """Runs a program; a wrong option or file becomes one line on stderr.  Returns the exit code."""
    try:
        run()
    except (ValueError, OSError) as error:
        sys.stderr.write(f"{program}: {' '.join(str(error).split())}\n")
        return 2
    return 0
