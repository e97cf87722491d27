"""
From the values of a TOML file to the frozen classes of the schema: types, checks, and what is missing or not known.

Problems are added to a L{Reader}; nothing is raised.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any, TypeVar

import attrs

from qmailpy.config.checks import CHECKS
from qmailpy.config.forms import plain_number, plain_text
from qmailpy.config.locate import Path
from qmailpy.config.problems import Reader, nearest

T = TypeVar("T")


def is_array(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(element, dict) for element in value)


def array(reader: Reader, shape: type[T], key: str, found: object) -> list[T]:
    """The elements of an array of tables that are without problems of their own."""
    if not isinstance(found, list) or not all(isinstance(element, dict) for element in found):
        reader.add((key,), "", f"is no array of tables; right would be [[{key}]]")
        return []
    given = {"line"} & {field.name for field in attrs.fields(typing.cast(Any, shape))}
    made = (
        table(reader, shape, (key, number), element, **{name: reader.line((key, number)) for name in given})
        for number, element in enumerate(found)
    )
    return [element for element in made if element is not None]


def table(reader: Reader, shape: type[T], path: Path, found: object, **given: Any) -> Any:
    """
    One table.

    @param shape: the attrs class of the schema.
    @param given: fields that are not keys of the table.
    @return: an instance of C{shape}, or C{None} when there were problems.
    """
    if not isinstance(found, dict):
        reader.add(path, "", f"is no table; right would be [{'.'.join(map(str, path))}]")
        return None
    before = len(reader.problems)
    hints = typing.get_type_hints(shape, include_extras=True)
    fields = {field.name: field for field in attrs.fields(typing.cast(Any, shape)) if field.name not in given}
    said_name = found.get("name") if "name" in fields else None
    called = said_name if isinstance(said_name, str) else ""
    values = dict(given)
    for key, raw in found.items():
        if key not in fields:
            reader.add(path, key, f"is not known{nearest(key, fields)}", called)
            continue
        value, said = _value(hints[key], raw)
        said = said or CHECKS.get(shape, {}).get(key, _plain)(value)
        if said:
            reader.add(path, key, said, called)
        values[key] = value
    for key, field in fields.items():
        if field.default is attrs.NOTHING and key not in found and (found or path != ("server",)):
            reader.add(path, key, f"is missing; right would be a line {key} = ...", called)
    if not found and path == ("server",):
        return None  # told already: the table itself is missing
    return shape(**values) if len(reader.problems) == before else None


def _plain(value: object) -> str:
    """The check of keys without a line in L{CHECKS}."""
    if isinstance(value, str):
        return plain_text(value)
    return plain_number(value) if isinstance(value, (int, float)) else ""


def _value(kind: Any, value: object) -> tuple[Any, str]:
    """
    The value as the schema's type, and what is wrong when it cannot be.

    @param kind: C{str}, C{int}, C{float}, C{bool}, C{tuple[str, ...]} or C{tuple[float, ...]}.
    """
    if typing.get_origin(kind) is typing.Annotated:
        kind = typing.get_args(kind)[0]  # LISTED
        if isinstance(value, list):
            made, said = _value(tuple[str, ...], value)
            if not said and any("," in one for one in made):
                said = "has a comma in an element; right would be an element for each"
            return (value if said else ",".join(made)), said
        if isinstance(value, str):
            return ",".join(part.strip() for part in value.split(",")), ""
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)[0]
        if not isinstance(value, list):
            return value, f"{_said(value)} is no list; right would be {_EXAMPLES[kind]}"
        pairs = [_value(inner, element) for element in value]
        return tuple(made for made, _ in pairs), next((said for _, said in pairs if said), "")
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value), ""
    if isinstance(value, kind) and not (kind is not bool and isinstance(value, bool)):
        return value, ""
    return value, f"{_said(value)} is no {_WORDS[kind]}; right would be {_EXAMPLES[kind]}"


_WORDS = {str: "text", int: "whole number", float: "number", bool: "truth value"}
_EXAMPLES: Mapping[Any, str] = {
    str: 'text in quotes, as in "example.org"',
    int: "a whole number without quotes, as in 10",
    float: "a number without quotes, as in 10.0",
    bool: "true or false, without quotes",
    tuple[str, ...]: 'a list, as in ["a", "b"]',
    tuple[float, ...]: "a list, as in [60, 3600]",
}


def _said(value: object) -> str:
    """A wrong value as it may be shown: short, in one line."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list"
    shown = str(value).lower() if isinstance(value, bool) else str(value)
    shown = "".join(character if character.isprintable() else "?" for character in shown[:60])
    return f'"{shown}"' if isinstance(value, str) else shown
