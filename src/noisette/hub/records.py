"""Frozen dataclasses as JSON and back, with nothing imported or executed on the way.

Each object carries the name of its class. Reading starts from the type that is expected and picks the class
among the members of its unions, so that a file can only ever make what the type allows.
"""

from __future__ import annotations

import json
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from noisette.errors import UserError

T = TypeVar("T")

# No field of ours counts beyond this: a hostile number is refused before it becomes memory.
LARGEST = 2**20

_SCALARS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", NoneType: "null"}


def to_record(value: Any) -> Any:
    """A dataclass as JSON-ready dicts, ``{"class": name, field: value, ...}``; tuples become lists."""
    if is_dataclass(value) and not isinstance(value, type):
        inner = {field.name: to_record(getattr(value, field.name)) for field in fields(value) if field.init}
        return {"class": type(value).__name__, **inner}
    if isinstance(value, tuple | list):
        return [to_record(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a {type(value).__name__} has no place in a JSON record")


def from_record(kind: type[T], data: Any, where: str) -> T:
    """The value of type ``kind`` that ``to_record`` wrote.

    ``kind`` may be a dataclass, a union of dataclasses and scalars, a tuple of those, or a Literal.
    ``where`` names the place in the file for messages. Raises UserError for anything that does not fit:
    unknown classes and fields, missing fields, wrong types, and values that the class itself refuses.
    """
    value: Any = _read(kind, data, where)
    return value


def parse_json(text: str | bytes, where: str) -> Any:
    """Strict JSON (no NaN, no infinity, no repeated key); UserError with the place of the mistake."""
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not valid JSON: {_first_line(error)}") from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key appears twice in one object")
    return found


def _read(kind: Any, data: Any, where: str) -> Any:
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return _read(_member(args, data, where), data, where)
    if not _fits(kind, data):
        raise UserError(f"{where} should be {_describe(kind)}, not {_show(data)}")
    if is_dataclass(kind):
        return _read_fields(kind, data, where)
    if origin is tuple:
        return _read_tuple(args, data, where)
    if kind is float:
        return _as_float(data, where)
    if kind is int and abs(data) > LARGEST:
        raise UserError(f"{where} is {_show(data)}, and numbers beyond {LARGEST} are refused")
    return data


def _member(members: tuple[Any, ...], data: Any, where: str) -> Any:
    for member in members:
        if _fits(member, data):
            return member
    raise UserError(f"{where} should be {' or '.join(map(_describe, members))}, not {_show(data)}")


def _fits(kind: Any, data: Any) -> bool:
    """Whether the outermost shape of ``data`` is that of ``kind``."""
    if is_dataclass(kind):
        return isinstance(data, dict) and data.get("class") == getattr(kind, "__name__", None)
    if get_origin(kind) is tuple:
        return isinstance(data, list)
    if get_origin(kind) is Literal:
        return isinstance(data, str | int) and data in get_args(kind)
    if kind is float:
        return isinstance(data, int | float) and not isinstance(data, bool)
    return kind in _SCALARS and type(data) is kind


def _read_tuple(args: tuple[Any, ...], data: list[Any], where: str) -> tuple[Any, ...]:
    kinds = [args[0]] * len(data) if args[-1:] == (Ellipsis,) else list(args)
    if len(kinds) != len(data):
        raise UserError(f"{where} should have {len(kinds)} entries, not {len(data)}")
    return tuple(
        _read(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(kinds, data, strict=True))
    )


def _read_fields(kind: Any, data: dict[str, Any], where: str) -> Any:
    hints = get_type_hints(kind)
    known = {field.name: field for field in fields(kind) if field.init}
    for name in data:
        if name not in known and name != "class":
            raise UserError(
                f"{where}.{name[:40]!s} is not a field of {kind.__name__}: was a newer noisette at work?"
            )
    for name, field in known.items():
        if name not in data and field.default is MISSING and field.default_factory is MISSING:
            raise UserError(f"{where}.{name} is missing: {kind.__name__} needs it")
    values = {name: _read(hints[name], data[name], f"{where}.{name}") for name in known if name in data}
    try:
        return kind(**values)
    # The numbers come from a stranger: whatever the class stumbles over, its words are the message.
    except Exception as error:
        raise UserError(f"{where}: {_first_line(error)}") from None


def _as_float(data: int | float, where: str) -> float:
    try:
        return float(data)
    except OverflowError:
        raise UserError(f"{where} is {_show(data)}, which is too large for a number") from None


def _describe(kind: Any) -> str:
    if is_dataclass(kind):
        return f"a {getattr(kind, '__name__', kind)}"
    if get_origin(kind) is tuple:
        return "a list"
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, get_args(kind)))
    return _SCALARS.get(kind, str(kind))


def _show(data: Any) -> str:
    if isinstance(data, dict):
        return (
            f"a {data['class'][:40]}" if isinstance(data.get("class"), str) else "an object without a class"
        )
    if isinstance(data, int) and abs(data) > 10**20:
        return "a huge number"
    text = "null" if data is None else json.dumps(data) if isinstance(data, bool | str) else repr(data)
    return text if len(text) <= 60 else text[:57] + "..."


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
